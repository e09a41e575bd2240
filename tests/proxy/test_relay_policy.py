"""Whom the proxy passes on for, and to where, without a proxy around it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mitmproxy.connection import Client

from codexpool.config.model import Access
from codexpool.protocol.routes import BACKEND_ONLY, Policy
from codexpool.proxy.gate import Gate
from codexpool.proxy.relay_policy import Relay
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
def gate(keeper: StillKeeper) -> Gate:
    gate = Gate(History())
    gate.on_loopback = False
    gate.follow(keeper.config)
    return gate


@pytest.fixture
def relay(gate: Gate) -> Relay:
    return Relay(gate, lambda address: tuple(address) == OWN)


def comes(gate: Gate, keeper: StillKeeper, name: str, peer: tuple[str, int] = FAR) -> None:
    """A request with a key comes from there."""
    gate.enter(coming(key_of(name), peer=peer), Policy.SWAP, keeper, "")


def passes(relay: Relay, peer: tuple[object, ...], host: str = "example.com", port: int = 443) -> bool:
    return relay.refusal(client(*peer), host, port, BACKEND_ONLY) == ""


@pytest.mark.parametrize(("host", "port"), ELSEWHERE)
def test_a_stranger_gets_nowhere(relay: Relay, host: str, port: int) -> None:
    assert not passes(relay, FAR, host, port)
    assert not passes(relay, ("::ffff:10.9.8.7", 1, 0, 0), host, port)
    assert not passes(relay, OWN, host, port)  # through the proxy to itself, to look like somebody of this machine


@pytest.mark.parametrize("host", FOR_CLIENTS)
def test_but_to_what_a_client_asks_before_anybody_knows_whose_it_is(relay: Relay, host: str) -> None:
    assert passes(relay, FAR, host)


@pytest.mark.parametrize("peer", PEERS_HERE)
def test_this_machine_gets_everywhere(relay: Relay, peer: tuple[object, ...]) -> None:
    assert passes(relay, peer)


def test_whoever_works_from_the_address_of_a_member_gets_everywhere(
    relay: Relay, gate: Gate, keeper: StillKeeper
) -> None:
    comes(gate, keeper, "ann")

    assert passes(relay, FAR)
    assert not passes(relay, ("10.9.8.8", 1))


def test_of_ipv6_a_member_has_the_whole_network_of_its_household(
    relay: Relay, gate: Gate, keeper: StillKeeper
) -> None:
    comes(gate, keeper, "ann", ("2001:db8:1:2::1", 1))

    assert passes(relay, ("2001:db8:1:2:abcd::9", 1, 0, 0))
    assert not passes(relay, ("2001:db8:1:3::1", 1, 0, 0))


@pytest.mark.parametrize("bad", ["guessed-0123456789", "bob"])
def test_a_key_that_opens_nothing_opens_no_relay(relay: Relay, gate: Gate, keeper: StillKeeper, bad: str) -> None:
    keeper.config = config(MEMBERS[0], replace(MEMBERS[1], revoked_at=1.0))
    comes(gate, keeper, bad)

    assert not passes(relay, FAR)


@pytest.mark.parametrize("how", ["revoked", "removed"])
def test_with_its_key_a_member_loses_the_relay(relay: Relay, gate: Gate, keeper: StillKeeper, how: str) -> None:
    comes(gate, keeper, "ann")
    assert passes(relay, FAR)

    gate.follow(config(*([replace(MEMBERS[0], revoked_at=1.0)] if how == "revoked" else []), MEMBERS[1]))

    assert not passes(relay, FAR)


@pytest.mark.parametrize("what", ["loopback, anyone", "proxyauth", "nobody's connection"])
def test_where_nobody_has_to_have_a_key_or_mitmproxy_asks_for_a_password_it_is_a_proxy_like_others(
    relay: Relay, gate: Gate, what: str
) -> None:
    match what:
        case "proxyauth":
            gate.lets_all = True
        case "loopback, anyone":
            gate.on_loopback = True
            gate.follow(config(access=Access.ANYONE))
    peer = None if what.startswith("nobody") else FAR

    assert relay.refusal(client(*peer) if peer else replay(), "example.com", 443, BACKEND_ONLY) == ""


def replay() -> Client:
    """What a flow that mitmproxy itself sends again comes from."""
    return Client(peername=None, sockname=None, timestamp_start=0.0)  # type: ignore[arg-type]
