"""What this machine's torch is, and how many threads it computes with."""

import torch

__all__ = ["use_threads", "version"]


def use_threads(n: int) -> None:
    """Lets torch compute with `n` threads. Results are the same to the byte only for the same number."""
    torch.set_num_threads(n)


def version() -> str:
    """The version of torch, with what it was built for: 2.13.0+cpu."""
    return str(torch.__version__)
