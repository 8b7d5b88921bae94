"""What the client of the Hub is set to: its endpoint, its cache, whose token it sends. The environment says it."""

import os
from pathlib import Path
from typing import Final

from huggingface_hub import constants

__all__ = ["LIBRARY", "cache_folder", "endpoint", "offline_variable", "timeout", "token_source"]

LIBRARY: Final = "eftlocal"  # how requests name us to the Hub


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, or the public one."""
    return constants.ENDPOINT


def cache_folder() -> Path:
    """The cache that every program of the Hub's client shares: HF_HUB_CACHE, or `hub` in HF_HOME."""
    return Path(constants.HF_HUB_CACHE)


def timeout() -> float:
    """Seconds without a byte until a request counts as dead: HF_HUB_DOWNLOAD_TIMEOUT."""
    return constants.HF_HUB_DOWNLOAD_TIMEOUT


def offline_variable() -> str | None:
    """The variable that keeps the Hub's client off the network, if one does."""
    if not constants.is_offline_mode():
        return None
    return "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"


def token_source() -> str | None:
    """Where the token that requests carry comes from, in the order that the Hub's client looks; never the token."""
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    for variable in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable, "").strip():
            return f"the variable {variable}"
    file = Path(constants.HF_TOKEN_PATH)
    try:
        return f"the file {file}" if file.read_text().strip() else None
    except OSError:
        return None
