"""The certificate authorities of ``SSL_CERT_FILE``, for the proxy's connections to servers.

A company's proxy that reads TLS has an authority of its own. mitmproxy trusts either certifi's authorities or those
of one file (``ssl_verify_upstream_trusted_ca``); here they are trusted besides certifi's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from weakref import WeakSet

from cryptography import x509
from mitmproxy import ctx
from OpenSSL import SSL, crypto

logger = logging.getLogger("codexpool")

VARIABLE: Final = "SSL_CERT_FILE"
OPTIONS: Final = ("ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir")


class Authorities:
    """The certificates of the file, which is read once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._certificates: list[crypto.X509] = []
        self._done: WeakSet[SSL.Context] = WeakSet()
        if not (path := environ.get(VARIABLE, "")):
            return
        try:
            read = x509.load_pem_x509_certificates(Path(path).read_bytes())
            self._certificates = list(map(crypto.X509.from_cryptography, read))
        except OSError as error:
            logger.warning("%s: %s: %s; it is ignored", VARIABLE, path, error.strerror or error)
        except ValueError:
            logger.warning("%s: %s has no certificate in PEM form; it is ignored", VARIABLE, path)

    def add_to(self, context: SSL.Context) -> None:
        """Have a context of mitmproxy's, which it keeps, trust them, unless the user has set who is trusted."""
        if not self._certificates or context in self._done or any(getattr(ctx.options, name) for name in OPTIONS):
            return
        self._done.add(context)
        if (store := context.get_cert_store()) is not None:
            for certificate in self._certificates:
                store.add_cert(certificate)
