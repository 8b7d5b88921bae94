"""The token that requests to the Hub carry, and whether the Hub answers at all."""

import re
from typing import Final

from huggingface_hub import constants, get_session, get_token, hf_raise_for_status

from eftlocal.catalog.hub.failures import telling
from eftlocal.catalog.hub.settings import endpoint, token_source
from eftlocal.errors import HubError

__all__ = ["reachable", "token", "token_problem"]

PATIENCE: Final = 3.0  # seconds that `reachable` waits


def token() -> str | bool:
    """The token that requests carry; False: none. A HubError where it cannot stand in a header.

    The HTTP library would refuse such a token too, but with the token in its message.
    """
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or not (found := get_token()):
        return False
    if not re.fullmatch(r"[\x21-\x7e]+", found):
        hint = "copy it once more, or `hf auth login`"
        raise HubError(f"the token of {token_source()} holds characters that no token has", hint)
    return found


def token_problem() -> str | None:
    """Why no request can carry the token; None where one can, or there is none."""
    try:
        token()
    except HubError as error:
        return error.message
    return None


def reachable() -> str | None:
    """None where the Hub answers, else why not, in one phrase. No token is sent."""
    try:
        with telling("the Hub"):
            url = f"{endpoint()}/api/models"
            response = get_session().get(url, params={"limit": 1}, timeout=PATIENCE, follow_redirects=True)
            if response.is_server_error:
                hf_raise_for_status(response)
            response.json()  # a private endpoint may answer 401 here, a login page cannot answer JSON
    except HubError as error:
        return error.message
    return None
