"""What can go wrong between here and the Hub, told in one line and a hint, in our words: never a token, never a log."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import Lock
from typing import Final

import httpx2
from huggingface_hub import errors

from eftlocal.catalog.hub.settings import endpoint, offline_variable, token_source
from eftlocal.catalog.tables import printable
from eftlocal.errors import HubError

__all__ = ["not_the_hub", "one_line", "telling"]

WORKS_OFFLINE: Final = "what was downloaded once works without a network"
GOES_ON: Final = "try again: a download goes on from where it stopped"


@contextmanager
def telling(repo: str, revision: str | None = None) -> Iterator[None]:
    """Whatever the Hub's client, the network or the disk raises about `repo`, as a HubError; the client is kept silent.

    A HubError passes as it is.
    """
    try:
        with _quiet():
            yield
    except HubError:
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL, errors.OIDCError, OSError, ValueError) as error:
        cause = error.__cause__  # where the client says only that it failed and the cache has nothing
        known = cause if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception) else error
        raise _told(known, repo, revision) from error


def not_the_hub(answer: str) -> HubError:
    """The endpoint sent `answer` in place of what was asked for."""
    return HubError(
        printable(f"{endpoint()} answers with {answer}"),
        "a proxy or a login page may stand in between: open the address in a browser, then try again",
    )


def one_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _told(error: Exception, repo: str, revision: str | None) -> HubError:
    page = f"{endpoint()}/{repo}"
    match error:
        case errors.GatedRepoError():
            source = token_source()
            login = "then `hf auth login`, or set HF_TOKEN" if source is None else f"as the account of {source}"
            return HubError(f"{repo} is gated: its licence must be accepted first", f"accept it at {page}, {login}")
        case errors.DisabledRepoError():
            return HubError(f"{repo} is disabled: the Hub gives nobody access to it", f"{page} may say why")
        case errors.RepositoryNotFoundError():
            return _no_repository(repo)
        case errors.RevisionNotFoundError():
            hint = f"{page}/tree/main shows its branches and tags; without a revision it is main"
            return HubError(f"{repo} has no revision {revision!r}", hint)
        case errors.RemoteEntryNotFoundError():
            return HubError(f"{repo} no longer has that file", f"{page}/tree/main shows what it has")
        case errors.HfHubHTTPError():
            return _status(error, repo)
        case errors.HFValidationError():
            return HubError(f"{repo!r} is no name of a repository", "a repository is owner/name")
        case errors.OfflineModeIsEnabled():
            return HubError(f"{offline_variable()} is set: nothing is asked of the Hub", f"unset it; {WORKS_OFFLINE}")
        case httpx2.RequestError():
            return _no_connection(error)
        case httpx2.InvalidURL():
            return HubError(f"{endpoint()} is no address of a Hub: {error}", "HF_ENDPOINT says so")
        case errors.FileMetadataError() | json.JSONDecodeError() | UnicodeDecodeError():
            return not_the_hub("something that is not the Hub's")
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return HubError(f"{where}{error.strerror or one_line(error)}", "HF_HOME names another folder for the cache")
        case _:
            return HubError(f"{repo}: {one_line(error)}")


def _no_repository(repo: str) -> HubError:
    source = token_source()
    private = "a private one needs `hf auth login` or HF_TOKEN" if source is None else f"{source} may give no access"
    return HubError(f"no repository {repo} at {endpoint()}, or a private one", f"check its name; {private}")


def _status(error: errors.HfHubHTTPError, repo: str) -> HubError:
    """An answer that only its status explains. The server's own text stays out: it may repeat what it was sent."""
    status, host, source = error.response.status_code, error.response.url.host, token_source()
    match status:
        case HTTPStatus.UNAUTHORIZED if source is None:  # what the Hub says of a repository that it will not show
            return _no_repository(repo)
        case HTTPStatus.UNAUTHORIZED:
            hint = "it may have run out: `hf auth login` takes a new one; most repositories need none"
            return HubError(f"{host} refuses the token of {source}", hint)
        case HTTPStatus.FORBIDDEN:
            whose = "without a token" if source is None else f"to the token of {source}"
            return HubError(f"{host} forbids {repo} {whose}", f"{endpoint()}/settings/tokens shows what a token may do")
        case HTTPStatus.TOO_MANY_REQUESTS:
            seconds = error.response.headers.get("Retry-After", "")
            wait = f"{seconds} seconds" if seconds.isdigit() else "a few minutes"
            return HubError(f"{host} was asked too often", f"try again in {wait}; logged in, more is allowed")
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return HubError(f"{host} has trouble of its own: it answers {status}", f"{GOES_ON}, later")
        case _:
            return HubError(printable(f"{host} answers {status} {error.response.reason_phrase} for {repo}"))


def _no_connection(error: httpx2.RequestError) -> HubError:
    host, reason = error.request.url.host, one_line(error)
    match error:
        case httpx2.TimeoutException():
            hint = f"{GOES_ON}; HF_HUB_DOWNLOAD_TIMEOUT=60 waits a minute"
            seconds = error.request.extensions["timeout"]["read"]
            return HubError(f"{host} does not answer: nothing came for {seconds:g} seconds", hint)
        case httpx2.ConnectError() if "CERTIFICATE" in reason:
            hint = "behind a proxy that opens connections, SSL_CERT_FILE names the file of its certificate"
            return HubError(f"{host} cannot be trusted: {reason}", hint)
        case httpx2.ConnectError() | httpx2.ProxyError() | httpx2.UnsupportedProtocol():
            return HubError(f"cannot reach {host or endpoint()}: {reason}", f"check the network; {WORKS_OFFLINE}")
        case _:
            return HubError(f"the connection to {host} broke: {reason}", GOES_ON)


# --- the client's own voice -------------------------------------------------------------------------------------------

_log = logging.getLogger("huggingface_hub")  # writes warnings to stderr by itself
_lock, _calls, _level = Lock(), 0, logging.WARNING


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning of the client's while we speak for it, on however many threads; unless HF_DEBUG or the like is set."""
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
