"""Other hosts pass through undecrypted, with any protocol and any kind of tunnel."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import OLD
from tests.namespaced import needs_addresses, run_in_namespace_once

pytestmark = needs_addresses

OWN, OURS = "its own", "the proxy's"


@pytest.fixture(scope="module")
def saw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_namespace_once("tests.e2e.other_hosts", tmp_path_factory, seconds=300)


@pytest.mark.parametrize("way", ["CONNECT", "CONNECT to an address", "SOCKS"])
def test_other_hosts_keep_their_certificate_and_protocol(saw: dict[str, Any], way: str) -> None:
    said = saw["default"]

    assert said[way] == f"{OWN}, http/1.1"
    assert said[f"{way}, HTTP/2"] == said[f"{way}, in pieces"] == f"{OWN}, h2"
    assert said[f"{way}, not TLS"] == "ok"


def test_other_hosts_are_not_recorded(saw: dict[str, Any]) -> None:
    """Codex's hosts are read beside them."""
    assert saw["in the dump"] is False
    assert saw["codex beside it"] == f"{OURS}, http/1.1"
    assert saw["log"] == []


def test_pool_toml_can_have_all_hosts_read(saw: dict[str, Any]) -> None:
    """It is followed while the proxy runs."""
    assert saw["all"] == [OURS, OURS]
    assert saw["reloaded"] == [OURS, OWN]


@pytest.mark.parametrize(
    ("how", "whose"),
    [
        ("recording", OURS),  # codexpool_record_all_hosts
        ("allowed", OURS),  # mitmproxy's allow_hosts names the stranger only
        ("ignored", OWN),  # mitmproxy's ignore_hosts, with intercept = "all"
        ("no pool", OWN),
        ("observed", OWN),
        ("observed, all", OURS),
        ("lazy", OWN),  # connection_strategy
        ("upstream", OWN),  # behind another proxy
    ],
)
def test_codexs_hosts_are_always_read(saw: dict[str, Any], how: str, whose: str) -> None:
    assert saw[how] == [whose, OURS]


@pytest.mark.skipif(OLD, reason="this mitmproxy is for loopback only")
def test_only_members_are_passed_through(saw: dict[str, Any]) -> None:
    assert saw["members"] == {"a stranger": "403", "a turn": 200, "a member": "200", "its own": True}
