"""Draft tokens for speculative decoding: where they come from, and how many are worth checking."""
