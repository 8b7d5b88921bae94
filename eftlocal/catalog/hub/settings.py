"""The settings of the Hub's client, which come from the environment: its endpoint, its cache, its token."""

import os
from pathlib import Path
from typing import Final

from huggingface_hub import constants

__all__ = ["LIBRARY", "cache_folder", "endpoint", "offline_variable", "timeout", "token_source"]

LIBRARY: Final = "eftlocal"  # the name of this program in requests to the Hub


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, or the public Hub."""
    return constants.ENDPOINT


def cache_folder() -> Path:
    """The cache folder that all programs with the Hub's client share: HF_HUB_CACHE, or `hub` in HF_HOME."""
    return Path(constants.HF_HUB_CACHE)


def timeout() -> float:
    """How many seconds a request waits for the next byte before it fails: HF_HUB_DOWNLOAD_TIMEOUT."""
    return constants.HF_HUB_DOWNLOAD_TIMEOUT


def offline_variable() -> str | None:
    """The name of the environment variable that keeps the Hub's client offline; None when it is online."""
    if not constants.is_offline_mode():
        return None
    return "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"


def token_source() -> str | None:
    """Says where the token comes from, but never the token: "the variable HF_TOKEN", "the file ...". None: no token.

    The places are tried in the order in which the Hub's client looks.
    """
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    for variable in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable, "").strip():
            return f"the variable {variable}"
    file = Path(constants.HF_TOKEN_PATH)
    try:
        return f"the file {file}" if file.read_bytes().strip() else None
    except OSError:
        return None
