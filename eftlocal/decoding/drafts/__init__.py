"""Draft tokens: where they come from, how many are worth checking, and what was learned of them."""
