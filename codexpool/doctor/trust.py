"""Connects to the backend's host through the proxy, and checks whether the client trusts its certificate there.

``CODEX_CA_CERTIFICATE`` takes precedence over ``SSL_CERT_FILE``; an empty one counts as unset, and the file's
certificates are added to the system's (openai/codex #14239). The client only warns about a file it cannot read.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import certifi

from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.local.ca_files import CERTIFICATE
from codexpool.protocol.endpoints import HOST

ABOUT: Final = "trust"
VARIABLES: Final = ("CODEX_CA_CERTIFICATE", "SSL_CERT_FILE")
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


class Trusted(NamedTuple):
    """The result, and the TLS context to send a probe with; None if none may be sent."""

    finding: Finding
    context: ssl.SSLContext | None


UNCHECKED: Final = Trusted(note(ABOUT, "not checked: no proxy answers"), None)


def check(client: ClientEnvironment, tunnel: Tunnel, ca_file: Path | None) -> Trusted:
    """Check whether the client trusts what the proxy presents for the backend; nothing is sent to the backend.

    ``ca_file`` is the proxy's own certificate, if this machine has it.
    """
    try:
        own = _trusted_context(tunnel, ca_file) if ca_file is not None else None
        if own is None and _trusted_context(tunnel, certifi.where()) is not None:  # It is the backend's own.
            text = "the proxy relays connections to the backend unread: nothing can be swapped, and no probe is sent"
            remedy = "remove chatgpt.com from mitmproxy's ignore_hosts (or add it to allow_hosts), and restart it"
            return Trusted(wrong(ABOUT, text, remedy), None)
        trusted = _of_client(client, tunnel, ca_file)
    except (OSError, http.client.HTTPException) as error:
        text = f"the proxy does not connect to the backend: {str(error) or type(error).__name__}"
        return Trusted(wrong(ABOUT, text, "see the proxy's log; it usually cannot reach the backend itself"), None)
    return trusted._replace(context=own or trusted.context)


def _trusted_context(tunnel: Tunnel, ca_file: Path | str) -> ssl.SSLContext | None:
    """Return a context that trusts this file only; None if it cannot be read, or the proxy's certificate fails it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=str(ca_file))
    except OSError:
        return None
    return context if tunnel.is_trusted(context) else None


def _of_client(client: ClientEnvironment, tunnel: Tunnel, ca_file: Path | None) -> Trusted:
    variable = next((name for name in VARIABLES if client.variables.get(name)), "")
    path = client.variables.get(variable, "")
    name = f"{client.where(variable)} ({path})"
    remedy = f"export CODEX_CA_CERTIFICATE={ca_file or f'PATH/{CERTIFICATE}'}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    try:
        if path:
            context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return Trusted(wrong(ABOUT, f"{name} has no certificate in PEM form", remedy), None)
    except OSError as error:
        hint = "; write the path in full: the client does not expand ~" if path.startswith("~") else ""
        text = f"{name} cannot be read: {error.strerror or type(error).__name__}"
        return Trusted(wrong(ABOUT, text, remedy + hint), None)
    if not tunnel.is_trusted(context):
        unset = "neither CODEX_CA_CERTIFICATE nor SSL_CERT_FILE is set, and this system does not trust the proxy"
        text = f"{name} lacks the proxy's certificate authority" if path else unset
        return Trusted(wrong(ABOUT, text, remedy), None)
    needless = "this system trusts the proxy's certificates; no variable is needed"
    return Trusted(ok(ABOUT, f"{name} has the proxy's certificate authority" if path else needless), context)
