"""Documents as the API of a running proxy gives them, made by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]

HOUR = 3600.0
DAY = 24 * HOUR


def identity(name: str, **changes: Any) -> Document:
    now = time.time()
    return {
        "name": name,
        "kind": "pat",
        "fingerprint": "1a2b3c4d5e6f",
        "account_id": f"acc-{name}",
        "user_id": f"user-{name}",
        "email": f"{name}@example.com",
        "plan": "business",
        "fedramp": False,
        "origin": "https://chatgpt.com",
        "status": "ready",
        "since": now - 3 * HOUR,
        "until": None,
        "evidence": "",
        "needs": "",
        "command": "",
        "expires_at": None,
        "reminder": "",
        "sessions": 3,
        "headroom": 0.82,
        "limits": [limit(300, 18.0, 2.2 * HOUR), limit(7 * 24 * 60, 61.4, 3.4 * DAY)],
        "limited": {},
        "reset_credits": {"available": 0, "expires_at": None},
        "models": ["gpt-small", "gpt-large"],
        "lacks": [],
        "not_for": [],
        "requests": 128,
        "refusals": 0,
        "tokens_today": {"input": 2_301_442, "cached": 1_900_000, "output": 41_877, "reasoning": 12_000},
        "last_used_at": now - 12,
        **changes,
    }


def limit(minutes: int, used: float, left: float | None, family: str = "codex") -> Document:
    return {
        "family": family,
        "minutes": minutes,
        "used_percent": used,
        "resets_at": None if left is None else time.time() + left,
    }


def session(number: int, name: str, **changes: Any) -> Document:
    return {
        "key": f"01a1fc00-7d3e-7{number:03x}-9b5a-6f0d2c4e8a{number % 256:02x}",
        "identity": name,
        "moves": number % 3 // 2,
        "last_at": time.time() - 17 * number - 4,
        "requests": 3 + number * 7 % 40,
        "client": "127.0.0.1",
        "model": ("gpt-5.1-codex", "gpt-5.1-codex-mini")[number % 2],
        "member": None,
        **changes,
    }


def member(name: str, **changes: Any) -> Document:
    return {
        "name": name,
        "key": "valid",
        "expires_at": time.time() + 40 * DAY,
        "identities": ["*"],
        "turns_under_way": 1,
        "turns_at_once": 4,
        "turns_today": 212,
        "turns_a_day": 2000,
        "tokens_today": {"input": 9_301_442, "cached": 8_000_000, "output": 141_877, "reasoning": 20_000},
        **changes,
    }


def event(number: int, text: str, what: str = "request", ago: float = 0.0, **changes: Any) -> Document:
    at = datetime.fromtimestamp(time.time() - ago, UTC)
    return {
        "version": 1,
        "number": number,
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": what,
        "flow": None,
        "client": "127.0.0.1",
        "session": None,
        "model": None,
        "identity": None,
        "method": None,
        "host": None,
        "path": None,
        "status": 200 if what == "request" else None,
        "attempts": None,
        "milliseconds": None,
        "bytes_out": None,
        "bytes_in": None,
        "refusals": [],
        "was": None,
        "becomes": None,
        "text": text,
        **changes,
    }


def attempt(number: int, name: str, status: int | None = 200, **changes: Any) -> Document:
    now = time.time()
    refused = status == 401
    return {
        "number": number,
        "identity": name,
        "kind": "pat",
        "fingerprint": "1a2b3c4d5e6f" if refused else "40c025b2aff6",
        "account_id": f"acc-{name}",
        "because": "the session is with it" if number == 1 else "the session moves to it",
        "candidates": None
        if number == 1
        else [
            {"name": name, "chosen": True, "for": ["ready", "82 % left"], "against": []},
            {"name": "night-shift", "chosen": False, "for": ["ready"], "against": ["only 9 % left"]},
            {"name": "batch", "chosen": False, "for": [], "against": ["limited until 14:02"]},
        ],
        "sent_at": now - 60,
        "origin": "https://chatgpt.com",
        "lighter": False,
        "request_headers": [["authorization", "Bearer PAT 48 chars sha256:1a2b3c4d5e6f"]],
        "answered_at": None if status is None else now - 59.9,
        "status": status,
        "response_headers": [
            ["content-type", "application/json" if refused else "text/event-stream"],
            ["x-request-id", "req_7f2c9d1e8b4a4c6f"],
            ["x-codex-primary-used-percent", "18"],
            ["set-cookie", "__cf_bm=secret 43 chars sha256:77aa00bb11cc; path=/; HttpOnly"],
        ],
        "request_id": "req_7f2c9d1e8b4a4c6f",
        "verdict": {"row": "7", "finding": "refused", "next": "next identity"} if refused else None,
        "evidence": "401 token_revoked on codex/responses" if refused else "",
        "milliseconds": 12.3,
        **changes,
    }


def flow(number: int, *attempts: Document, **changes: Any) -> Document:
    at = time.time() - 23 * number - 2 - (86_400 if number > 20 else 0)  # Times of yesterday are wider.
    attempts = attempts or (attempt(1, "spare"),)
    status = attempts[-1]["status"]
    return {
        "version": 1,
        "id": f"00000000-0000-4000-8000-{number:012d}",
        "number": 400 - number,
        "at": at,
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
            "key": session(number, "")["key"],
            "from": "thread-id",
            "parent": None,
            "model": "gpt-5.1-codex",
            "user_agent": "codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm-256color",
        },
        "request_headers": None,
        "request_bytes": 48213,
        "attempts": list(attempts),
        "waits": [],
        "turns": [],
        "answer": {
            "status": status,
            "by": "backend",
            "message": "",
            "bytes": 5120,
            "error": None,
            "first_byte_at": at + 0.4,
        },
        "ended_at": at + 2.31,
        "time": [
            ["reading the request", 1.2],
            ["finding an identity", 0.1],
            ["attempt 1 (work), until its answer began", 112.0],
            ["attempt 2 (spare), until its answer began", 380.4],
            ["passing the answer on", 1816.3],
        ],
        **changes,
    }


TABLE: list[Document] = [
    {
        "name": "Authorization",
        "sign": "~",
        "client": "Bearer JWT 812 chars sha256:c0ffee012345, plan plus, exp in 4 min",
        "upstream": ["Bearer PAT 48 chars sha256:1a2b3c4d5e6f", "Bearer PAT 48 chars sha256:40c025b2aff6"],
        "means": "Who asks: the token decides whose limits are used.",
    },
    {
        "name": "ChatGPT-Account-ID",
        "sign": "~",
        "client": "acc-client",
        "upstream": ["acc-work", "acc-spare"],
        "means": "The workspace that the token is used for.",
    },
    {
        "name": "x-openai-account-routing-override",
        "sign": "+",
        "client": None,
        "upstream": ["eu-west", "eu-west"],
        "means": "Where the workspace is served from.",
    },
    {
        "name": "x-oai-attestation",
        "sign": "-",
        "client": "secret 344 chars sha256:0badc0de0bad",
        "upstream": [None, None],
        "means": "Vouches for the client's device.",
    },
    {"name": "thread-id", "sign": "=", "client": "01a1fc00-7d3e", "upstream": ["01a1fc00-7d3e"] * 2, "means": ""},
    {
        "name": "user-agent",
        "sign": "=",
        "client": "codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm-256color (codex_exec; 0.169.0)",
        "upstream": ["codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm-256color (codex_exec; 0.169.0)"] * 2,
        "means": "The client's kind and version.",
    },
    {
        "name": "accept",
        "sign": "=",
        "client": "text/event-stream",
        "upstream": ["text/event-stream"] * 2,
        "means": "",
    },
]

EXPLANATION = [
    "POST https://chatgpt.com/backend-api/codex/responses",
    "spare served it, attempt 2: 200",
    "What was asked",
    "policy: swap (row /backend-api/codex/responses): sent under an identity of the pool",
    "session: 01a1fc00-7d3e-7000-9b5a-6f0d2c4e8a00, read from thread-id",
    "Identities tried",
    "work was chosen because the session is with it",
    "  no other identity was considered",
    "attempt 1, work (PAT sha256:1a2b3c4d5e6f): 401 token_revoked on codex/responses, after 12 ms → row 7, refused",
    "  row 7: the backend refuses a PAT, which only a person can replace; the request goes out under",
    "spare was chosen because the session moves to it",
    "attempt 2, spare (PAT sha256:40c025b2aff6): 200, after 380 ms",
]


def detail(of: Document, table: list[Document] = TABLE, explanation: list[str] = EXPLANATION) -> Document:
    """What the API says of one flow."""
    return {"flow": {**of, "request_headers": []}, "table": table, "explanation": explanation}


def status(*identities: Document, sessions: list[Document] | None = None, **changes: Any) -> Document:
    now = time.time()
    proxy = {
        "pid": 4242,
        "version": "0.1.0",
        "mitmproxy": "12.3.1",
        "python": "3.12.1",
        "listens": ["127.0.0.1:8080"],
        "started_at": now - 3 * HOUR,
        "pool": "/home/you/.config/codexpool/pool.toml",
        "observe": False,
        "access": "anyone",
        "closed": "",
    }
    return {
        "version": 1,
        "at": now,
        "proxy": {**proxy, **changes.pop("proxy", {})},
        "identities": list(identities),
        "sessions": sessions or [],
        "sessions_total": len(sessions or []),
        "pins": [],
        "pins_total": 0,
        "state": {
            "engine": "sqlite",
            "where": "/home/you/state.sqlite3",
            "connected": True,
            "since": now,
            "waiting": 0,
        },
        "fleet": [proxy_of_fleet("here", self=True)],
        "members": [],
        "pool_file": {"path": proxy["pool"], "read_at": now - HOUR, "missing": False, "problem": ""},
        "breaker": {"open": False, "until": None, "names": []},
        "hour": hour(now),
        "hour_by_identity": [],
        "totals": {
            "requests": 2841,
            "refusals": 31,
            "failures": 4,
            "sent_again": 29,
            "moves": 9,
            "bytes_out": 91_234_567,
            "bytes_in": 512_345_678,
            "sockets_open": 2,
            "under_way": 1,
        },
        "events_last": 0,
        **changes,
    }


def proxy_of_fleet(host: str, **changes: Any) -> Document:
    now = time.time()
    return {
        "host": host,
        "version": "0.1.0",
        "pid": 4242,
        "started_at": now - 3 * HOUR,
        "seen_at": now - 2,
        "alive": True,
        "sessions": 9,
        "self": False,
        **changes,
    }


def hour(now: float, factor: float = 1.0) -> list[Document]:
    """A day's work in an hour: a lull, a peak, and some trouble."""
    begin = int(now // 60 - 59) * 60
    shape = [3, 5, 4, 6, 7, 9, 8, 7, 5, 2, 0, 0, 0, 1, 3, 6, 9, 12, 14, 13, 11, 12, 15, 17, 16, 14, 12, 9, 10, 8]
    return [
        {
            "at": begin + 60 * minute,
            "requests": round(factor * shape[minute // 2] + minute % 2 * factor),
            "refusals": round(factor * (3 if minute in (33, 34) else minute in (12, 47))),
            "failures": round(factor * (minute == 34)),
            "moves": int(minute in (12, 33, 34)),
        }
        for minute in range(60)
    ]


def by_identity(minutes: list[Document], **shares: float) -> list[Document]:
    """How many of the requests of each minute each identity has served, by its share of them."""
    return [
        {"identity": name, "requests": [round(share * minute["requests"]) for minute in minutes]}
        for name, share in shares.items()
    ]
