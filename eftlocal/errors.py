"""The exceptions that tell a user what went wrong and what to do about it.

EftError                 base of all: `message`, `hint`, `exit_code`
├── CatalogError         models.toml: unknown key, wrong type, undefined name, missing file
├── HubError             the Hub: missing repository or file, licence, network, disk full, wrong bytes
├── ModelFileError       a file that is not a usable GGUF, found before llama.cpp opens it
├── FitError             an emulator that does not fit in this machine's memory
├── ModelLoadError       llama.cpp refused a model, an adapter or a context
├── VocabularyError      the members of an emulator do not share one vocabulary
├── ViewError            a conversation that cannot be rendered for a member
├── SettingError         a sampling or run-time setting out of its range
├── RemoteError          a server that runs a model: not reachable, another engine or vocabulary, a faulty answer
│   └── WorkerError      a worker of llama.cpp's RPC: absent, busy, of another version, gone
├── ContextError         a prompt that does not fit in the context
├── TrainingError        a model that cannot be trained here, or a training that went wrong
└── DecodeError          a member failed while decoding (names the member)

Messages and hints quote files, paths and servers, so whatever is not printable is escaped in them.
"""

from eftlocal.text import printable

__all__ = [
    "CatalogError",
    "ContextError",
    "DecodeError",
    "EftError",
    "FitError",
    "HubError",
    "ModelFileError",
    "ModelLoadError",
    "RemoteError",
    "SettingError",
    "TrainingError",
    "ViewError",
    "VocabularyError",
    "WorkerError",
]


class EftError(Exception):
    """An error that fits in one or two lines: `message` says what was found, `hint` says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = printable(message)
        self.hint = hint if hint is None else printable(hint)
        super().__init__(self.message if self.hint is None else f"{self.message}\n{self.hint}")


class CatalogError(EftError):
    """A mistake in a models.toml, or a name that no models.toml defines."""


class HubError(EftError):
    """The Hub does not have a file, or refuses it, or a download could not be completed."""


class ModelFileError(EftError):
    """A file that is not a complete, readable GGUF model."""


class FitError(EftError):
    """An emulator needs more memory than this machine has free."""


class ModelLoadError(EftError):
    """llama.cpp could not load a model or an adapter, or could not create its context."""


class RemoteError(EftError):
    """A server that runs a model cannot be used: it is not there, refuses, or does not give what is needed."""


class WorkerError(RemoteError):
    """A worker of llama.cpp's RPC cannot be used: it is not there, busy, of another version, or went away."""


class VocabularyError(EftError):
    """The same token id means different text in two members."""


class ViewError(EftError):
    """A view cannot render this conversation for this member."""


class SettingError(EftError, ValueError):
    """A setting is out of its allowed range. `setting` is its name, where only the models can tell that it is wrong."""

    exit_code = 2  # wrong usage, as an unknown option is

    def __init__(self, message: str, hint: str | None = None, *, setting: str | None = None) -> None:
        super().__init__(message, hint)
        self.setting = setting


class ContextError(EftError):
    """A prompt is longer than the context. `n_tokens` and `n_ctx` are the two lengths, if they are known."""

    def __init__(
        self, message: str, hint: str | None = None, *, n_tokens: int | None = None, n_ctx: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.n_tokens = n_tokens
        self.n_ctx = n_ctx


class TrainingError(EftError):
    """A model cannot be trained on this machine, or its training went wrong."""


class DecodeError(EftError):
    """A member failed while decoding, or gave logits that are not finite."""
