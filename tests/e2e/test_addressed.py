"""Whose host it is, is the name of the CONNECT, or what TLS names where that is an address: over whatever way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import OLD
from tests.namespaced import needs_addresses, run_in_namespace_once

pytestmark = needs_addresses


@pytest.fixture(scope="module")
def saw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_namespace_once("tests.e2e.addressed", tmp_path_factory, seconds=240)


WAYS = [
    "CONNECT to an address",
    "CONNECT, its end a dot",
    "SOCKS with an address",
    "CONNECT to a pinned name",
    "another server's address",
]


@pytest.mark.parametrize("strategy", ["eager", "lazy"])
@pytest.mark.parametrize("way", WAYS)
def test_requests_to_the_backend_by_address_are_swapped(saw: dict[str, Any], strategy: str, way: str) -> None:
    if (strategy, way) == ("eager", "CONNECT, its end a dot"):
        pytest.skip("the hosts file, by which names are found here, knows no such name")
    assert saw[f"{strategy}: {way}"] == ["200", ["work"]]


@pytest.mark.parametrize("strategy", ["eager", "lazy"])
def test_a_websocket_to_the_backend_by_address_is_swapped(saw: dict[str, Any], strategy: str) -> None:
    assert saw[f"{strategy}: a WebSocket"] == ["101", ["work"]]


@pytest.mark.parametrize("strategy", ["eager", "lazy"])
def test_own_paths_by_address_keep_the_clients_credential(saw: dict[str, Any], strategy: str) -> None:
    _, asked_as = saw[f"{strategy}: a person's own"]

    assert asked_as == ["client"]


def test_a_server_at_another_address_gets_no_credential(saw: dict[str, Any]) -> None:
    assert saw["heard"] == [False, False]
    assert saw["leaks"] == 0


@pytest.mark.skipif(OLD, reason="this mitmproxy is for loopback only")
@pytest.mark.parametrize("strategy", ["eager", "lazy"])
def test_a_forged_name_in_tls_opens_no_address_to_a_stranger(saw: dict[str, Any], strategy: str) -> None:
    stranger = saw[f"{strategy}: a stranger"]

    assert stranger["CONNECT"] == "403"
    assert stranger["called"] == 0
