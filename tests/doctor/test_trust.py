"""Whether the client trusts the proxy: handshakes through one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from OpenSSL import crypto

from codexpool.doctor.findings import Level
from codexpool.doctor.trust import Trusted, Tunnel, check, is_trusted
from tests.doctor.fakes import FakeProxy, client, running
from tests.standin.certificates import Authority


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeProxy]:
    with running(tmp_path / "ca") as fake:
        yield fake


def looked(fake: FakeProxy, environ: dict[str, str], ca_file: Path | None = None) -> Trusted:
    return check(client(environ), Tunnel("127.0.0.1", fake.port), ca_file, "0123456789")


@pytest.mark.parametrize("name", ["CODEX_CA_CERTIFICATE", "SSL_CERT_FILE"])
def test_either_variable_makes_the_client_trust_the_proxy(fake: FakeProxy, name: str) -> None:
    trusted = looked(fake, {name: str(fake.authority.ca_file)})

    assert trusted.finding.level is Level.OK
    assert name in trusted.finding.text
    assert trusted.store is not None


def test_codex_ca_certificate_comes_first_unless_it_is_empty(fake: FakeProxy) -> None:
    right = str(fake.authority.ca_file)

    hidden = looked(fake, {"CODEX_CA_CERTIFICATE": certifi.where(), "SSL_CERT_FILE": right})
    empty = looked(fake, {"CODEX_CA_CERTIFICATE": "", "SSL_CERT_FILE": right})

    assert hidden.finding.level is Level.WRONG
    assert "CODEX_CA_CERTIFICATE" in hidden.finding.text
    assert empty.finding.level is Level.OK


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere/ca.pem", "cannot be read"),
        ("~/ca.pem", "write the path in full"),
        (__file__, "no certificate in PEM form"),
    ],
)
def test_an_unusable_file_is_wrong_and_a_probe_is_possible(fake: FakeProxy, path: str, words: str) -> None:
    trusted = looked(fake, {"CODEX_CA_CERTIFICATE": path}, fake.authority.ca_file)

    assert trusted.finding.level is Level.WRONG
    assert words in trusted.finding.text + trusted.finding.remedy
    assert f"CODEX_CA_CERTIFICATE={fake.authority.ca_file}" in trusted.finding.remedy
    assert trusted.store is not None


def test_without_a_variable_no_probe_is_possible(fake: FakeProxy) -> None:
    trusted = looked(fake, {})

    assert fake.failed_handshakes == 0, "or the proxy would log a warning"
    assert trusted.finding.level is Level.WRONG
    assert trusted.store is None


def test_a_public_certificate_allows_no_probe(fake: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the backend itself answered: with ignore_hosts, mitmproxy relays its connections unread.
    monkeypatch.setattr(certifi, "where", lambda: str(fake.authority.ca_file))

    trusted = looked(fake, {})

    assert fake.failed_handshakes == 0, "or the proxy would log a warning"
    assert trusted.finding.level is Level.WRONG
    assert "unread" in trusted.finding.text
    assert trusted.store is None


def test_a_proxy_that_is_gone_is_wrong(tmp_path: Path) -> None:
    with running(tmp_path) as fake:
        port = fake.port
    trusted = check(client(), Tunnel("127.0.0.1", port), None, "0123456789")

    assert trusted.finding.level is Level.WRONG
    assert trusted.store is None


def test_a_certificate_for_another_host_is_not_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pems = [authority.issue([name]).read_bytes() for name in ("example.com", "chatgpt.com", "*.com")]
    store = crypto.X509Store()
    store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, authority.ca_file.read_bytes()))
    chains = [[crypto.load_certificate(crypto.FILETYPE_PEM, pem)] for pem in pems]

    assert [is_trusted(chain, store) for chain in (*chains, [])] == [False, True, True, False]
    assert not is_trusted(chains[1], crypto.X509Store())
