"""The proxy between codexpool and the backend, such as a company's: ``--via URL``, or ``CODEXPOOL_UPSTREAM_PROXY``.

``HTTPS_PROXY`` is not used: in the shell of a client it is the pool's own proxy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from codexpool.common.addresses import is_loopback

VARIABLE: Final = "CODEXPOOL_UPSTREAM_PROXY"
FORM: Final = "use http://USER:PASSWORD@HOST:PORT"
PORTS: Final = {"http": 80, "https": 443}

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """A proxy; ``auth`` is ``user:password`` as it is sent, empty for none."""

    scheme: str
    host: str
    port: int
    auth: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return its host and port: what may be shown."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return its URL, which contains the password."""
        user, colon, password = self.auth.partition(":")
        credentials = f"{quote(user, safe='')}{colon}{quote(password, safe='')}@" if self.auth else ""
        return f"{self.scheme}://{credentials}{self}"


def parse(text: str, where: str) -> UpstreamProxy:
    """Parse a URL. Raises ValueError, which names ``where`` and repeats nothing of the URL.

    User and password may be percent-encoded; if they are not, any characters but ``%`` and a ``:`` in the user do.
    """
    whole = text.strip()
    scheme, rest = found.groups() if (found := _SCHEME.fullmatch(whole)) is not None else ("http", whole)
    scheme = scheme.lower()
    if scheme.startswith("socks"):
        raise ValueError(f"{where}: SOCKS is not supported; name the company's HTTP proxy, such as http://HOST:PORT")
    # The last @: a password may contain others, and what else separates the parts of a URL.
    credentials, at, place = rest.rpartition("@")
    try:
        url = urlsplit(f"//{place}")
        default = PORTS[scheme]  # An unknown scheme is refused, also with a port.
        host, port = url.hostname or "", url.port or default
    except (ValueError, KeyError):
        host, port = "", 0
    try:
        credentials.encode()  # An environment may have any bytes.
        user, _, password = (unquote(part, errors="strict") for part in credentials.partition(":"))
    except UnicodeError:  # Its text would repeat some of the password.
        raise ValueError(f"{where}: user and password must be UTF-8, also where they are percent-encoded") from None
    is_place = host.isascii() and host.isprintable() and " " not in host and place.rstrip("/") == url.netloc
    if not host or not is_place or (at and not user):
        raise ValueError(f"{where}: not the URL of an HTTP proxy; {FORM}")
    if ":" in user:
        raise ValueError(f"{where}: a user name with a colon cannot be sent to a proxy")
    return UpstreamProxy(scheme, host, port, f"{user}:{password}" if at else "")


def of_environ(environ: Mapping[str, str]) -> UpstreamProxy | None:
    """Return the proxy that `VARIABLE` names, if it is set. Raises ValueError."""
    text = environ.get(VARIABLE, "").strip()
    return parse(text, VARIABLE) if text else None


def no_proxy(environ: Mapping[str, str]) -> str:
    """Return the hosts that are reached without the proxy."""
    return environ.get("NO_PROXY") or environ.get("no_proxy", "")


def is_direct(host: str, excluded: str) -> bool:
    """Return whether a host is reached without the proxy: this machine always, others if ``excluded`` names them.

    ``excluded`` is what ``NO_PROXY`` says: ``*``, addresses, networks, and hosts, which include their subdomains.
    """
    if is_loopback(host):
        return True
    for entry in (part.strip().lower() for part in excluded.split(",")):
        if entry == "*" or (entry and _excludes(entry, host.lower())):
            return True
    return False


def _excludes(entry: str, host: str) -> bool:
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:  # One of them is a name.
        return f".{host}".endswith(f".{entry.removeprefix('*').removeprefix('.')}")
