"""TLS sessions with the backend, resumed by mitmproxy's own layer. The other side is Python's `ssl`."""

from __future__ import annotations

import gc
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import tls
from mitmproxy.test import taddons
from OpenSSL import SSL

from codexpool.proxy import tls_sessions
from codexpool.proxy.mitm.authorities import Authorities
from codexpool.proxy.tls_sessions import TlsSessions
from tests.standin.certificates import Authority

HOSTS = ("chatgpt.com", "origin.test", "other.test")


class Backend:
    """A TLS server, and mitmproxy's connections to it."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "backend")
        chain = authority.issue(HOSTS)
        chain.write_bytes(chain.read_bytes() + authority.ca_file.read_bytes())
        self.ca_file = authority.ca_file
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(chain)
        self.config = TlsConfig()
        self.hosts = frozenset({"origin.test"})
        self.sessions = TlsSessions(lambda: self.hosts)
        self.stays_open = False
        self.open: list[tls.ServerTLSLayer] = []

    def connect(self, name: str = "chatgpt.com", server: Server | None = None) -> bool | None:
        """Return whether a new connection has resumed a session; None if its handshake failed."""
        server = server or Server(address=(name, 443))
        server.sni, server.state = name, ConnectionState.OPEN
        client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2))
        context = Context(client, self.options)
        context.server = self.server = server
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = self.tls.wrap_bio(received, sent, server_side=True)
        layer = tls.ServerTLSLayer(context)
        received.write(self._handle(layer, events.Start()))
        for _ in range(3):
            try:
                theirs.do_handshake()
                break
            except ssl.SSLWantReadError:
                received.write(self._handle(layer, events.DataReceived(server, sent.read())))
            except ssl.SSLError:
                return None
        if sent.pending:
            self._handle(layer, events.DataReceived(server, sent.read()))  # Tickets come after the handshake.
        if self.stays_open:
            self.open.append(layer)
        else:
            server.timestamp_end = time.time()
            self.sessions.let_go()
        del layer
        gc.collect()  # A connection has a cycle of references: it would be freed at some time.
        return theirs.session_reused if server.tls_established and not server.error else None

    def _handle(self, layer: tls.ServerTLSLayer, event: events.Event) -> bytes:
        sent, waiting = b"", [event]
        while waiting:
            for command in layer.handle_event(waiting.pop()):
                if isinstance(command, commands.SendData):
                    sent += command.data
                elif isinstance(command, commands.StartHook):
                    self._hook(command)
                    waiting.append(events.HookCompleted(command))
        return sent

    def _hook(self, hook: commands.StartHook) -> None:
        if isinstance(hook, tls.TlsStartServerHook):
            self.config.tls_start_server(hook.data)
        elif isinstance(hook, tls.TlsEstablishedServerHook):
            self.sessions.keep(hook.data)

    options: Any = None


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setattr(tls.ServerTLSLayer, "start_tls", tls_sessions._start_tls)
    backend = Backend(tmp_path)
    tls_sessions.install(backend.sessions, Authorities({}))
    with taddons.context(backend.config) as context:
        backend.options = context.options
        context.configure(backend.config, confdir=str(tmp_path), ssl_verify_upstream_trusted_ca=str(backend.ca_file))
        yield backend


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("stays_open", [False, True])
def test_a_new_connection_resumes_the_session_of_the_last(
    backend: Backend, version: ssl.TLSVersion, stays_open: bool
) -> None:
    backend.stays_open = stays_open
    backend.tls.maximum_version = backend.tls.minimum_version = version

    assert [backend.connect() for _ in range(4)] == [False, True, True, True]


def test_a_connection_that_has_ended_is_not_kept(backend: Backend) -> None:
    """It may have buffers of many MiB."""
    before = live_connections()
    backend.connect()
    assert live_connections() == before

    backend.stays_open = True
    backend.connect()
    assert live_connections() == before + 1
    assert backend.connect()


def test_what_is_sent_to_a_connection_that_has_ended_is_dropped(backend: Backend) -> None:
    """A message may wait while its connection ends. An exception would break its layer: the client would hang."""
    backend.stays_open = True
    backend.connect()
    (layer,) = backend.open
    assert list(layer.send_data(b"in time"))
    backend.server.timestamp_end = time.time()
    backend.sessions.let_go()

    assert list(layer.send_data(b"late")) == []


def live_connections() -> int:
    gc.collect()
    return sum(isinstance(one, SSL.Connection) for one in gc.get_objects())


def test_a_resumed_connection_shows_the_same_certificates(backend: Backend) -> None:
    backend.connect()
    shown = [certificate.to_pem() for certificate in backend.server.certificate_list]

    assert backend.connect()
    assert [certificate.to_pem() for certificate in backend.server.certificate_list] == shown
    assert len(shown) == 2


def test_a_session_is_used_once(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.connect()
    monkeypatch.setattr(backend.sessions, "keep", lambda _: None)

    assert [backend.connect(), backend.connect()] == [True, False]


def test_a_session_serves_only_the_name_and_the_way_it_was_made_for(backend: Backend) -> None:
    backend.connect()
    by_address = Server(address=("192.0.2.1", 443))
    by_proxy = Server(address=("chatgpt.com", 443), via=("http", ("proxy.test", 3128)))

    assert backend.connect("origin.test", Server(address=("chatgpt.com", 443))) is False
    assert backend.connect(server=by_address) is False
    assert backend.connect(server=by_proxy) is False
    assert backend.connect() is True


def test_only_sessions_with_hosts_of_the_pool_are_kept(backend: Backend) -> None:
    assert [backend.connect("other.test"), backend.connect("other.test")] == [False, False]
    assert [backend.connect("origin.test"), backend.connect("origin.test")] == [False, True]


def test_a_session_without_verification_serves_no_connection_with_it(backend: Backend) -> None:
    """OpenSSL would not verify the certificate of a resumed session."""
    backend.options.update(ssl_insecure=True, ssl_verify_upstream_trusted_ca=None)
    assert [backend.connect(), backend.connect()] == [False, True]

    backend.options.update(ssl_insecure=False)
    assert backend.connect() is None
    backend.options.update(ssl_verify_upstream_trusted_ca=str(backend.ca_file))
    assert backend.connect() is False


def test_a_certificate_is_checked_again_after_an_hour(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    resumed = []
    for minutes in (0, 25, 50, 75, 100, 125):
        monkeypatch.setattr(time, "monotonic", lambda seconds=60 * minutes: now + seconds)
        resumed.append(backend.connect())

    assert resumed == [False, True, True, False, True, True]


def test_few_sessions_are_kept(backend: Backend) -> None:
    for number in range(tls_sessions.MOST + 1):
        backend.connect(server=Server(address=(f"192.0.2.{number}", 443)))

    assert backend.connect(server=Server(address=("192.0.2.0", 443))) is False
    assert backend.connect(server=Server(address=(f"192.0.2.{tls_sessions.MOST}", 443))) is True


def test_a_session_that_another_addon_has_set_stays(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.connect()
    (own,) = backend.sessions._kept.values()
    session = own.take()
    set_sessions: list[Any] = []

    def start(data: Any, of_mitmproxy: Any = backend.config.tls_start_server) -> None:
        of_mitmproxy(data)
        data.ssl_conn.set_session(session)
        monkeypatch.setattr(data.ssl_conn, "set_session", set_sessions.append)

    monkeypatch.setattr(backend.config, "tls_start_server", start)

    assert backend.connect()
    assert set_sessions == []


def test_a_reload_does_not_add_a_layer(backend: Backend) -> None:
    tls_sessions.install(TlsSessions(lambda: backend.hosts), Authorities({}))
    installed: Any = tls.ServerTLSLayer.start_tls

    assert installed.of_mitmproxy is tls_sessions._start_tls
    assert not hasattr(tls_sessions._start_tls, "of_mitmproxy")
    assert [backend.connect(), backend.connect()] == [False, False]  # They ask the new one, which was given none.
