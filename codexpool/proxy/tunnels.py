"""Tunnels: which host each is for, and whether the proxy reads it.

A client asks for a tunnel by CONNECT or SOCKS, with a host or an address. The gate and the path policy use one name
(`codexpool.protocol.hosts.name_of`), whatever address the connection gets:

- A CONNECT names the host. It is noted here, because another addon may replace it by an address in
  ``server_connect``, and mitmproxy takes a connection's address for the host of its requests.
- With the first bytes it is decided whether the tunnel is read. A tunnel to an address waits for the complete TLS
  ClientHello, which may arrive in pieces.
- The requests of a tunnel that is read leave for its name: a client that forges the name in TLS gets that host.
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

# Bytes of a TLS ClientHello. If it is longer, mitmproxy decides about the tunnel.
LONGEST_GREETING: Final = 64 * 1024
TLS_HANDSHAKE: Final = b"\x16"  # the first byte of a TLS connection


class UndecidedError(Exception):
    """The ClientHello of a tunnel is not complete yet."""


class Tunnels:
    """All tunnels. ``hosts`` returns the hosts that identities are served from."""

    def __init__(self, hosts: Callable[[], frozenset[str]]) -> None:
        self._hosts = hosts
        self._asked: WeakKeyDictionary[Server, str] = WeakKeyDictionary()

    def asked(self, server: Server, host: str) -> None:
        """Note the host that a CONNECT names, before its connection is made."""
        if is_address(host):
            self._asked.pop(server, None)  # A client may send another CONNECT after one that has failed.
        else:
            self._asked[server] = plain(host)

    def opens(self, server: Server, host: str) -> str:
        """Return the name that was asked for, given the host or address that a connection is about to be made to."""
        if not is_address(host):
            self._asked.setdefault(server, plain(host))
        return self._asked.get(server, host)

    def name(self, flow: http.HTTPFlow) -> None:
        """Set the host of a request to the name that its tunnel is for, if the proxy reads that host."""
        request, server = flow.request, flow.server_conn
        host, name = request.data.host, plain(request.data.host)
        if server.address is not None and server.address[0] == host:
            name = self._name(server, flow.client_conn, host, flow.client_conn.sni)
        if name != host and is_read(name, self._hosts()):
            request.data.host = name  # `request.host` would also change the client's headers.

    def is_known(self, context: Context) -> bool:
        """Return whether a connection is for a host that is certainly read, or for no host yet."""
        server = context.server
        if server.address is None:
            return True
        return is_read(self._name(server, context.client, server.address[0], None), self._hosts())

    def pass_through(self, asked: layer.NextLayer, reads_all: bool) -> None:
        """Pass a new tunnel through unread, unless the proxy reads its host.

        With ``reads_all`` mitmproxy decides. Raises UndecidedError while the host is not known yet.
        """
        context, server = asked.context, asked.context.server
        if asked.layer is not None or server.address is None or not _begins(context):
            return
        name = self._name(server, context.client, server.address[0], None)
        if is_address(name):
            if reads_all:
                return
            data = asked.data_client()
            if len(data) > LONGEST_GREETING:
                return
            name = name_of(name, _named_in(data))
        elif is_read(name, self._hosts()):
            # This name's certificate is requested and verified: another name (SNI) from the client must not count.
            server.sni = server.sni or name
            return
        if not reads_all and not is_read(name, self._hosts()):
            asked.layer = layers.TCPLayer(context, ignore=not ctx.options.show_ignored_hosts)

    def _name(self, server: Server, client: Client, host: str, sni: str | None) -> str:
        if isinstance(client.proxy_mode, ReverseMode):
            return plain(client.proxy_mode.address[0])  # TLS names the reverse proxy, not its server.
        return name_of(self._asked.get(server, host), sni)


def _begins(context: Context) -> bool:
    """Return whether a tunnel begins here: no TLS or proxy layer is around it yet."""
    first, last = context.layers[0], context.layers[-1]
    proxies = modes.HttpProxy | modes.HttpUpstreamProxy | modes.ReverseProxy
    return (
        context.client.transport_protocol == "tcp"
        and not isinstance(first, modes.ReverseProxy)
        and not isinstance(last, proxies | layers.ClientTLSLayer)
    )


def _named_in(data: bytes) -> str | None:
    """Return the server name in a ClientHello, or None. Raises UndecidedError if it is not complete."""
    if len(data) < 3 and data[:1] == TLS_HANDSHAKE:
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
