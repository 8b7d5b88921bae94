"""Sequences x members: each member's KV cache is brought up to the tokens that a sequence has."""
