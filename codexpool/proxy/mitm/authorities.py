"""The certificate authorities of ``SSL_CERT_FILE``, for the proxy's connections to servers.

A company's proxy that reads TLS has an authority of its own. mitmproxy trusts either certifi's authorities or those
of one file (``ssl_verify_upstream_trusted_ca``); here they are trusted besides certifi's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from weakref import WeakSet

from mitmproxy import ctx
from OpenSSL import SSL, crypto

logger = logging.getLogger("codexpool")

VARIABLE: Final = "SSL_CERT_FILE"
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
OPTIONS: Final = ("ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir")


class Authorities:
    """The certificates of the file, which is read once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._certificates: list[crypto.X509] = []
        self._done: WeakSet[SSL.Context] = WeakSet()
        if not (path := environ.get(VARIABLE, "")):
            return
        try:
            pems = _PEM.findall(Path(path).read_bytes())
            self._certificates = [crypto.load_certificate(crypto.FILETYPE_PEM, pem) for pem in pems]
        except OSError as error:
            logger.warning("%s: %s: %s; it is ignored", VARIABLE, path, error.strerror or error)
            return
        except crypto.Error:
            pass
        if not self._certificates:
            logger.warning("%s: %s has no valid certificates in PEM form; it is ignored", VARIABLE, path)

    def add_to(self, context: SSL.Context) -> None:
        """Have a context of mitmproxy's, which it keeps, trust them, unless the user has set who is trusted."""
        if not self._certificates or context in self._done or any(getattr(ctx.options, name) for name in OPTIONS):
            return
        self._done.add(context)
        if (store := context.get_cert_store()) is not None:
            for certificate in self._certificates:
                store.add_cert(certificate)
