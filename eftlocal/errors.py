"""The one exception tree: every mistake that a user can make or meet, with what to do about it.

EftError                 base of all; `message`, `hint`, `exit_code`
├── CatalogError         models.toml: unknown key, wrong type, undefined name, missing file
├── HubError             the Hub: no such repository or file, no licence, no network, no room, other bytes than expected
├── ModelFileError       a file that is no usable GGUF, found before llama.cpp sees it
├── FitError             an emulator that does not fit in this machine's memory
├── ModelLoadError       llama.cpp refused a model, an adapter or a context
├── VocabularyError      the members of an emulator do not share one vocabulary
├── ViewError            a conversation that cannot be rendered for a member
├── SettingError         a sampling or run-time setting out of its range
├── ContextError         a prompt that does not fit in the context
└── DecodeError          a member failed while decoding (names the member)
"""

__all__ = [
    "CatalogError",
    "ContextError",
    "DecodeError",
    "EftError",
    "FitError",
    "HubError",
    "ModelFileError",
    "ModelLoadError",
    "SettingError",
    "ViewError",
    "VocabularyError",
]


class EftError(Exception):
    """An error told in one or two lines: `message` says what was found, `hint` what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n{hint}")
        self.message = message
        self.hint = hint


class CatalogError(EftError):
    """A mistake in a models.toml, or a name that no models.toml defines."""


class HubError(EftError):
    """What the Hub does not have or does not give, or a download that could not be made whole."""


class ModelFileError(EftError):
    """A file that is not a whole, readable GGUF model."""


class FitError(EftError):
    """An emulator that needs more memory than is free."""


class ModelLoadError(EftError):
    """llama.cpp could not load a model or an adapter, or could not create its context."""


class VocabularyError(EftError):
    """Members whose token ids do not mean the same text."""


class ViewError(EftError):
    """A view that cannot render this conversation for this member."""


class SettingError(EftError, ValueError):
    """A setting out of its allowed range."""


class ContextError(EftError):
    """A prompt longer than the context."""


class DecodeError(EftError):
    """A member failed while decoding, or gave logits that are no numbers."""
