"""What a member is: the model that it runs, and where that model is if it is not on this machine."""

from dataclasses import dataclass
from pathlib import Path

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.remote.link import Link

__all__ = ["MemberSpec", "Remote"]


@dataclass(frozen=True, slots=True)
class Remote:
    """A model on a server. `vocabulary`: the header of a member on this machine, whose tokens are the same."""

    link: Link
    vocabulary: Header


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """The model of one member.

    name        as errors show it: "MODEL (ROLE)"
    header      of its GGUF file
    lora        its LoRA adapter as (file, scale); None if it has no adapter
    gpu_layers  the wish in the catalogue; the plan says where the layers really run
    model       its name in the catalogue
    remote      where it runs; None: on this machine
    rpc         workers that hold layers of it, and a child process the rest; (): the child alone; None: this process
    """

    name: str
    header: Header
    lora: tuple[Path, float] | None = None
    gpu_layers: int | None = None
    model: str = ""
    remote: Remote | None = None
    rpc: tuple[Endpoint, ...] | None = None
