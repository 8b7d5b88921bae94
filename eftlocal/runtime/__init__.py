"""Everything about one model: its file, vocabulary, weights, KV cache and views, and where it runs."""

import os

# llama.cpp's threads wait for work by spinning, by GNU OpenMP's default for milliseconds. They then occupy cores that
# the next member needs. 30,000 turns bridge the gaps inside a decode and no more. OpenMP reads the variable once, when
# llama.cpp's library is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
