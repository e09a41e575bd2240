"""Documents of traces as a proxy makes them, for the tests of what reads them."""

from __future__ import annotations

import copy
from typing import Any, Final

AT: Final = 1764000000.123
"""When the request of these documents came."""

FLOW: Final = "0d5f4d2c-7a0e-4d86-9b1c-6a3a53f7f0e1"
SESSION: Final = "01a1fc00-1111-7222-8333-444455556666"

CLIENT_HEADERS: Final = [
    ["Host", "chatgpt.com"],
    ["version", "0.169.0"],
    ["x-codex-beta-features", "remote_compaction_v2"],
    ["x-codex-window-id", f"{SESSION}:0"],
    ["x-codex-routing-hint", "model=gpt-5"],
    ["x-client-request-id", SESSION],
    ["session-id", SESSION],
    ["thread-id", SESSION],
    ["accept", "text/event-stream"],
    ["content-encoding", "zstd"],
    ["content-type", "application/json"],
    ["authorization", "Bearer PAT 41 chars sha256:c11e47d0a1b2"],
    ["chatgpt-account-id", "acc-client"],
    ["openai-organization", "org-mine"],
    ["originator", "codex_exec"],
    ["user-agent", "codex_exec/0.169.0 (Debian 12.0.0; x86_64) dumb (codex_exec; 0.169.0)"],
]
"""What the client sent."""

TOKENS: Final = {"work": "40c025b2aff6", "spare": "1a2b3c4d5e6f"}
"""The fingerprints of the identities."""


def upstream_headers(identity: str) -> list[list[str]]:
    """What went upstream under an identity."""
    sent = [list(field) for field in CLIENT_HEADERS if field[0] != "openai-organization"]
    for field in sent:
        if field[0] == "authorization":
            field[1] = f"Bearer PAT 39 chars sha256:{TOKENS[identity]}"
        elif field[0] == "chatgpt-account-id":
            field[1] = f"acc-{identity}"
    return sent


def attempt(number: int, identity: str, status: int | None, **changes: Any) -> dict[str, Any]:
    """One attempt: a good one, or one that was refused because its token is dead (401)."""
    sent_at = AT + 0.01 * number
    refused = status == 401
    made: dict[str, Any] = {
        "number": number,
        "identity": identity,
        "kind": "pat",
        "fingerprint": TOKENS[identity],
        "account_id": f"acc-{identity}",
        "because": "the session is with it" if number == 1 else "the session moves to it",
        "candidates": None
        if number == 1
        else [
            {"name": "work", "chosen": False, "for": ["ready"], "against": ["refused this request already"]},
            {"name": "spare", "chosen": True, "for": ["ready", "82 % left"], "against": []},
        ],
        "sent_at": sent_at,
        "origin": "https://chatgpt.com",
        "lighter": False,
        "request_headers": upstream_headers(identity),
        "answered_at": sent_at + 0.005,
        "status": status,
        "response_headers": [
            ["content-type", "application/json" if refused else "text/event-stream"],
            *([["x-openai-authorization-error", "token_revoked"]] if refused else []),
            ["x-request-id", f"req_{number:032x}"],
        ],
        "request_id": f"req_{number:032x}",
        "verdict": {"row": "7", "finding": "refused", "next": "next identity"}
        if refused
        else {"row": "1", "finding": "ok", "next": "relay"},
        "evidence": "401 token_revoked on codex/responses" if refused else "",
        "milliseconds": 5.0,
    }
    return {**made, **changes}


def document(**changes: Any) -> dict[str, Any]:
    """A request whose session was with ``work``: that PAT is dead (401 token_revoked), ``spare`` serves it (200).

    ``changes`` replace whole members of the document.
    """
    made: dict[str, Any] = {
        "version": 1,
        "id": FLOW,
        "number": 17,
        "at": AT,
        "client": "127.0.0.1",
        "method": "POST",
        "url": "https://chatgpt.com/backend-api/codex/responses",
        "host": "chatgpt.com",
        "path": "/backend-api/codex/responses",
        "transport": "http",
        "observed": False,
        "policy": {
            "name": "swap",
            "row": "/backend-api/codex/responses",
            "means": "sent under an identity of the pool",
        },
        "session": {
            "key": SESSION,
            "from": "thread-id",
            "parent": None,
            "model": "gpt-5",
            "user_agent": "codex_exec/0.169.0 (Debian 12.0.0; x86_64) dumb (codex_exec; 0.169.0)",
        },
        "request_headers": CLIENT_HEADERS,
        "request_bytes": 1234,
        "attempts": [attempt(1, "work", 401), attempt(2, "spare", 200)],
        "waits": [],
        "turns": [],
        "answer": {
            "status": 200,
            "by": "backend",
            "message": "",
            "bytes": 5120,
            "error": None,
            "first_byte_at": AT + 0.03,
        },
        "ended_at": AT + 0.9,
        "time": [
            ["reading the request", 1.2],
            ["attempt 1 (work), until its answer began", 5.0],
            ["attempt 2 (spare), until its answer began", 5.0],
            ["passing the answer on", 875.0],
        ],
    }
    return copy.deepcopy({**made, **changes})
