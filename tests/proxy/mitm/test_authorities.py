"""SSL_CERT_FILE: authorities that are trusted besides mitmproxy's."""

from __future__ import annotations

import logging
from pathlib import Path

import certifi
import pytest
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.test import taddons
from OpenSSL import SSL, crypto

from codexpool.proxy.mitm.authorities import Authorities
from tests.standin.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def trusts(context: SSL.Context, authority: Authority) -> bool:
    store = context.get_cert_store()
    assert store is not None
    certificate = crypto.load_certificate(crypto.FILETYPE_PEM, authority.issue(["chatgpt.com"]).read_bytes())
    try:
        crypto.X509StoreContext(store, certificate).verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return True


@pytest.mark.parametrize("option", ["", "ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir"])
def test_they_are_trusted_unless_the_user_has_set_who_is(authority: Authority, option: str) -> None:
    bundle = authority.ca_file.with_name("bundle.pem")
    bundle.write_text("# a comment\n" + Path(certifi.where()).read_text() + authority.ca_file.read_text())
    authorities, context = Authorities({"SSL_CERT_FILE": str(bundle)}), SSL.Context(SSL.TLS_METHOD)
    with taddons.context(TlsConfig()) as mitmproxy:
        if option:
            mitmproxy.options.update(**{option: str(authority.ca_file)})
        for _ in range(2):
            authorities.add_to(context)

    assert trusts(context, authority) is (not option)


@pytest.mark.parametrize(
    "content", [None, b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"]
)
def test_a_file_that_is_none_is_ignored_and_logged(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    Authorities({"SSL_CERT_FILE": str(path)}).add_to(SSL.Context(SSL.TLS_METHOD))

    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"SSL_CERT_FILE: {path}" in record.message
    assert "it is ignored" in record.message
