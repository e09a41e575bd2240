"""Connects to the backend's host through the proxy, for handshakes and probes; never directly."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from codexpool.protocol.endpoints import HOST

SECONDS: Final = 15.0  # for each step of a connection; the proxy may wait for an identity first

LONGEST: Final = 65_536  # bytes read of an answer


class Answer(NamedTuple):
    """An answer; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A proxy to send CONNECT to; ``user`` and ``password`` are for mitmproxy's proxyauth."""

    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def is_trusted(self, context: ssl.SSLContext) -> bool:
        """Make a TLS handshake, and return whether the certificate is trusted. Raises OSError if it fails."""
        try:
            with self._connected(context):
                return True
        except ssl.SSLCertVerificationError:
            return False

    def ask(
        self, context: ssl.SSLContext, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        """Send a request to the backend's host. Raises OSError and http.client.HTTPException."""
        with self._connected(context) as connection:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, b"" if response.status == 101 else response.read(LONGEST))

    @contextlib.contextmanager
    def _connected(self, context: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=SECONDS, context=context)
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        proxyauth = {"proxy-authorization": f"Basic {credentials}"} if self.user or self.password else {}
        connection.set_tunnel(HOST, 443, proxyauth)
        with contextlib.closing(connection):
            connection.connect()
            yield connection
