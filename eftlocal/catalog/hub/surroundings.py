"""Checks the environment variables with which requests reach the network: proxies and certificates.

httpx2 reads HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, each also in lower case, which wins; and SSL_CERT_FILE,
else SSL_CERT_DIR. Its own errors do not name the variable that is wrong. It skips what is wrong in NO_PROXY.
"""

import os
import re
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpx2
from huggingface_hub import get_session

from eftlocal.errors import HubError

__all__ = ["proxy_of", "session", "trusted"]

SYSTEM: Final = "the proxy in the system's settings"  # macOS and Windows have such settings


def session() -> httpx2.Client:
    """Returns the Hub's client's session, which everything here asks the network with.

    Raises HubError when a variable of the surroundings is wrong. The Hub's client would use the same variables, so
    this is called before each of its own requests, too.
    """
    proxies = getproxies()
    if "*" not in map(str.strip, proxies.get("no", "").split(",")):
        for scheme in ("http", "https", "all"):
            if address := proxies.get(scheme):
                _check_proxy(_variable(scheme, address), address)
    _check_certificates()
    return get_session()


def proxy_of(url: httpx2.URL) -> str | None:
    """Returns what names the proxy that requests to `url` go through: a variable; None when there is no proxy."""
    proxies = getproxies()
    found = next((scheme for scheme in (url.scheme, "all") if proxies.get(scheme)), None)
    return None if found is None or proxy_bypass(url.host) else _variable(found, proxies[found])


def trusted() -> str | None:
    """Returns the variable that says which certificates are trusted; None when the system's are."""
    return next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), None)


def _variable(scheme: str, value: str) -> str:
    """Returns the variable that holds this value for HTTP_PROXY, HTTPS_PROXY or ALL_PROXY."""
    name = f"{scheme}_proxy"
    return next((each for each in (name, name.upper()) if os.environ.get(each) == value), SYSTEM)


def _check_proxy(variable: str, address: str) -> None:
    """Raises HubError when `address` is not that of a proxy. The message leaves out a password that is in it."""
    hint = "write it as http://HOST:PORT or socks5h://HOST:PORT, or unset it"
    shown = re.sub(r"//.*@", "//...@", address) if "//" in address else re.sub(r".*@", "...@", address)
    try:
        url = httpx2.Proxy(address if "://" in address else f"http://{address}").url
    except (httpx2.InvalidURL, ValueError) as error:  # its text may show a part of the password
        raise HubError(f"{variable} is {shown}, which is not the address of a proxy", hint) from error
    if not re.fullmatch(r"[^%\s]+", url.host) or (url.port is not None and not 0 < url.port < 2**16):
        raise HubError(f"{variable} is {shown}, which is not the address of a proxy", hint)
    if url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise HubError(f"{variable} is a SOCKS proxy, which needs the package socksio", "pip install socksio")


def _check_certificates() -> None:
    variable = trusted()
    if variable is None:
        return
    value = os.environ[variable]
    hint = "correct it, or unset it: then the system's certificates are trusted"
    if variable == "SSL_CERT_DIR":
        if not Path(value).is_dir():
            raise HubError(f"{variable} is {value}, which is not a folder", hint)
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except ssl.SSLError as error:
        raise HubError(f"{variable} is {value}, which holds no certificates", hint) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise HubError(f"{variable} is {value}, which cannot be read: {reason}", hint) from error
