"""Tunnels: which host each is for, and whether the proxy reads it.

A client asks for a tunnel by CONNECT or SOCKS, and names a host or an address. What the gate, the relay and the path
policy go by is one name (`codexpool.protocol.hosts.name_of`), whatever the connection's address has become meanwhile:

- asked: a CONNECT names the host. It is kept here, since another addon may put an address in its place in
  ``server_connect``, and mitmproxy takes the address of a connection for the host of its requests.
- begun: the first bytes have come. A host that is none of ours is passed through unread from here on; one that was
  asked for by an address waits for the whole of its TLS greeting, which may come in several pieces.
- read: its requests go by the name, and leave for it: who forges a TLS name gets that host, not the address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http
from mitmproxy.connection import Client, Server
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.tls import parse_client_hello
from mitmproxy.proxy.mode_specs import ReverseMode

from codexpool.protocol.hosts import is_address, is_read, name_of, plain

LONGEST_GREETING: Final = 64 * 1024
"""Bytes of a TLS greeting that are waited for. Beyond, mitmproxy itself deals with the tunnel."""

TLS_HANDSHAKE: Final = 0x16
"""The first byte of a TLS connection."""


class UndecidedError(Exception):
    """The greeting of a tunnel has not come whole yet."""


class Tunnels:
    """All tunnels. ``hosts`` are those that identities are served from."""

    def __init__(self, hosts: Callable[[], frozenset[str]]) -> None:
        self._hosts = hosts
        self._asked: WeakKeyDictionary[Server, str] = WeakKeyDictionary()

    def asked(self, server: Server, host: str) -> None:
        """A CONNECT has named the host of a connection that is still to be made."""
        if is_address(host):
            self._asked.pop(server, None)  # A client may send another CONNECT after one that has failed.
        else:
            self._asked[server] = plain(host)

    def opens(self, server: Server, host: str) -> str:
        """A connection is about to be made to a host or address; return the name that it was asked for by, if any."""
        if not is_address(host):
            self._asked.setdefault(server, plain(host))
        return self._asked.get(server, host)

    def name(self, flow: http.HTTPFlow) -> None:
        """Have a request go by the name of the host that its tunnel is for, if that is a host we read."""
        request, server = flow.request, flow.server_conn
        host, name = request.data.host, plain(request.data.host)
        if server.address is not None and server.address[0] == host:
            name = self._name(server, flow.client_conn, host, flow.client_conn.sni)
        if name != host and is_read(name, self._hosts()):
            request.data.host = name  # and not `request.host`, which would edit the client's headers as well

    def is_known(self, context: Context) -> bool:
        """Return whether a connection is for a host that is read in any case, or for none yet."""
        server = context.server
        return server.address is None or is_read(
            self._name(server, context.client, server.address[0], None), self._hosts()
        )

    def pass_through(self, asked: layer.NextLayer, reads_all: bool) -> None:
        """Have a tunnel passed through unread, of which mitmproxy asks what is in it, if its host is not one we read.

        With ``reads_all`` mitmproxy decides on those. Raises UndecidedError where more has to come first.
        """
        context = asked.context
        if asked.layer is not None or not _begins(context):
            return
        server = context.server
        host = server.address[0] if server.address is not None else ""
        name = self._name(server, context.client, host, None)
        if is_address(name):
            if reads_all:
                return
            data = asked.data_client()
            if len(data) > LONGEST_GREETING:
                return
            name = name_of(name, _named_in(data))
        elif is_read(name, self._hosts()):
            # Whose certificate is asked for, and verified: a client's other name (SNI) must not count.
            server.sni = server.sni or name
            return
        if not reads_all and not is_read(name, self._hosts()):
            asked.layer = layers.TCPLayer(context, ignore=not ctx.options.show_ignored_hosts)

    def _name(self, server: Server, client: Client, host: str, sni: str | None) -> str:
        if isinstance(client.proxy_mode, ReverseMode):
            return plain(client.proxy_mode.address[0])  # Of a reverse proxy TLS names the proxy itself.
        return name_of(self._asked.get(server, host), sni)


def _begins(context: Context) -> bool:
    """Whether a tunnel begins here: its server is known, and nothing has been unwrapped yet."""
    outer = context.layers[0], context.layers[-1]
    proxies = modes.HttpProxy | modes.HttpUpstreamProxy | modes.ReverseProxy
    return (
        context.client.transport_protocol == "tcp"
        and context.server.address is not None
        and not isinstance(outer[0], modes.ReverseProxy)
        and not isinstance(outer[1], proxies | layers.ClientTLSLayer)
    )


def _named_in(data: bytes) -> str | None:
    """The name in a TLS greeting; None where there is none. Raises UndecidedError where it is not whole yet."""
    if len(data) < 3 and data[:1] == bytes([TLS_HANDSHAKE]):
        raise UndecidedError
    if not starts_like_tls_record(data):
        return None
    try:
        greeting = parse_client_hello(data)
    except ValueError:
        return None
    if greeting is None:
        raise UndecidedError
    return greeting.sni
