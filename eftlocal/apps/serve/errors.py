"""Errors as clients read them: OpenAI's error object with a status, and nothing of this machine in it."""

import json
from collections.abc import Mapping

from eftlocal.arithmetic.combine import OVERFLOW
from eftlocal.errors import ContextError, EftError, SettingError, ViewError
from eftlocal.runtime.remote.faults import BusyError

__all__ = ["NotLoadedError", "Refused", "StoppedError", "as_refused", "busy", "invalid", "one_line"]

UNTOLD = "The server could not do this; its log says why."
AWAY = "The server with the base does not answer now; this server's log says more."


class StoppedError(EftError):
    """The server stops, and with it an answer."""

    def __init__(self) -> None:
        super().__init__("The server is stopping.")


class NotLoadedError(EftError):
    """An emulator that a request names could not be loaded."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The model {name} could not be loaded; the server's log says why.")


class Refused(Exception):  # noqa: N818 - a request that is refused is not an error of the server
    """A request that is answered with an error.

    status  the HTTP status
    kind    OpenAI's `type`: invalid_request_error, authentication_error, server_error ...
    param   the field of the request that is wrong; None if it is no single field
    code    a word for programs, such as model_not_found
    more    further keys of the error object
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @property
    def body(self) -> dict[str, object]:
        """The error object."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": {**error, **self.more}}

    @property
    def text(self) -> bytes:
        """The error object as JSON."""
        return json.dumps(self.body).encode()


def one_line(error: EftError) -> str:
    """The error's message and hint as sentences on one line."""
    sentences = [text for text in (error.message, error.hint) if text]
    return " ".join(text if text.endswith((".", "?", "!")) else f"{text}." for text in sentences)


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """A request with a wrong field."""
    return Refused(400, message, param=param, code=code)


def context_exceeded(n_ctx: int, n_prompt: int, n_answer: int | None, where: str) -> Refused:
    """A prompt that does not fit, in the words that clients look for. where: "messages" or "prompt"."""
    total = n_prompt + (n_answer or 0)
    parts = f" ({n_prompt} in the {where}, {n_answer} in the completion)" if n_answer else ""
    return Refused(
        400,
        f"This model's maximum context length is {n_ctx} tokens. However, you requested {total} tokens{parts}. "
        f"Please reduce the length of the {where}{' or completion' if n_answer else ''} "
        "(context_length_exceeded).",  # LangChain looks for the code, and its client's error has only the message
        param=where,
        code="context_length_exceeded",
        more={"n_ctx": n_ctx, "n_prompt_tokens": n_prompt},
    )


def as_refused(error: EftError, where: str, n_answer: int | None = None) -> Refused:
    """What a client is told of an error of ours. Errors of the client's settings are told; others are not.

    where     "messages" or "prompt": the field with the prompt
    n_answer  the max_tokens of the request, if it has one
    """
    if isinstance(error, ContextError) and error.n_ctx is not None and error.n_tokens is not None:
        return context_exceeded(error.n_ctx, error.n_tokens, n_answer, where)
    if isinstance(error, ContextError | ViewError):
        return invalid(error.message, where)
    if isinstance(error, SettingError):
        return invalid(one_line(error), error.setting)
    if error.hint == OVERFLOW:
        return invalid(
            "The members' weights are so large that their sum overflows; choose a smaller beta or mix", "beta"
        )
    if isinstance(error, StoppedError):
        return busy(error.message, "stopping", 5)
    if isinstance(error, NotLoadedError):
        return Refused(500, error.message, kind="server_error", param="model", code="model_not_loaded")
    if isinstance(error.__cause__, BusyError):  # a member's error is raised from its server's
        return busy(AWAY, "base_away", 5)
    return Refused(500, UNTOLD, kind="server_error", code="server_error")


def busy(message: str, code: str, retry_after: int) -> Refused:
    """The server cannot take a request now; the client may try again after so many seconds."""
    headers = {"Retry-After": str(retry_after)}
    return Refused(503, message, kind="server_error", code=code, headers=headers)
