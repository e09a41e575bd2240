"""Resumes TLS sessions with the backend: a new connection then needs no certificates, and no check of them.

On a resumed session, OpenSSL checks neither the certificate nor its name again, and older pyOpenSSL versions accept
any session. So a session is resumed only for the same host, route and name in TLS, and with the same OpenSSL context:
mitmproxy has one context for each combination of settings (`ssl_insecure`, trusted certificates, client certificate,
versions, ciphers). An hour after its certificate was checked, a session is no longer resumed, however often it was
before. A session is used once, as TLS 1.3 recommends for tickets.

Sessions belong to a host, not to an identity: the handshake comes before a request, and so before its identity is
known. A ticket tells the backend that two connections come from the same proxy. Requests of several identities on one
connection, which mitmproxy makes when a client's session moves, tell more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from mitmproxy.connection import Connection
from mitmproxy.proxy.layers import tls
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from codexpool.protocol.hosts import is_read, plain
from codexpool.proxy.mitm.authorities import Authorities

LONGEST: Final = 3600.0  # seconds for which one check of a certificate counts
MOST: Final = 4  # hosts

TOUCHED: Final[dict[type, tuple[str, ...]]] = {tls.ServerTLSLayer: ("start_tls", "tls")}

# After a reload of this module the class still has the method installed before.
_start_tls: Any = getattr(tls.ServerTLSLayer.start_tls, "of_mitmproxy", tls.ServerTLSLayer.start_tls)


@dataclass(slots=True)
class _Kept:
    """A session, or its connection until that has ended, because tickets come after the handshake."""

    server: Connection
    connection: SSL.Connection | None
    checked: float  # when the certificate was checked
    session: SSL.Session | None = None

    def take(self) -> SSL.Session | None:
        """Return the newest session. Let go of a connection that has ended: it has buffers."""
        if self.connection is not None:
            self.session = self.connection.get_session()
            if self.server.timestamp_end is not None:
                # In OpenSSL a connection that is freed without this makes its session useless.
                self.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
                vars(self.connection)["sendall"] = _send_nowhere
                self.connection = None
        return self.session


def _send_nowhere(buf: Any, flags: int = 0) -> int:
    """Drop what is sent to a connection that has ended, as mitmproxy does; OpenSSL would raise.

    A message may have waited (for a hook, or a turn) while its connection ended. An exception would break its layer.
    """
    return len(buf)


class TlsSessions:
    """The newest session with each host. ``hosts`` returns the hosts that identities are served from."""

    def __init__(self, hosts: Callable[[], frozenset[str]]) -> None:
        self._hosts = hosts
        self._kept: dict[object, _Kept] = {}
        self._checked: WeakKeyDictionary[SSL.Connection, float] = WeakKeyDictionary()

    def resume(self, server: Connection, connection: SSL.Connection) -> None:
        """Resume a session with a connection whose handshake is about to begin."""
        kept = self._kept.pop(_key(server, connection), None)
        if kept is None or time.monotonic() > kept.checked + LONGEST or connection.get_session() is not None:
            return
        if (session := kept.take()) is not None:
            connection.set_session(session)
            self._checked[connection] = kept.checked

    def keep(self, data: TlsData) -> None:
        """Keep the session of a connection whose handshake has succeeded. For the ``tls_established_server`` hook."""
        server, connection = data.conn, data.ssl_conn
        if connection is None or data.is_dtls or not is_read(plain(server.sni or ""), self._hosts()):
            return
        checked = self._checked.pop(connection, time.monotonic())
        self._kept[_key(server, connection)] = _Kept(server, connection, checked)
        if len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]

    def let_go(self) -> None:
        """Let go of connections that have ended. For the ``server_disconnected`` hook."""
        for kept in self._kept.values():
            kept.take()


def _key(server: Any, connection: SSL.Connection) -> object:
    return server.address, server.via, server.sni, connection.get_context()


def install(sessions: TlsSessions, authorities: Authorities) -> None:
    """Have new connections resume these sessions, and trust these authorities."""

    def start_tls(layer: tls.ServerTLSLayer) -> Generator[Any, Any, None]:
        yield from _start_tls(layer)
        if layer.tls is not None:
            authorities.add_to(layer.tls.get_context())
            sessions.resume(layer.conn, layer.tls)

    start_tls.of_mitmproxy = _start_tls  # type: ignore[attr-defined]
    tls.ServerTLSLayer.start_tls = start_tls  # type: ignore[method-assign, assignment]
