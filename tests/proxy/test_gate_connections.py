"""Which connections the gate makes for whom, without a proxy around it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mitmproxy.connection import Client

from codexpool.config.model import Access
from codexpool.protocol.routes import BACKEND_ONLY, Policy, Route
from codexpool.proxy.gate import Gate
from codexpool.proxy.mitm import options
from codexpool.traces.history import History
from tests.proxy.still_keeper import StillKeeper
from tests.proxy.test_gate import FAR, MEMBERS, coming, config
from tests.running import key_of

OWN = ("127.0.0.1", 50_000)
"""The near end of a connection that the proxy itself has made."""

ELSEWHERE = [
    ("example.com", 443),
    ("10.0.0.1", 80),
    ("127.0.0.1", 8080),
    ("localhost", 8080),
    ("169.254.169.254", 80),
    ("::1", 443),
    ("codex.pool", 80),
    ("chatgpt.com", 22),
    ("chatgpt.com", 80),
    ("chatgpt.com.example.com", 443),
    ("xchatgpt.com", 443),
    ("api.openai.com", 8443),
]
PEERS_HERE = [("127.0.0.1", 1), ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1, 0, 0), ("127.8.8.8", 1)]
FOR_CLIENTS = ["chatgpt.com", "CHATGPT.com", "chatgpt.com.", "auth.openai.com", "api.openai.com", "ab.chatgpt.com"]


def client(*peer: object) -> Client:
    return Client(peername=peer, sockname=("10.0.0.2", 8080), timestamp_start=0.0)  # type: ignore[arg-type]


@pytest.fixture
def keeper() -> StillKeeper:
    keeper = StillKeeper("first")
    keeper.config = config()
    return keeper


@pytest.fixture
def gate(keeper: StillKeeper, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(options, "is_own_connection", lambda address: tuple(address) == OWN)
    gate = Gate(History())
    gate.on_loopback = False
    gate.follow(keeper.config)
    return gate


def use(gate: Gate, keeper: StillKeeper, name: str, peer: tuple[str, int] = FAR) -> None:
    """Send a request with a key from there."""
    gate.enter(coming(key_of(name), peer=peer), Route("", Policy.SWAP), keeper, "")


def passes(gate: Gate, peer: tuple[object, ...], host: str = "example.com", port: int = 443) -> bool:
    return gate.refuses_connection(client(*peer), host, port, BACKEND_ONLY) == ""


@pytest.mark.parametrize(("host", "port"), ELSEWHERE)
def test_an_unknown_client_gets_nowhere(gate: Gate, host: str, port: int) -> None:
    assert not passes(gate, FAR, host, port)
    assert not passes(gate, ("::ffff:10.9.8.7", 1, 0, 0), host, port)
    assert not passes(gate, OWN, host, port)  # through the proxy to itself, to look like somebody of this machine


@pytest.mark.parametrize("host", FOR_CLIENTS)
def test_an_unknown_client_gets_to_the_first_hosts(gate: Gate, host: str) -> None:
    assert passes(gate, FAR, host)


@pytest.mark.parametrize("peer", PEERS_HERE)
def test_this_machine_gets_everywhere(gate: Gate, peer: tuple[object, ...]) -> None:
    assert passes(gate, peer)


def test_the_address_of_a_member_gets_everywhere(gate: Gate, keeper: StillKeeper) -> None:
    use(gate, keeper, "ann")

    assert passes(gate, FAR)
    assert not passes(gate, ("10.9.8.8", 1))


def test_over_ipv6_the_network_of_the_household_counts(gate: Gate, keeper: StillKeeper) -> None:
    use(gate, keeper, "ann", ("2001:db8:1:2::1", 1))

    assert passes(gate, ("2001:db8:1:2:abcd::9", 1, 0, 0))
    assert not passes(gate, ("2001:db8:1:3::1", 1, 0, 0))


@pytest.mark.parametrize("bad", ["guessed-0123456789", "bob"])
def test_an_invalid_key_opens_no_relay(gate: Gate, keeper: StillKeeper, bad: str) -> None:
    keeper.config = config(MEMBERS[0], replace(MEMBERS[1], revoked_at=1.0))
    use(gate, keeper, bad)

    assert not passes(gate, FAR)


@pytest.mark.parametrize("how", ["revoked", "removed"])
def test_with_its_key_a_member_loses_the_relay(gate: Gate, keeper: StillKeeper, how: str) -> None:
    use(gate, keeper, "ann")
    assert passes(gate, FAR)

    gate.follow(config(*([replace(MEMBERS[0], revoked_at=1.0)] if how == "revoked" else []), MEMBERS[1]))

    assert not passes(gate, FAR)


@pytest.mark.parametrize("what", ["loopback, anyone", "proxyauth", "nobody's connection"])
def test_without_a_need_for_keys_all_connections_are_made(gate: Gate, what: str) -> None:
    match what:
        case "proxyauth":
            gate.lets_all = True
        case "loopback, anyone":
            gate.on_loopback = True
            gate.follow(config(access=Access.ANYONE))
    peer = None if what.startswith("nobody") else FAR

    assert gate.refuses_connection(client(*peer) if peer else replay(), "example.com", 443, BACKEND_ONLY) == ""


def replay() -> Client:
    """What a flow that mitmproxy itself sends again comes from."""
    return Client(peername=None, sockname=None, timestamp_start=0.0)  # type: ignore[arg-type]
