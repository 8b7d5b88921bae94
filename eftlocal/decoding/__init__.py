"""Decoding: turns prepared answers into text. The scheduler and its step, drafts, constraints and streaming."""
