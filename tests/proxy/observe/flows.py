"""Requests of a client, what leaves of them in observe mode, and their answers: without a proxy around it."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from codexpool.config.files import Watcher
from codexpool.config.read import load
from codexpool.proxy.handler import NoPool
from codexpool.proxy.observe.handler import ObserveHandler
from codexpool.state.sqlite import SqliteState
from codexpool.traces.history import History
from codexpool.traces.trace import Trace
from tests.running import CLIENT, pat, pool_toml

RESPONSES = "/backend-api/codex/responses"
REVOKED = {"error": {"code": "token_revoked", "message": "revoked"}}
LIMIT = {"error": {"code": "usage_limit_reached", "type": "usage_limit_reached", "message": "limit"}}
OWN = b"Bearer " + CLIENT.token.encode()
"""What the client says of itself."""

HEADERS = (
    *(
        (b"Host", b"chatgpt.com"),
        (b"AUTHORIZATION", OWN),
        (b"x-Odd", b"a  b"),
        (b"ChatGPT-Account-Id", b"acc-client"),
    ),
    *((b"thread-id", b"s"), (b"x-odd", b"again"), (b"x-oai-attestation", b"attests-0123456789abcdef")),
)


def request(
    path: str = RESPONSES, *more: tuple[bytes, bytes], method: str = "POST", body: bytes = b'{"model": "m"}'
) -> http.HTTPFlow:
    """A request of the client whose headers have come just now."""
    flow: http.HTTPFlow = tflow.tflow()
    fields = [(name, value) for name, value in HEADERS if name.lower() not in {n.lower() for n, v in more if not v}]
    fields += [(name, value) for name, value in more if value]
    now = time.time()
    flow.request = http.Request(
        *("chatgpt.com", 443, method.encode(), b"https", b"", path.encode(), b"HTTP/1.1"),
        *(http.Headers(fields), body, None, now, now),
    )
    flow.metadata.clear()
    return flow


def observing(tmp_path: Path, *names: str, head: str = "") -> ObserveHandler:
    """Observe mode with a pool of these identities; none has ever been verified, and no state is there."""
    made = ObserveHandler(History(), {"CODEXPOOL_STATE": str(tmp_path / "state.sqlite3")})
    pool_toml(tmp_path, *map(pat, names), head=head)
    made.start(load(tmp_path / "pool.toml") if names or head else NoPool("nowhere"), Watcher([]))
    return made


async def sent(observed: ObserveHandler, flow: http.HTTPFlow) -> http.Request:
    """What leaves."""
    observed.open(flow)
    await observed.assign(flow)
    wire = observed.outbound(flow)
    assert not observed.is_outdated(flow)
    assert not isinstance(wire, http.Response)
    return flow.request if wire is None else wire


async def answered(
    observed: ObserveHandler, flow: http.HTTPFlow, status: int, body: Any = b"{}", **headers: str
) -> bytes:
    """The answer comes in two pieces; what the client gets of it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"content-type": "application/json"}
    flow.response = http.Response.make(status, b"", {**kind, **{k.replace("_", "-"): v for k, v in headers.items()}})
    flow.response.data.content = None
    observed.headers_came(flow)
    assert not observed.should_hold(flow)
    passed = passed_on(flow.response, content[:7], content[7:])
    await observed.judge(flow)
    assert not observed.should_resend(flow)
    return passed


def passed_on(response: http.Response, *pieces: bytes) -> bytes:
    """What the client gets of an answer that comes in these pieces, as mitmproxy passes it on."""
    if not callable(response.stream):
        response.data.content = b"".join(pieces)
        return response.data.content
    for piece in (*pieces, b""):
        assert response.stream(piece) == piece, "piece by piece, as they come"
    return b"".join(pieces)


def trace_of(flow: http.HTTPFlow) -> Trace:
    trace = flow.metadata["codexpool"]
    assert isinstance(trace, Trace)
    return trace


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that are said of requests, without who each identity is."""
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("observed: ")]
    return [re.sub(r" \(PAT sha256:[^()]*\)", "", line.removeprefix("observed: ")) for line in lines]


def state_in(folder: Path) -> closing[SqliteState]:
    """What earlier runs have left."""
    return closing(SqliteState(folder / "state.sqlite3"))
