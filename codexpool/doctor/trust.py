"""Connects to the backend's host through the proxy, and checks whether the client trusts its certificate there.

``CODEX_CA_CERTIFICATE`` takes precedence over ``SSL_CERT_FILE``; an empty one counts as unset, and the file's
certificates are added to the system's (openai/codex #14239). The client only warns about a file it cannot read.

The certificate is checked after the handshake: one that fails would be a warning in the proxy's log. CONNECT marks
the connection as a probe's, so that the proxy connects to no server (`codexpool.proxy.probe`).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import shlex
import ssl
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import certifi
from cryptography import x509
from OpenSSL import crypto

from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.local.ca_files import CERTIFICATE
from codexpool.protocol.endpoints import HOST
from codexpool.protocol.headers import PROBE

ABOUT: Final = "trust"
HEADER: Final = PROBE.decode()
VARIABLES: Final = ("CODEX_CA_CERTIFICATE", "SSL_CERT_FILE")
SECONDS: Final = 15.0  # for each step of a connection
LONGEST: Final = 65_536  # bytes read of an answer


class UntrustedError(Exception):
    """The proxy has another certificate than the one that was checked before."""


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

    def chain(self, number: str) -> list[crypto.X509]:
        """Make a TLS handshake, and return the certificates of the other end. Raises OSError and HTTPException."""
        with self._connected(number) as connection:
            return _chain(connection)

    def ask(
        self,
        trusted: crypto.X509Store,
        number: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        """Send a request to the backend's host. Raises UntrustedError, OSError and http.client.HTTPException."""
        with self._connected(number) as connection:
            if not is_trusted(_chain(connection), trusted):
                raise UntrustedError
            connection.request(method, path, body, {HEADER: number, **headers})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, b"" if response.status == 101 else response.read(LONGEST))

    @contextlib.contextmanager
    def _connected(self, number: str) -> Iterator[http.client.HTTPSConnection]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=SECONDS, context=context)
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        proxyauth = {"proxy-authorization": f"Basic {credentials}"} if self.user or self.password else {}
        connection.set_tunnel(HOST, 443, {HEADER: number, **proxyauth})
        with contextlib.closing(connection):
            connection.connect()
            yield connection


def _chain(connection: http.client.HTTPSConnection) -> list[crypto.X509]:
    sock: Any = connection.sock
    # A method of ssl.SSLSocket since Python 3.13.
    chain = (getattr(sock, "get_unverified_chain", None) or sock._sslobj.get_unverified_chain)() or ()
    ders = (one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in chain)
    return [crypto.load_certificate(crypto.FILETYPE_ASN1, der) for der in ders]


def is_trusted(chain: list[crypto.X509], store: crypto.X509Store) -> bool:
    """Return whether the certificates are valid for the backend's host, and lead to one in a store."""
    if not chain or not _is_for_host(chain[0].to_cryptography()):
        return False
    try:
        crypto.X509StoreContext(store, chain[0], chain[1:]).verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return True


def _is_for_host(certificate: x509.Certificate) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return bool({HOST, f"*.{HOST.partition('.')[2]}"} & set(names.get_values_for_type(x509.DNSName)))


class Trusted(NamedTuple):
    """The result, and the authorities of which one has signed for the proxy; None if no probe may be sent."""

    finding: Finding
    store: crypto.X509Store | None


UNCHECKED: Final = Trusted(note(ABOUT, "not checked: no proxy answers"), None)


def check(client: ClientEnvironment, tunnel: Tunnel, ca_file: Path | None, number: str) -> Trusted:
    """Check whether the client trusts what the proxy presents for the backend; nothing is sent to the backend.

    ``ca_file`` is the proxy's own certificate, if this machine has it; ``number`` is that of a probe.
    """
    try:
        chain = tunnel.chain(number)
    except (OSError, http.client.HTTPException) as error:
        text = f"no TLS connection through the proxy: {str(error) or type(error).__name__}"
        remedy = "see the proxy's log; chatgpt.com must not be in mitmproxy's ignore_hosts or tcp_hosts"
        return Trusted(wrong(ABOUT, text, remedy), None)
    own = _store(ca_file) if ca_file is not None else None
    if own is not None and not is_trusted(chain, own):
        own = None
    public = _store(certifi.where())
    if own is None and public is not None and is_trusted(chain, public):  # It is the backend's own.
        text = "the proxy relays connections to the backend unread: nothing can be swapped, and no probe is sent"
        remedy = "remove chatgpt.com from mitmproxy's ignore_hosts (or add it to allow_hosts), and restart it"
        return Trusted(wrong(ABOUT, text, remedy), None)
    trusted = _of_client(client, chain, ca_file)
    return trusted._replace(store=own or trusted.store)


def _store(ca_file: Path | str) -> crypto.X509Store | None:
    """Return a store with the certificates of a file; None if they cannot be read."""
    store = crypto.X509Store()
    try:
        store.load_locations(str(ca_file))
    except crypto.Error:
        return None
    return store


def _of_system() -> crypto.X509Store:
    store, paths = crypto.X509Store(), ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        with contextlib.suppress(crypto.Error):
            store.load_locations(paths.cafile, paths.capath)
    if sys.platform == "win32":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        for der in context.get_ca_certs(binary_form=True):
            store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, der))
    return store


def _of_client(client: ClientEnvironment, chain: list[crypto.X509], ca_file: Path | None) -> Trusted:
    variable = next((name for name in VARIABLES if client.variables.get(name)), "")
    path = client.variables.get(variable, "")
    name = f"{client.where(variable)} ({path})"
    remedy = f"export CODEX_CA_CERTIFICATE={shlex.quote(str(ca_file or f'PATH/{CERTIFICATE}'))}"
    store = _of_system()
    try:
        if path:
            Path(path).read_bytes()
            store.load_locations(path)
    except crypto.Error:
        return Trusted(wrong(ABOUT, f"{name} has no certificate in PEM form", remedy), None)
    except OSError as error:
        hint = "; write the path in full: the client does not expand ~" if path.startswith("~") else ""
        text = f"{name} cannot be read: {error.strerror or type(error).__name__}"
        return Trusted(wrong(ABOUT, text, remedy + hint), None)
    if not is_trusted(chain, store):
        unset = "neither CODEX_CA_CERTIFICATE nor SSL_CERT_FILE is set, and this system does not trust the proxy"
        text = f"{name} lacks the proxy's certificate authority" if path else unset
        return Trusted(wrong(ABOUT, text, remedy), None)
    needless = "this system trusts the proxy's certificates; no variable is needed"
    return Trusted(ok(ABOUT, f"{name} has the proxy's certificate authority" if path else needless), store)
