"""One file of certificates for clients whose variable other programs read as well.

`SSL_CERT_FILE` is read by what a client starts (curl, git, Python), and takes the place of the authorities that those
trust. They get the servers' own certificates through the proxy, so the file needs both: the system's authorities, and
the proxy's.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from codexpool.local.ca_files import Certificate

USUAL: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/cert.pem",  # macOS, Alpine
)
"""Where systems have their authorities in one file."""


def with_the_systems(own: Certificate, environ: Mapping[str, str]) -> Path:
    """Write a file with the proxy's certificate and all that programs trust anyway; return its path.

    Raises OSError where it cannot be written.
    """
    import platformdirs

    folder = platformdirs.user_data_path("codexpool", appauthor=False)
    path = folder / f"trusted-{own.fingerprint.replace(':', '')[:12].lower()}.pem"
    named = environ.get("SSL_CERT_FILE", "")
    if named == str(path) and path.is_file():
        return path  # The shell has read what was printed before.
    folder.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(own.path.read_bytes().rstrip() + b"\n" + _others(named))
    new.replace(path)
    return path


def _others(named: str) -> bytes:
    """The authorities that programs trust on this machine: those in the file that is ``named``, else the system's."""
    import certifi

    for place in (named, ssl.get_default_verify_paths().openssl_cafile, *USUAL):
        try:
            if place and b"BEGIN CERTIFICATE" in (text := Path(place).read_bytes()):
                return text
        except OSError:
            continue
    return Path(certifi.where()).read_bytes()
