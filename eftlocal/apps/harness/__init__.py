"""Emulators in the harnesses that researchers use: lm-evaluation-harness and Inspect."""
