"""Models that run elsewhere, behind HTTP: connections, the engines' dialects, and a context like llama.cpp's."""
