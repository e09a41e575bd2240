"""Whose certificates the client believes, and whether the proxy's are among them: a TLS handshake through the proxy.

``CODEX_CA_CERTIFICATE`` comes before ``SSL_CERT_FILE``, an empty one is as good as none, and what the file holds is
added to the system's authorities (openai/codex #14239). A file that cannot be read is a warning to the client only.
"""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from typing import Final, NamedTuple

import certifi

from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.doctor.tunnel import NoTunnelError, Tunnel, UntrustedError
from codexpool.local.ca_files import CERTIFICATE

ABOUT: Final = "trust"

VARIABLES: Final = ("CODEX_CA_CERTIFICATE", "SSL_CERT_FILE")


class Trusted(NamedTuple):
    """What came of looking. ``context`` is whom a probe is to believe; None where none may be sent."""

    findings: list[Finding]
    context: ssl.SSLContext | None


class Bundle(NamedTuple):
    """The file that a client takes, and the variable that names it; both empty where none does."""

    variable: str
    path: str


def bundle_of(client: ClientEnvironment) -> Bundle:
    """The file that the client takes."""
    for name in VARIABLES:
        if value := client.variables.get(name, ""):
            return Bundle(name, value)
    return Bundle("", "")


def context_of(bundle: Bundle) -> ssl.SSLContext:
    """Whom the client believes. Raises OSError (ssl.SSLError among it) for a file that is of no use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    if bundle.path:
        context.load_verify_locations(cafile=bundle.path)
    return context


def only(ca_file: Path | str) -> ssl.SSLContext:
    """Nobody but this one is believed. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(ca_file))
    return context


def looked_at(client: ClientEnvironment, tunnel: Tunnel, ca_file: Path | None) -> Trusted:
    """Does the client believe what the proxy says for the backend.

    ``ca_file`` is the proxy's own certificate, where this machine has it. Speaks with the proxy, and asks nothing of
    the backend.
    """
    try:
        own = _of_proxy(tunnel, ca_file)
        if own is None and _believes(tunnel, only(certifi.where())):
            return Trusted([passes_by()], None)
        mine, findings = _of_client(client, tunnel, ca_file)
    except (NoTunnelError, OSError, http.client.HTTPException) as error:
        return Trusted([no_tunnel(error)], None)
    return Trusted(findings, own or mine)


def _of_proxy(tunnel: Tunnel, ca_file: Path | None) -> ssl.SSLContext | None:
    """A context that believes the proxy alone, if it can be had."""
    try:
        context = only(ca_file) if ca_file is not None else None
    except OSError:
        return None
    return context if context is not None and _believes(tunnel, context) else None


def _of_client(
    client: ClientEnvironment, tunnel: Tunnel, ca_file: Path | None
) -> tuple[ssl.SSLContext | None, list[Finding]]:
    bundle = bundle_of(client)
    try:
        context = context_of(bundle)
    except OSError as error:
        return None, [unusable(client, bundle, error, ca_file)]
    if _believes(tunnel, context):
        return context, [believed(client, bundle)]
    return None, [unbelieved(client, bundle, ca_file)]


def _believes(tunnel: Tunnel, context: ssl.SSLContext) -> bool:
    try:
        tunnel.handshake(context)
    except UntrustedError:
        return False
    return True


# -- the findings


def believed(client: ClientEnvironment, bundle: Bundle) -> Finding:
    if not bundle.path:
        return ok(ABOUT, "this system believes the proxy's certificates; no variable is needed for that")
    return ok(ABOUT, f"{client.where(bundle.variable)} has the proxy's authority: {bundle.path}")


def unbelieved(client: ClientEnvironment, bundle: Bundle, ca_file: Path | None) -> Finding:
    if not bundle.path:
        what = "neither CODEX_CA_CERTIFICATE nor SSL_CERT_FILE is set, and this system does not believe the proxy"
        return wrong(ABOUT, what, _set(ca_file))
    what = f"{client.where(bundle.variable)} ({bundle.path}) does not have the authority that signs for this proxy"
    return wrong(ABOUT, what, _set(ca_file))


def unusable(client: ClientEnvironment, bundle: Bundle, error: OSError, ca_file: Path | None) -> Finding:
    """The client would say a warning, go on without it, and fail at each certificate."""
    name = client.where(bundle.variable)
    if isinstance(error, ssl.SSLError):
        return wrong(ABOUT, f"{name} ({bundle.path}) holds no certificate in PEM form", _set(ca_file))
    hint = "; the client takes ~ as it is: write the path in full" if bundle.path.startswith("~") else ""
    what = f"{name} names a file that cannot be read ({bundle.path}: {error.strerror or type(error).__name__})"
    return wrong(ABOUT, what, _set(ca_file) + hint)


def passes_by() -> Finding:
    """What answers has a certificate that everybody believes: the proxy only lends the wire."""
    return wrong(
        ABOUT,
        "the proxy lets connections to the backend pass unread: nothing can be swapped, and no probe is sent",
        "take chatgpt.com out of mitmproxy's ignore_hosts (or into its allow_hosts), and restart it",
    )


def no_tunnel(error: Exception) -> Finding:
    return wrong(
        ABOUT,
        f"the proxy opens no way to the backend: {error or type(error).__name__}",
        "the proxy's log says why; mostly it cannot reach the backend itself",
    )


def unlooked() -> Finding:
    return note(ABOUT, "not looked at: there is no proxy to shake hands with")


def _set(ca_file: Path | None) -> str:
    where = str(ca_file) if ca_file is not None else f"PATH of the proxy's {CERTIFICATE}"
    return f"export CODEX_CA_CERTIFICATE={where}"
