"""How requests of our own reach the backend."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import certifi


def proxy_url(scheme: str, host: str, port: int, auth: str) -> str:
    """Return the URL of a proxy; ``auth`` is ``user:password`` as mitmproxy has it, with any character in it."""
    user, colon, password = auth.partition(":")
    credentials = f"{quote(user, safe='')}{colon}{quote(password, safe='')}@" if auth else ""
    return f"{scheme}://{credentials}{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True, slots=True)
class Route:
    """The same way as the proxy's own connections take.

    ``proxy`` is the URL of an upstream proxy (see `proxy_url`), ``trusted`` a PEM file or a folder of them that is
    trusted besides the usual authorities; ``insecure`` is mitmproxy's ``ssl_insecure``.
    """

    proxy: str | None = field(default=None, repr=False)  # It may have a password in it.
    trusted: str | None = None
    insecure: bool = False

    def tls(self) -> ssl.SSLContext:
        """Whom to believe. Reads files: not for the event loop. Raises OSError where they cannot be read."""
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        if self.trusted is not None:
            folder = Path(self.trusted).is_dir()
            context.load_verify_locations(
                cafile=None if folder else self.trusted, capath=self.trusted if folder else None
            )
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
