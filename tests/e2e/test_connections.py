"""What a new connection of a client need not do again."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.e2e import tunnels
from tests.e2e.world import World, a_world
from tests.running import pat


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(tmp_path_factory.mktemp("connections"), pat("work")) as world:
        yield world


def test_tls_sessions_with_the_backend_are_resumed(world: World) -> None:
    context = world.standin._service.tls.context
    context.num_tickets = 2
    before = context.session_stats()["hits"]

    for _ in range(3):
        with world.proxy.client() as client:
            assert world.turn(client).status_code == 200

    assert context.session_stats()["hits"] >= before + 2


def test_a_client_gets_the_same_certificate_and_may_resume_its_session(world: World) -> None:
    trust = world.proxy.trust
    session, seen, resumed = None, set(), []
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", world.proxy.port), 15) as plain:
            assert b" 200 " in tunnels.asked(plain, "chatgpt.com:443")
            with trust.wrap_socket(plain, server_hostname="chatgpt.com", session=session) as tunnel:
                tunnel.sendall(b"GET /codexpool-nothing HTTP/1.1\r\nhost: chatgpt.com\r\n\r\n")
                tunnel.recv(65535)  # Tickets come after the handshake.
                session = tunnel.session
                resumed.append(tunnel.session_reused)
                seen.add(tunnel.getpeercert(binary_form=True))

    assert resumed == [False, True, True]
    assert len(seen) == 1
