"""One model: its file, its vocabulary, its weights and KV cache, and how a conversation becomes its tokens."""

import os

# llama.cpp's threads wait for work in a loop, by GNU OpenMP's default for milliseconds: on cores that the next member
# needs. This many turns bridge the gaps within a decode and no more. Read once, when llama.cpp's library is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
