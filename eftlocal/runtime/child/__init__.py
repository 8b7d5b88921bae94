"""A model whose weights are in a child process, so that what ends llama.cpp there does not end this process."""
