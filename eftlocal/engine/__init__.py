"""The engine: runs all members in step, so that each member's KV cache holds the tokens of each sequence."""
