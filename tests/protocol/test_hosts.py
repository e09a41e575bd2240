"""Which host a tunnel is for: a name wins, and where there is only an address, what TLS names."""

from __future__ import annotations

import pytest

from codexpool.protocol.hosts import is_address, is_read, name_of

ADDRESSES = [
    "104.18.32.47",
    "::1",
    "[2606:4700::6812:202f]",
    "fe80::1%eth0",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "104.18.32.47.",
]
"""What a resolver takes for an address."""

NAMES = ["chatgpt.com", "CHATGPT.com.", "localhost", "1.example", "x0.com", "0xyz.com", "", "4chan.org"]


@pytest.mark.parametrize("host", ADDRESSES)
def test_for_an_address_the_name_in_tls_counts(host: str) -> None:
    assert is_address(host)
    assert name_of(host, "ChatGPT.com") == "chatgpt.com"
    assert name_of(host, None) == host.rstrip(".").lower()


@pytest.mark.parametrize("host", NAMES)
def test_for_a_name_no_other_name_counts(host: str) -> None:
    assert not is_address(host)
    assert name_of(host, "chatgpt.com.evil.example") == host.lower().rstrip(".")


READ = [
    "chatgpt.com",
    "gov.chatgpt.com",
    "ab.chatgpt.com",
    "auth.openai.com",
    "openai.com",
    "codex.pool",
    "origin.test",
]
UNREAD = ["xchatgpt.com", "chatgpt.com.evil.example", "github.com", "x.codex.pool", "127.0.0.1", "", "com"]


@pytest.mark.parametrize(("name", "reads"), [*((name, True) for name in READ), *((name, False) for name in UNREAD)])
def test_only_codexs_hosts_and_those_of_identities_are_read(name: str, reads: bool) -> None:
    assert is_read(name, frozenset({"chatgpt.com", "origin.test"})) is reads
