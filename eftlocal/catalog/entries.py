"""The entries of a models.toml as frozen dataclasses: models, rewards, emulators, and the views of their roles."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.catalog.files import File
from eftlocal.catalog.server import Server

__all__ = ["DEFAULT_VIEWS", "ROLES", "Bias", "Emulator", "Lora", "Model", "Reward", "View"]

ROLES: Final = ("base", "tuned", "reference")


@dataclass(frozen=True, slots=True)
class View:
    """How a conversation becomes tokens for one member.

    kind      `auto` is the chat template, or the transcript of a model that has none; only the command line makes it
    role      whose chat template a `chat` view uses: base, tuned or reference; None: the member's own
    template  the Jinja template of a `template` view
    """

    kind: Literal["chat", "transcript", "raw", "template", "auto"]
    role: str | None = None
    template: str | None = None


DEFAULT_VIEWS: Final = {"base": View("transcript"), "tuned": View("chat"), "reference": View("transcript")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA adapter's GGUF file, and the scale with which it is added to the weights."""

    file: File
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model: a GGUF file (of a split model, its first shard), perhaps with a LoRA adapter; or one on a server.

    gpu_layers  how many layers to offload; None: all, if this build of llama.cpp can offload
    rpc         the workers of llama.cpp's RPC that hold those layers instead of a device of this machine
    insecure    whether those may be at addresses of a network
    """

    name: str
    file: File | Server
    lora: Lora | None = None
    gpu_layers: int | None = None
    rpc: tuple[Endpoint, ...] = ()
    insecure: bool = False
    source: Path | None = field(default=None, compare=False)  # the models.toml that defines it, for errors

    @property
    def files(self) -> tuple[File, ...]:
        """The file of the weights and, if there is an adapter, its file; none of a model on a server."""
        if isinstance(self.file, Server):
            return ()
        return (self.file, *([self.lora.file] if self.lora else []))

    @property
    def server(self) -> Server | None:
        """Where the model runs, if that is a server."""
        return self.file if isinstance(self.file, Server) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """What a reward adds to some tokens besides beta x (log p_tuned - log p_reference), in nats.

    end            to the tokens that end an answer
    unseen         to the tokens that its fine-tuning data never showed
    unseen_tokens  the file that lists those (catalog.token_ids); None where `unseen` is 0
    """

    end: float = 0.0
    unseen: float = 0.0
    unseen_tokens: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One reward: beta x (log p_tuned - log p_reference) + bias.

    `views` and `system` map a role (tuned, reference) to its view and system text; a role that is not in them has the
    emulator's.
    """

    name: str
    tuned: str
    reference: str
    beta: float = 1.0
    views: Mapping[str, View] = field(default_factory=dict)
    system: Mapping[str, str] = field(default_factory=dict)
    bias: Bias | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A base model with its rewards, and the default settings to run them with.

    `example` is what the chat's first line suggests to ask: `How large is Lyon?`
    """

    name: str
    base: str
    description: str = ""
    rewards: tuple[Reward, ...] = ()
    views: Mapping[str, View] = field(default_factory=lambda: dict(DEFAULT_VIEWS))
    system: str | None = None
    template_args: Mapping[str, object] = field(default_factory=dict)
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    context: int | None = None
    special_tokens_differ: bool = False
    stop: tuple[str, ...] = ()
    example: str | None = None
    source: Path | None = field(default=None, compare=False)  # the models.toml that defines it, for errors

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all its models, the base first. Each name is there once."""
        pairs = (name for reward in self.rewards for name in (reward.tuned, reward.reference))
        return tuple(dict.fromkeys((self.base, *pairs)))

    @property
    def words(self) -> str:
        """The words that name it on a command line: its name, or `--base ...` when no models.toml defines it."""
        if self.source is not None:
            return shlex.quote(self.name)
        pair = [("--tuned", self.rewards[0].tuned), ("--reference", self.rewards[0].reference)] if self.rewards else []
        return " ".join(f"{option} {shlex.quote(model)}" for option, model in [("--base", self.base), *pair])
