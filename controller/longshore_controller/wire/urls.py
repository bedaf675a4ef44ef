"""PURE. Which URLs the service may be asked to call, and which addresses are nobody's own network."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_URL_BYTES = 2_000

_INNER = (ipaddress.ip_network("64:ff9b::/32"), ipaddress.ip_network("2002::/16"))
"""Of IPv6, where an IPv4 address lies inside that may be anybody's."""


class Target(NamedTuple):
    """Where a URL leads: what is connected to, and what is asked for there."""

    secure: bool
    host: str
    port: int
    path: str
    """With its query."""


def target_of(url: str, *, private: bool) -> Target:
    """ValueError: what is wrong with it, in words. ``private``: it may name an address of this network."""
    if len(url.encode()) > MAX_URL_BYTES:
        raise ValueError(f"at most {MAX_URL_BYTES:,} bytes, got {len(url.encode()):,}")
    if not url.isascii() or not url.isprintable() or any(c in url for c in ' "<>\\^`{|}'):
        raise ValueError(f"a URL of printable ASCII (others as %XX), got {url[:200]!r}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"http://HOST/… or https://HOST/…, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a name or a password, which everybody who sees the batch would read")
    if port == 0:
        raise ValueError(f"a port from 1 to 65535, got {url!r}")
    if not private and _is_address(host) and not is_public(host):
        raise ValueError(f"{host} is an address of this machine or of a private network")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "https", host, port or (443 if parts.scheme == "https" else 80), path)


def is_public(address: str) -> bool:
    """Neither loopback, link-local, private, multicast nor reserved, also not inside of IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in network for network in _INNER):
            return False
    return ip.is_global and not ip.is_multicast


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
