"""Constrained output: allows only tokens that keep an answer valid under a schema, grammar, regex or choice."""
