"""Sends the probe: a request as a client sends it, which the proxy answers with what would become of it.

It is sent only to a proxy that reports that it knows the probe, over a connection that is known to end at that proxy.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from OpenSSL import crypto

from codexpool import __version__
from codexpool.credentials import PREFIX
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.doctor.trust import HEADER, Answer, Tunnel, UntrustedError
from codexpool.protocol.endpoints import RESPONSES
from codexpool.redaction import redact_text
from codexpool.tokens.member_key import PREFIX as MEMBER_PREFIX

ABOUT: Final = "probe"
MINIMAL: Final = b'{"model": "codexpool-probe", "stream": true, "store": false, "input": []}'
TRANSPORTS: Final = {"http": "over HTTP", "websocket": "as a WebSocket"}
LONGEST: Final = 500  # characters quoted of a refusal
NO_ANSWER: Final = "see the proxy's log; if codexpool status answers, restart the proxy"
NO_OTHER_PROXY: Final = "make sure that no other proxy is in between"


class Probe(NamedTuple):
    """A probe to send; ``token`` is the client's, or a made-up one."""

    number: str
    transport: str
    token: str


def client_token(client: ClientEnvironment, auth_json: str) -> str:
    """Return the token that the client would send if it begins with ``at-``; otherwise an empty string.

    ``auth_json`` is the text of the client's auth.json. A login's tokens are not used: they identify no member.
    """
    token = client.variables.get("CODEX_ACCESS_TOKEN", "").strip()
    if not token:
        stored = _document(auth_json.encode()).get("personal_access_token")
        token = stored if isinstance(stored, str) else ""
    return token if token.startswith(PREFIX) and token.isascii() and token.isprintable() else ""


def new_number() -> str:
    """Return a number that cannot be guessed: an answer that repeats it is the proxy's."""
    return secrets.token_urlsafe(12)


def findings(tunnel: Tunnel, trusted: crypto.X509Store, token: str) -> Iterator[Finding]:
    """Send a probe over each transport."""
    for transport, how in TRANSPORTS.items():
        made_up = f"{PREFIX}codexpool-probe-{secrets.token_urlsafe(12)}"
        probe = Probe(new_number(), transport, token or made_up)
        method, body = ("POST", MINIMAL) if transport == "http" else ("GET", None)
        try:
            answer = tunnel.ask(trusted, probe.number, method, RESPONSES, probe_headers(probe), body)
            yield evaluate(answer, probe)
        except UntrustedError:  # That of a moment ago was trusted.
            text = f"{how}: the proxy that answers has another certificate authority (CA) than the one before"
            yield wrong(ABOUT, text, "give all proxies behind a balancer the same CA (docs/fleet.md)")
        except (OSError, http.client.HTTPException) as error:
            yield wrong(ABOUT, f"{how}: no answer ({str(error) or type(error).__name__})", NO_ANSWER)


def probe_headers(probe: Probe) -> dict[str, str]:
    """Return the headers of a probe, as a client sends them."""
    session = str(uuid.uuid4())
    headers = {
        "authorization": f"Bearer {probe.token}",
        "chatgpt-account-id": "acc-codexpool-probe",
        "session-id": session,
        "thread-id": session,
        "originator": "codexpool_doctor",
        "user-agent": f"codexpool-doctor/{__version__}",
    }
    if probe.transport == "http":
        return {**headers, "accept": "text/event-stream", "content-type": "application/json"}
    return {
        **headers,
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(secrets.token_bytes(16)).decode(),
        "openai-beta": "responses_websockets=2026-02-06",  # as Codex 0.169 sends it
    }


def evaluate(answer: Answer, probe: Probe) -> Finding:
    """Return what an answer shows about the path to the proxy."""
    how, document = TRANSPORTS[probe.transport], _document(answer.body)
    if answer.headers.get(HEADER) != probe.number or document.get("probe") != probe.number:
        remedy = f"{NO_OTHER_PROXY} (mitmproxy's mode), and restart this one with the same codexpool"
        return wrong(ABOUT, f"{how}: {answer.status} from something that is not this proxy", remedy)
    if document.get("transport") != probe.transport:
        text = f"{how}: arrives as {document.get('transport')}: something in between changes it"
        return wrong(ABOUT, text, NO_OTHER_PROXY)
    return _of_answer(document, probe, how)


def _of_answer(document: Mapping[str, Any], probe: Probe, how: str) -> Finding:
    member, identity = document.get("member"), document.get("identity")
    arrives = f"{how}: arrives for member {member}" if member else f"{how}: arrives"
    if document.get("observing"):
        return note(ABOUT, f"{arrives}; the proxy only observes, and would not swap it", WITHOUT_OBSERVING)
    if not document.get("pool"):
        text = f"{arrives}, and keeps the client's own credential: the proxy has no pool"
        return wrong(ABOUT, text, "codexpool add NAME, or codexpool login NAME; a running proxy follows")
    if isinstance(refused := document.get("refused"), dict):
        return _of_refusal(refused, probe, arrives)
    changed = [*map(str, document.get("replaced") or ()), *map(str, document.get("added") or ())]
    if not identity or "authorization" not in changed:
        return wrong(ABOUT, f"{arrives}, but its credential is not swapped", RESTART)
    return ok(ABOUT, f"{arrives}, and is swapped to {identity} ({', '.join(changed)})")


def _of_refusal(refused: Mapping[str, Any], probe: Probe, arrives: str) -> Finding:
    status = refused.get("status")
    text = " ".join(str(refused.get("reason") or "").split()).removeprefix("codexpool: ")
    reason = f"{status} {redact_text(text[:LONGEST])}".strip().removesuffix(".")
    if status == 401:
        is_key = probe.token.startswith(MEMBER_PREFIX)
        ask = "ask the proxy's operator for a new key (codexpool member rotate NAME)"
        remedy = ask if is_key else "set CODEX_ACCESS_TOKEN to your member key (codexpool member add NAME makes one)"
        return wrong(ABOUT, f"{arrives}, and is refused: {reason}", remedy)
    if status == 429:
        return note(ABOUT, f"{arrives}, and has to wait: {reason}", "codexpool status shows until when")
    return wrong(ABOUT, f"{arrives}, but cannot be served: {reason}", "codexpool list says what each identity needs")


WITHOUT_OBSERVING: Final = "to swap, restart it without codexpool_observe"
RESTART: Final = "codexpool doctor --routes shows what is swapped; otherwise restart the proxy, and see its log"


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
