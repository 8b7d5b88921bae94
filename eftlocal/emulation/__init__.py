"""The heart: many models decode as one."""
