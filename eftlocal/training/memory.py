"""How much memory training takes, from the sizes of a model alone: before anything is read."""

from collections.abc import Iterable
from dataclasses import dataclass

from eftlocal.runtime.gguf_header import Header
from eftlocal.training.shape import Shape

__all__ = ["Estimate", "Way", "estimate", "ways"]

FLOAT = 4
COPIES = 5  # of what is trained: itself, its gradient, two moments, and the best so far
LOGITS = 15  # copies of a row of logits
LOGITS_GPU = 6  # the same on a GPU, whose memory torch uses less wastefully
FIXED = 2  # more of them with stored rows of others
PROGRAM = 300_000_000  # torch, llama.cpp and numpy; on a GPU, its kernels and the libraries' buffers


@dataclass(frozen=True, slots=True)
class Way:
    """How a step is computed.

    fed           tokens that are fed at once
    checkpointed  whether layers are computed again for the gradient
    half          whether they are computed in bfloat16 (precision.py), which takes about the same memory
    """

    fed: int
    checkpointed: bool
    half: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes: of the weights in float32, of what is trained with its copies, and of one step's intermediate results."""

    weights: int
    trained: int
    step: int

    @property
    def total(self) -> int:
        """On the device that trains."""
        return PROGRAM + self.weights + self.trained + self.step

    @property
    def host(self) -> int:
        """On the CPU beside a GPU that trains: the weights as they were read, and a checkpoint while it is written."""
        return PROGRAM + max(self.weights, self.trained)


def ways(length: int, *, gpu: bool = False) -> Iterable[Way]:
    """Ways to compute a step for examples of at most `length` tokens, the fastest first.

    A GPU is fed more at once: on an H100, a small model's step takes the time that its many kernels take to start.
    """
    for fed in (8192, 4096, 2048, 1024, 512, 256) if gpu else (1024, 512, 256):
        if fed >= length or fed == 1024:
            yield Way(max(fed, length), False)
    yield Way(max(256, length), True)


def estimate(
    shape: Shape, header: Header, way: Way, *, rank: int | None, share: float, fixed: bool = False, gpu: bool = False
) -> Estimate:
    """The memory of a training.

    rank   of an adapter; None for copies of all tensors
    share  of the tokens that is trained, and has a row of logits
    fixed  whether the loss is the emulator's, with stored rows of others
    gpu    whether a GPU trains

    The factors were fitted to SmolLM2-135M, where the process took 3.6 GB (1,024 tokens), 2.2 GB (512) and 2.4 GB
    (1,024, checkpointed), with half of the tokens trained, and 3.7 GB with stored rows. The estimates are 2 to 6 %
    above; with layers in bfloat16, which took 3.2 GB, 15 %. On an H100 torch took 2.5 to 2.7 GB, and the estimates are
    11 to 13 % above.
    """
    sizes = {tensor.name: tensor.shape for tensor in header.tensors}
    weights = sum(_n(size) for size in sizes.values())
    inside = [size for name, size in sizes.items() if name.startswith("blk.")]
    adapter = sum((rank or 0) * (size[0] + size[1]) for size in inside if len(size) == 2)
    trained = weights if rank is None else adapter
    ffn = sizes["blk.0.ffn_up.weight"][1]
    layer = 7 * max(shape.width, shape.heads * shape.head) + 4 * ffn
    kept = shape.layers * shape.width + layer if way.checkpointed else shape.layers * layer
    copies = (LOGITS_GPU if gpu else LOGITS) + (FIXED if fixed else 0)
    rows = round(way.fed * share) * sizes["token_embd.weight"][1] * copies
    return Estimate(FLOAT * weights, FLOAT * COPIES * trained, FLOAT * (way.fed * kept + rows))


def _n(size: tuple[int, ...]) -> int:
    n = 1
    for part in size:
        n *= part
    return n
