"""llama.cpp's RPC: workers on other machines hold layers of a model that this machine computes with."""
