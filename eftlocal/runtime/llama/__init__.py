"""One model through llama.cpp: the library itself, its devices, a model's weights and a member's KV cache.

Nothing outside this package imports llama_cpp.
"""
