"""Tests of eftlocal/runtime/child."""
