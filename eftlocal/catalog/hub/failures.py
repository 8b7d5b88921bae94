"""Turns each failure of the Hub, the network or the cache into a HubError of one line and a hint.

The words are our own: a message never shows a token or a log of the Hub's client.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import Lock
from typing import Final

import httpx2
from huggingface_hub import errors

from eftlocal.catalog.hub import surroundings
from eftlocal.catalog.hub.settings import endpoint, offline_variable, token_source
from eftlocal.errors import HubError

__all__ = ["not_the_hub", "one_line", "telling"]

WORKS_OFFLINE: Final = "models that are already downloaded work without a network"
RESUMES: Final = "a download resumes where it stopped"


@contextmanager
def telling(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turns what the Hub's client, the network or the disk raises about `repo` into a HubError; a HubError passes.

    The client writes no log meanwhile.
    """
    try:
        with _quiet():
            yield
    except HubError:
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL, errors.OIDCError, OSError, ValueError) as error:
        cause = error.__cause__  # this client's error only says that it failed and that the cache has no such file
        known = cause if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception) else error
        raise _told(known, repo, revision) from error


def not_the_hub(answer: str) -> HubError:
    """Returns the error for an endpoint that answers with something else; `answer` says with what."""
    return HubError(
        f"{endpoint()} answers with {answer}",
        "a proxy or a login page may stand in between: open the address in a browser, then try again",
    )


def one_line(error: Exception) -> str:
    """Returns the first line of the error's text, or its type when there is no text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _told(error: Exception, repo: str, revision: str | None) -> HubError:
    page = f"{endpoint()}/{repo}"
    match error:
        case errors.GatedRepoError():
            source = token_source()
            account = f"with the account of the token of {source}"
            login = "then run `hf auth login` or set HF_TOKEN" if source is None else account
            return HubError(f"{repo} is gated: its licence must be accepted first", f"accept it at {page}, {login}")
        case errors.DisabledRepoError():
            return HubError(f"{repo} is disabled: the Hub gives nobody access to it", f"{page} may say why")
        case errors.RepositoryNotFoundError():
            return _no_repository(repo)
        case errors.RevisionNotFoundError():
            hint = f"{page}/tree/main shows its branches and tags; without a revision, main is used"
            return HubError(f"{repo} has no revision {revision!r}", hint)
        case errors.RemoteEntryNotFoundError():
            return HubError(f"{repo} no longer has that file", f"{page}/tree/main shows what it has")
        case errors.HfHubHTTPError():
            return _status(error, repo)
        case errors.HFValidationError():
            return HubError(f"{repo!r} is not the name of a repository", "write it as owner/name")
        case errors.OfflineModeIsEnabled():
            problem = f"{offline_variable()} is set, so no request is sent to the Hub"
            return HubError(problem, f"unset it; {WORKS_OFFLINE}")
        case httpx2.RequestError():
            return _no_connection(error)
        case httpx2.InvalidURL():
            return HubError(f"{endpoint()} is not a valid address: {error}", "correct HF_ENDPOINT, or unset it")
        case errors.FileMetadataError() | json.JSONDecodeError() | UnicodeDecodeError():
            return not_the_hub("something that is not from the Hub")
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return HubError(f"{where}{error.strerror or one_line(error)}", "set HF_HOME to put the cache elsewhere")
        case _:
            return HubError(f"{repo}: {one_line(error)}")


def _no_repository(repo: str) -> HubError:
    source = token_source()
    login = "if it is private, run `hf auth login` or set HF_TOKEN"
    access = login if source is None else f"the token of {source} may not give access"
    return HubError(f"there is no repository {repo} at {endpoint()}, or it is private", f"check its name; {access}")


def _status(error: errors.HfHubHTTPError, repo: str) -> HubError:
    """Returns the error for an answer that only its status explains.

    The server's text is left out, because it may repeat the token that was sent.
    """
    status, host, source = error.response.status_code, error.response.url.host, token_source()
    match status:
        case HTTPStatus.UNAUTHORIZED if source is None:  # the Hub's answer for a missing and for a private repository
            return _no_repository(repo)
        case HTTPStatus.UNAUTHORIZED:
            hint = "it may have expired: `hf auth login` sets a new one; most repositories need none"
            return HubError(f"{host} refuses the token of {source}", hint)
        case HTTPStatus.FORBIDDEN:
            how = "without a token" if source is None else f"with the token of {source}"
            hint = f"{endpoint()}/settings/tokens shows what a token may do"
            return HubError(f"{host} refuses access to {repo} {how}", hint)
        case HTTPStatus.TOO_MANY_REQUESTS:
            seconds = error.response.headers.get("Retry-After", "")
            wait = f"{seconds} seconds" if seconds.isdigit() else "a few minutes"
            return HubError(f"{host} got too many requests", f"try again in {wait}; a login allows more requests")
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return HubError(f"{host} has a problem: it answers {status}", f"try again later: {RESUMES}")
        case _:
            return HubError(f"{host} answers {status} {error.response.reason_phrase} for {repo}")


def _no_connection(error: httpx2.RequestError) -> HubError:
    host, reason = error.request.url.host, one_line(error)
    proxy = surroundings.proxy_of(error.request.url)
    through = "" if proxy is None else f" through {proxy}"
    check = "check the network" if proxy is None else f"check {proxy} and the network"
    match error:
        case httpx2.TimeoutException():
            hint = f"try again: {RESUMES}; with HF_HUB_DOWNLOAD_TIMEOUT=60 it waits a minute"
            seconds = error.request.extensions["timeout"]["read"]
            return HubError(f"{host} does not answer: nothing was received for {seconds:g} seconds", hint)
        case httpx2.ConnectError() if "CERTIFICATE" in reason:
            hint = "if a proxy decrypts your connections, set SSL_CERT_FILE to the file of its certificate"
            if variable := surroundings.trusted():
                hint = f"{variable} says which certificates are trusted: correct it, or unset it"
            return HubError(f"the certificate of {host} is not trusted: {reason}", hint)
        case httpx2.ConnectError() | httpx2.ProxyError() | httpx2.UnsupportedProtocol():
            return HubError(f"cannot reach {host or endpoint()}{through}: {reason}", f"{check}; {WORKS_OFFLINE}")
        case _:
            return HubError(f"the connection to {host} broke: {reason}", f"try again: {RESUMES}")


# --- the log of the Hub's client --------------------------------------------------------------------------------------

_log = logging.getLogger("huggingface_hub")  # it writes its warnings to stderr
_lock, _calls, _level = Lock(), 0, logging.WARNING


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the client's warnings off stderr while any thread is in this block.

    A level below WARNING stays as it is: the user asked for the log, as with HF_DEBUG.
    """
    global _calls, _level
    with _lock:
        if _calls == 0:
            _level = _log.level
            if _level >= logging.WARNING:
                _log.setLevel(logging.CRITICAL)
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1
            if _calls == 0:
                _log.setLevel(_level)
