"""A client in a tunnel through mitmproxy's layers, with real TLS on both sides, all in memory.

`Tunnel` stands where mitmproxy's connection handler stands, and carries out commands at once, except for hooks that a
test holds. It notes what each event led to, so that a test can compare two ways through the layers.
"""

from __future__ import annotations

import contextlib
import ssl
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from mitmproxy import connection
from mitmproxy.addons import next_layer, proxyserver
from mitmproxy.proxy import commands, context, events, mode_specs
from mitmproxy.proxy.layers import modes
from mitmproxy.test import taddons
from OpenSSL import SSL

from codexpool.proxy import shortcut
from tests.proxy.playbook import Driver
from tests.standin.certificates import Authority

HOST = "upstream.test"


@cache
def _certificate() -> tuple[SSL.Context, ssl.SSLContext]:
    """Return contexts of a server, for the proxy and for the upstream."""
    with TemporaryDirectory() as folder:
        file = Authority(Path(folder)).issue([HOST])
        proxy = SSL.Context(SSL.TLS_METHOD)
        proxy.use_certificate_chain_file(str(file))
        proxy.use_privatekey_file(str(file))
        upstream = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        upstream.load_cert_chain(file)
    return proxy, upstream


def _trusting() -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    return found


class Peer:
    """The other end of a connection: TLS, after the head of a CONNECT if there is one."""

    def __init__(self, conn: connection.Connection, is_client: bool, in_tunnel: bool) -> None:
        self.conn = conn
        self.is_client = is_client
        self.text = bytearray()
        """What the proxy has sent, decrypted."""
        self.is_closed = False
        self.head = bytearray() if in_tunnel else None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = _trusting() if is_client else _certificate()[1]
        name = HOST if is_client else None
        self.tls = tls.wrap_bio(self._in, self._out, server_side=not is_client, server_hostname=name)
        self._is_up = False

    def take(self, data: bytes) -> bytes:
        """Take bytes from the proxy, and return those to send it."""
        if self.head is not None:
            self.head += data
            if b"\r\n\r\n" not in self.head:
                return b""
            self.head, data = None, b""
            if not self.is_client:
                return b"HTTP/1.1 200 OK\r\n\r\n"
        if data:
            self._in.write(data)
        try:
            if not self._is_up:
                self.tls.do_handshake()
                self._is_up = True
            while got := self.tls.read(1 << 16):
                self.text += got
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return self._out.read()

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._out.read()

    def goodbye(self) -> bytes:
        """Return the alert that ends TLS."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self._out.read()


class Tunnel(Driver):
    """A client connection with a tunnel to `HOST`, through which requests can be sent."""

    def __init__(
        self,
        addon: object,
        *,
        short: bool,
        upstream: bool = False,
        eager: bool = False,
        **options: Any,
    ) -> None:
        self.addon = addon
        self.hold: set[str] = set()
        self.held: list[commands.StartHook] = []
        self.trace: list[str] = []
        """Hooks, log lines, openings and closings, in their order."""
        self.writes: list[tuple[str, int]] = []
        """Every write: to whom, and how many bytes."""
        self.wakeups: list[commands.RequestWakeup] = []
        self.servers: list[Peer] = []
        self._is_upstream, self._is_eager = upstream, eager
        super().__init__()
        addons = next_layer.NextLayer(), proxyserver.Proxyserver()
        self._next_layer = addons[0]
        with taddons.context(*addons) as tctx:
            tctx.options.update(connection_strategy="eager" if eager else "lazy", **options)
            peer = connection.Client(
                peername=("192.0.2.1", 4711),
                sockname=("192.0.2.2", 8080),
                timestamp_start=1,
                state=connection.ConnectionState.OPEN,
            )
            mode = "upstream:http://parent.test:3128" if upstream else "regular"
            peer.proxy_mode = mode_specs.ProxyMode.parse(mode)
            ctx = context.Context(peer, tctx.options)
            self._context = tctx
        top: Any = modes.HttpUpstreamProxy(ctx) if upstream else modes.HttpProxy(ctx)
        self.handler = SimpleNamespace(layer=top, client=peer)
        if short:
            shortcut.add(self.handler)
        self.client = Peer(peer, is_client=True, in_tunnel=True)
        self.give(events.Start())
        self.give(events.DataReceived(peer, f"CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n".encode()))

    def ask(self, data: bytes) -> None:
        self.give(events.DataReceived(self.client.conn, self.client.encrypt(data)))

    def answer(self, data: bytes) -> None:
        server = self.servers[-1]
        if data and server.conn.state & connection.ConnectionState.CAN_READ:
            self.give(events.DataReceived(server.conn, server.encrypt(data)))

    def end(self, peer: Peer, *, with_alert: bool) -> None:
        """Close a connection from its other end."""
        if not peer.conn.state & connection.ConnectionState.CAN_READ:
            return
        if with_alert and (alert := peer.goodbye()):
            self.give(events.DataReceived(peer.conn, alert))
        peer.conn.state &= ~connection.ConnectionState.CAN_READ
        self.give(events.ConnectionClosed(peer.conn))

    def release(self) -> None:
        """Let the oldest held hook go on."""
        self._complete(self.held.pop(0))

    @property
    def layer(self) -> Any:
        return self.handler.layer

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.ConnectionCommand() if self._peer(command.connection) is None and not isinstance(
                command, commands.OpenConnection
            ):
                pass  # It has no socket, or no more.
            case commands.SendData():
                self._send(self._peer(command.connection), command.data)
            case commands.OpenConnection():
                self.trace.append(f"open {command.connection.address}")
                command.connection.state = connection.ConnectionState.OPEN
                command.connection.timestamp_start = 1
                self.servers.append(Peer(command.connection, is_client=False, in_tunnel=self._is_upstream))
                self.give(events.OpenConnectionCompleted(command, None))
            case commands.CloseTcpConnection(half_close=True):
                self.trace.append("half-close")
                command.connection.state &= ~connection.ConnectionState.CAN_WRITE
            case commands.CloseConnection():
                self.trace.append("close client" if command.connection is self.client.conn else "close server")
                was_open = command.connection.state & connection.ConnectionState.CAN_READ
                command.connection.state = connection.ConnectionState.CLOSED
                if was_open:
                    self.give(events.ConnectionClosed(command.connection))
            case commands.Log():
                self.trace.append(command.message.replace(repr(self.client.conn), "client"))
            case commands.RequestWakeup():
                self.wakeups.append(command)
            case commands.StartHook():
                if command.name in self.hold:
                    self.held.append(command)
                else:
                    self._complete(command)
            case _:
                raise AssertionError(command)

    def _send(self, peer: Peer | None, data: bytes) -> None:
        assert peer is not None
        self.writes.append(("client" if peer.is_client else "server", len(data)))
        if peer.conn.state & connection.ConnectionState.CAN_WRITE and (reply := peer.take(data)):
            self.give(events.DataReceived(peer.conn, reply))

    def _complete(self, command: commands.StartHook) -> None:
        self.trace.append(command.name)
        (data,) = command.args()
        if command.name == "next_layer":
            with self._context:
                self._next_layer.next_layer(data)
        elif command.name == "tls_clienthello":
            data.establish_server_tls_first = data.context.server.tls and self._is_eager
        elif command.name == "tls_start_client":
            data.ssl_conn = SSL.Connection(_certificate()[0])
            data.ssl_conn.set_accept_state()
        elif command.name == "tls_start_server":
            data.ssl_conn = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
            data.ssl_conn.set_connect_state()
        elif (hook := getattr(self.addon, command.name, None)) is not None:
            hook(data)
        if command.blocking:
            self.give(events.HookCompleted(command, None))

    def _peer(self, conn: connection.Connection) -> Peer | None:
        return next((one for one in (self.client, *self.servers) if one.conn is conn), None)
