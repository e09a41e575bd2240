"""The identity that a client names as its user to the proxy: ``http://work@127.0.0.1:8080``.

A client sends user and password with each CONNECT, and with each request that is not in a tunnel:

| the client sends | the identity it names |
|---|---|
| a user and no password | the user |
| a user and a password: for mitmproxy's `proxyauth` | what follows the last ``+`` of the user, if there is one |
| what `proxyauth` accepts as it is (unless it accepts all) | none |

The name is noted at the connection itself, which outlives a reload of this package. It never changes what other hosts
get: an unknown name is told to the client in answer to its requests for the pool (`codexpool.pool.needs`).
"""

from __future__ import annotations

import binascii
from collections.abc import MutableMapping
from typing import Any, Final, Protocol

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import RegularMode, UpstreamMode

from codexpool.config.checks import SEPARATOR, name_problem
from codexpool.proxy.find_keys import carries_key

HEADER: Final = b"proxy-authorization"
INVALID: Final = "(an invalid name)"  # Stands for what may be a secret in the wrong place.
REFUSED: Final = 407

_NAMED: Final = "codexpool_named"  # the attribute of a connection


def identity_named(client: Client) -> str:
    """Return the identity that a client names; empty if none."""
    name: str = getattr(client, _NAMED, "")
    return name


def connects(flow: http.HTTPFlow) -> None:
    """Note what a CONNECT names, and take its user and password out of the flow."""
    setattr(flow.client_conn, _NAMED, _taken(flow))


def asks(flow: http.HTTPFlow) -> None:
    """Do the same for another request. Only one outside of a tunnel should have any."""
    # Asked for every request: most have no header of that length.
    has_header = any(len(name) == len(HEADER) and name.lower() == HEADER for name, _ in flow.request.headers.fields)
    if not has_header and "proxyauth" not in flow.metadata:
        return
    is_proxied = isinstance(flow.client_conn.proxy_mode, RegularMode | UpstreamMode)
    if is_proxied and not carries_key(flow.request) and (name := _taken(flow)):
        setattr(flow.client_conn, _NAMED, name)


class SocksUser(Protocol):
    """What a client of SOCKS sends, and whether it may pass."""

    client_conn: Client
    username: str
    password: str
    valid: bool


def signs_in(data: SocksUser) -> None:
    """Note what a client of SOCKS names. (It sends a user only if `proxyauth` is set.)"""
    name, is_valid = _named(data.username, data.password, data.valid)
    if is_valid and not data.valid:
        data.valid = True
        _authenticated()[data.client_conn] = data.username, data.password
    setattr(data.client_conn, _NAMED, name)


def _taken(flow: http.HTTPFlow) -> str:
    sent = flow.request.headers.pop(HEADER.decode(), "")
    given = _parsed(sent) if sent else flow.metadata.get("proxyauth")
    if given is None:
        return ""
    was_valid = flow.response is None or flow.response.status_code != REFUSED
    user, password = given
    name, is_valid = _named(user, password, was_valid)
    if is_valid and not was_valid:  # `proxyauth` has run already, and does not know of names.
        flow.response = None
        flow.metadata["proxyauth"] = _authenticated()[flow.client_conn] = user, password
    return name


def _named(user: str, password: str, is_valid: bool) -> tuple[str, bool]:
    """Return the identity named, and whether the client may pass; ``is_valid`` is what `proxyauth` has said."""
    is_checked = ctx.options.proxyauth not in (None, "", "any")
    if is_checked and is_valid:
        return "", True
    if not is_checked and not password:
        return _shown(user), is_valid
    before, _, name = user.rpartition(SEPARATOR)
    if is_checked and not (before and name and _is_accepted(before, password)):
        return "", False
    return _shown(name) if before else "", True


def _is_accepted(user: str, password: str) -> bool:
    """Return whether `proxyauth` accepts a user and password. (It may have to ask a server, which may be down.)"""
    try:
        return bool(_addon().validator(user, password))
    except Exception:
        return False


def _shown(name: str) -> str:
    if not name:
        return ""
    return name if name_problem(name) is None else INVALID


def _parsed(sent: str) -> tuple[str, str] | None:
    """Return the user and password of Basic credentials; None for anything else."""
    scheme, _, encoded = sent.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = binascii.a2b_base64(encoded).decode("utf-8", "replace").partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


def _addon() -> Any:
    return ctx.master.addons.get("proxyauth")


def _authenticated() -> MutableMapping[Client, tuple[str, str]]:
    """Return the connections whose further requests `proxyauth` lets through."""
    connections: MutableMapping[Client, tuple[str, str]] = _addon().authenticated
    return connections
