"""The probe: a request as a client sends it, which the proxy dresses as ever and then answers itself.

It is sent only to a proxy that has said it knows the probe, over a connection that is known to end at it.
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
from codexpool.credentials.pat import PREFIX
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.doctor.tunnel import Answer, NoTunnelError, Tunnel, UntrustedError
from codexpool.protocol.endpoints import RESPONSES
from codexpool.protocol.headers import PROBE
from codexpool.redaction import redact_text
from codexpool.tokens.member_key import PREFIX as MEMBER_PREFIX

ABOUT: Final = "probe"

HEADER: Final = PROBE.decode()

SUBPROTOCOL: Final = "responses_websockets=2026-02-06"
"""What Codex 0.169 says in ``openai-beta`` of an upgrade."""

TRANSPORTS: Final = {"http": "over HTTP", "websocket": "as a WebSocket"}

LONGEST: Final = 500
"""Characters of a refusal's own words."""


class Probe(NamedTuple):
    """What is sent. ``token`` is the client's, or a made-up one."""

    number: str
    transport: str
    token: str


def token_of(client: ClientEnvironment, auth_json: str) -> str:
    """The token that the client would send, if it is one that begins with ``at-``; empty if it is none.

    ``auth_json`` is the text of the client's own. A login's tokens are left alone: the proxy tells nobody by them.
    """
    given = client.variables.get("CODEX_ACCESS_TOKEN", "").strip()
    if not given:
        try:
            document = json.loads(auth_json)
        except (ValueError, RecursionError):
            return ""
        stored = document.get("personal_access_token") if isinstance(document, dict) else None
        given = stored if isinstance(stored, str) else ""
    return given if given.startswith(PREFIX) and given.isascii() and given.isprintable() else ""


def findings(tunnel: Tunnel, context: ssl.SSLContext, token: str) -> Iterator[Finding]:
    """Send it over both transports, and say what came of each. Raises nothing."""
    for transport in TRANSPORTS:
        made_up = f"{PREFIX}codexpool-probe-{secrets.token_urlsafe(12)}"
        probe = Probe(secrets.token_urlsafe(12), transport, token or made_up)
        try:
            answer = _sent(tunnel, context, probe)
        except (UntrustedError, NoTunnelError, OSError, http.client.HTTPException) as error:
            yield wrong(
                ABOUT,
                f"{TRANSPORTS[transport]}: no answer ({error or type(error).__name__})",
                "the proxy's log says why",
            )
        else:
            yield judged(answer, probe)


def _sent(tunnel: Tunnel, context: ssl.SSLContext, probe: Probe) -> Answer:
    if probe.transport == "websocket":
        return tunnel.ask(context, "GET", RESPONSES, headers_of(probe), None)
    body = json.dumps({"model": "codexpool-probe", "stream": True, "store": False, "input": []}).encode()
    return tunnel.ask(context, "POST", RESPONSES, headers_of(probe), body)


def headers_of(probe: Probe) -> dict[str, str]:
    """The headers of a probe, as a client has them."""
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
        "openai-beta": SUBPROTOCOL,
    }


def judged(answer: Answer, probe: Probe) -> Finding:
    """What an answer says of the way to it."""
    how = TRANSPORTS[probe.transport]
    document = _document(answer.body)
    if answer.headers.get(HEADER) == probe.number and document.get("probe") == probe.number:
        return _of_answer(document, probe, how)
    if _is_refusal(answer):
        return _of_refusal(answer, document, probe, how)
    return wrong(
        ABOUT,
        f"{how}: {answer.status} from something that is not this proxy: it went past, or something else is between",
        "see that no other proxy is between (mitmproxy's mode), and restart this one with the same codexpool",
    )


def _of_answer(document: Mapping[str, Any], probe: Probe, how: str) -> Finding:
    if document.get("observing"):
        return note(ABOUT, f"{how}: arrives; the proxy only observes, and would swap nothing")
    replaced, added = (_names(document.get(key)) for key in ("replaced", "added"))
    member, identity = document.get("member"), document.get("identity")
    who = f" for member {member}" if member else ""
    if not identity or "authorization" not in (*replaced, *added):
        return wrong(
            ABOUT, f"{how}: arrives{who}, and its credential is not swapped", "restart the proxy; its log may say why"
        )
    if document.get("transport") != probe.transport:
        return wrong(
            ABOUT,
            f"{how}: arrives as {document.get('transport')}: something between changes it",
            "see that no other proxy is between",
        )
    return ok(ABOUT, f"{how}: arrives{who}, and is swapped to {identity} ({', '.join((*replaced, *added))})")


def _of_refusal(answer: Answer, document: Mapping[str, Any], probe: Probe, how: str) -> Finding:
    reason = _reason(answer, document)
    if answer.status == 401:
        is_key = probe.token.startswith(MEMBER_PREFIX)
        remedy = "ask whoever runs the proxy for a new key" if is_key else "set CODEX_ACCESS_TOKEN to your member key"
        return wrong(ABOUT, f"{how}: arrives, and is refused: {reason}", remedy)
    if answer.status == 429:
        return note(
            ABOUT, f"{how}: arrives, and has to wait: {reason}", "try again later; codexpool status says when"
        )
    return wrong(ABOUT, f"{how}: arrives, and nobody serves it: {reason}", "codexpool list says what each needs")


def _is_refusal(answer: Answer) -> bool:
    """Whether the proxy has said no itself. What the backend says has been through Cloudflare."""
    if "cf-ray" in answer.headers or "cloudflare" in answer.headers.get("server", "").lower():
        return False
    return answer.status in (400, 401, 403, 426, 429, 503) and (
        b"codexpool" in answer.body or answer.status in (400, 429)
    )


def _reason(answer: Answer, document: Mapping[str, Any]) -> str:
    match document:
        case {"error": {"message": str(message)}}:
            said = message
        case {"error": {"code": str(code)}}:
            said = code
        case _:
            said = answer.body.decode(errors="replace")
    said = " ".join(said.split()).removeprefix("codexpool: ")
    return f"{answer.status} {redact_text(said[:LONGEST])}".strip().removesuffix(".")


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []
