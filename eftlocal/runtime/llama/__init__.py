"""Runs one model with llama.cpp: the library, its devices, a model's weights and a member's KV cache.

No other package imports llama_cpp.
"""
