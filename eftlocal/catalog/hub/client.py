"""The token that is sent to the Hub, and the check whether the Hub answers."""

import re
from typing import Final

from huggingface_hub import constants, get_token, hf_raise_for_status

from eftlocal.catalog.hub.failures import telling
from eftlocal.catalog.hub.settings import endpoint, token_source
from eftlocal.catalog.hub.surroundings import session
from eftlocal.errors import HubError

__all__ = ["reachable", "token", "token_problem"]

PATIENCE: Final = 3.0  # seconds that `reachable` waits


def token() -> str | bool:
    """Returns the token that requests send; False for none. Raises HubError when it cannot be read or sent in a header.

    The HTTP library would refuse such a token too, but its message would show the token.
    """
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return False
    try:
        found = get_token()
    except NotADirectoryError:  # the home folder is not a folder, as for many services
        return False
    except (OSError, ValueError) as error:  # without permission, or not text
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        hint = "correct the file, or run `hf auth login`"
        raise HubError(f"the token in {constants.HF_TOKEN_PATH} cannot be read: {reason}", hint) from error
    if not found:
        return False
    if not re.fullmatch(r"[\x21-\x7e]+", found):
        hint = "copy it again, or run `hf auth login`"
        raise HubError(f"the token of {token_source()} contains characters that a token cannot have", hint)
    return found


def token_problem() -> str | None:
    """Returns why requests cannot send the token; None when they can, or when there is no token."""
    try:
        token()
    except HubError as error:
        return error.message
    return None


def reachable() -> str | None:
    """Returns None when the Hub answers, or else one phrase that says why not. No token is sent."""
    try:
        with telling("the Hub"):
            url = f"{endpoint()}/api/models"
            response = session().get(url, params={"limit": 1}, timeout=PATIENCE, follow_redirects=True)
            if response.is_server_error:
                hf_raise_for_status(response)
            response.json()  # a private endpoint may answer 401 with JSON; a login page does not answer with JSON
    except HubError as error:
        return error.message
    return None
