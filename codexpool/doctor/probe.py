"""Sends the probe: a request as a client sends it, which the proxy prepares as usual and then answers itself.

It is sent only to a proxy that reports that it knows the probe, over a connection that is known to end at that proxy.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from codexpool import __version__
from codexpool.credentials import PREFIX
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.doctor.trust import Answer, Tunnel
from codexpool.protocol.endpoints import RESPONSES
from codexpool.protocol.headers import PROBE
from codexpool.redaction import redact_text
from codexpool.tokens.member_key import PREFIX as MEMBER_PREFIX

ABOUT: Final = "probe"
HEADER: Final = PROBE.decode()
MINIMAL: Final = b'{"model": "codexpool-probe", "stream": true, "store": false, "input": []}'
TRANSPORTS: Final = {"http": "over HTTP", "websocket": "as a WebSocket"}
LONGEST: Final = 500  # characters quoted of a refusal
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


def findings(tunnel: Tunnel, context: ssl.SSLContext, token: str) -> Iterator[Finding]:
    """Send a probe over each transport."""
    for transport, how in TRANSPORTS.items():
        made_up = f"{PREFIX}codexpool-probe-{secrets.token_urlsafe(12)}"
        probe = Probe(secrets.token_urlsafe(12), transport, token or made_up)
        method, body = ("POST", MINIMAL) if transport == "http" else ("GET", None)
        try:
            yield evaluate(tunnel.ask(context, method, RESPONSES, probe_headers(probe), body), probe)
        except ssl.SSLCertVerificationError:  # That of a moment ago was trusted.
            text = f"{how}: the proxy that answers has another certificate authority (CA) than the one before"
            yield wrong(ABOUT, text, "give all proxies behind a balancer the same CA (docs/fleet.md)")
        except (OSError, http.client.HTTPException) as error:
            yield wrong(ABOUT, f"{how}: no answer ({str(error) or type(error).__name__})", "see the proxy's log")


def probe_headers(probe: Probe) -> dict[str, str]:
    """Return the headers of a probe, as a client sends them."""
    session = str(uuid.uuid4())
    headers = {
        HEADER: probe.number,
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
    if answer.headers.get(HEADER) == probe.number and document.get("probe") == probe.number:
        return _of_answer(document, probe, how)
    if _is_refusal(answer):
        return _of_refusal(answer, document, probe, how)
    remedy = f"{NO_OTHER_PROXY} (mitmproxy's mode), and restart this one with the same codexpool"
    return wrong(ABOUT, f"{how}: {answer.status} from something that is not this proxy", remedy)


def _of_answer(document: Mapping[str, Any], probe: Probe, how: str) -> Finding:
    if document.get("observing"):
        return note(ABOUT, f"{how}: arrives; the proxy only observes, and would not swap it")
    changed = [*map(str, document.get("replaced") or ()), *map(str, document.get("added") or ())]
    member, identity, transport = document.get("member"), document.get("identity"), document.get("transport")
    arrives = f"{how}: arrives for member {member}" if member else f"{how}: arrives"
    if not identity or "authorization" not in changed:
        return wrong(ABOUT, f"{arrives}, but its credential is not swapped", "restart the proxy, and see its log")
    if transport != probe.transport:
        return wrong(ABOUT, f"{how}: arrives as {transport}: something in between changes it", NO_OTHER_PROXY)
    return ok(ABOUT, f"{arrives}, and is swapped to {identity} ({', '.join(changed)})")


def _of_refusal(answer: Answer, document: Mapping[str, Any], probe: Probe, how: str) -> Finding:
    reason = _reason(answer, document)
    if answer.status == 401:
        is_key = probe.token.startswith(MEMBER_PREFIX)
        remedy = "ask the proxy's operator for a new key" if is_key else "set CODEX_ACCESS_TOKEN to your member key"
        return wrong(ABOUT, f"{how}: arrives, and is refused: {reason}", remedy)
    if answer.status == 429:
        return note(ABOUT, f"{how}: arrives, and has to wait: {reason}", "try again later; see codexpool status")
    return wrong(ABOUT, f"{how}: arrives, but cannot be served: {reason}", "see codexpool list")


def _is_refusal(answer: Answer) -> bool:
    """Return whether the proxy itself refused. Answers of the backend pass through Cloudflare."""
    if "cf-ray" in answer.headers or "cloudflare" in answer.headers.get("server", "").lower():
        return False
    return answer.status in (400, 429) or (answer.status in (401, 403, 426, 503) and b"codexpool" in answer.body)


def _reason(answer: Answer, document: Mapping[str, Any]) -> str:
    match document:
        case {"error": {"message": str(message)}}:
            text = message
        case {"error": {"code": str(code)}}:
            text = code
        case _:
            text = answer.body.decode(errors="replace")
    text = " ".join(text.split()).removeprefix("codexpool: ")
    return f"{answer.status} {redact_text(text[:LONGEST])}".strip().removesuffix(".")


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
