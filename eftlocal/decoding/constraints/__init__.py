"""Constrained output: which tokens may follow, so that an answer has the shape that was asked for."""
