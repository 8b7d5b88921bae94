"""Whether an address is this machine: what is sent there does not leave it."""

import ipaddress

__all__ = ["is_here"]


def is_here(host: str) -> bool:
    """Whether a host is this machine by itself, which may also be where a tunnel begins."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
