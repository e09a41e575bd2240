"""Planned faults: which requests get another answer, and which one."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.standin.exchange import Cut, Headers, Reply, Request, Transport
from tests.standin.paths import COMPACT, RESPONSES

CLOUDFLARE_PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>cloudflare</body></html>"
"""A body for ``Answer``: the content network's page for suspected bots. Not JSON."""


LEAVING = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
"""The codes that a close frame may carry (RFC 6455, section 7.4)."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One fault. Empty conditions match every request; all given ones have to match.

    Args:
        path: the path begins with this.
        token: the bearer token is this.
        host: the host is this.
        method: the method is this.
        transport: it came this way. Messages on an open WebSocket are touched only by ``transport="message"``.
        after: so many fitting requests are answered as usual first.
        times: so many are answered otherwise then; None for all.
        status: the status to answer with; 0 leaves the usual answer. On a message: an error frame.
        headers: headers of that answer.
        body: a mapping or list is sent as JSON, a string as HTML, bytes as they are.
        delay: seconds before the answer begins.
        cut: drop the connection before the first byte (``head``) or in the middle of the body (``body``).
        endless: with ``status``: the body is sent again and again without end, so many seconds apart.
        early: with ``status``, over HTTP/1: answer before the body is read, and close the connection with it unread.
        interim: statuses (1xx) of the answers that are sent before this one.
        trailers: fields that follow the body.
        deltas: how many pieces a generated answer comes in.
        pace: seconds between two of its events.
        fail: end a generated answer in a ``response.failed`` with this code.
        fail_message: the message that comes with the code.
        fail_after: so many deltas come before that.
        close: a close frame with this code instead of an answer; only with ``transport="message"``.
        close_after: so many deltas come before that; 0 sends it at once.

    Raises:
        ValueError: ``close`` is no code for a close frame, or there is no socket to close.
    """

    path: str = ""
    token: str = ""
    host: str = ""
    method: str = ""
    transport: Transport | None = None
    after: int = 0
    times: int | None = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = b""
    delay: float = 0.0
    cut: Cut = ""
    endless: float | None = None
    early: bool = False
    interim: tuple[int, ...] = ()
    trailers: Mapping[str, str] = field(default_factory=dict)
    deltas: int | None = None
    pace: float | None = None
    fail: str = ""
    fail_message: str = ""
    fail_after: int = 0
    close: int = 0
    close_after: int = 0

    def __post_init__(self) -> None:
        if self.close and self.close not in LEAVING:
            raise ValueError(f"no close frame may carry {self.close}")
        if self.close and self.transport != "message":
            raise ValueError("only an answer to a message can be a close frame")

    def fits(self, request: Request) -> bool:
        """Tell whether the conditions match, ignoring the counts."""
        if request.transport == "message" and self.transport != "message":
            return False
        return (
            request.path.startswith(self.path)
            and self.token in ("", request.bearer)
            and self.host in ("", request.host)
            and self.method in ("", request.method)
            and self.transport in (None, request.transport)
        )

    def frame(self) -> dict[str, Any]:
        """Return the error frame for a message; only with ``status``."""
        body = self.body if isinstance(self.body, Mapping) else {}
        return {"type": "error", "status": self.status, **body, "headers": dict(self.headers)}

    def reply(self) -> Reply:
        """Return the answer; only with ``status``."""
        headers: Headers = [(name.lower(), value) for name, value in self.headers.items()]
        kind, body = _encoded(self.body)
        if body and not any(name == "content-type" for name, _ in headers):
            headers.append(("content-type", kind))
        sent = body if self.endless is None else _again_and_again(body, self.endless)
        return Reply(self.status, headers, sent, self.delay, self.cut)


async def _again_and_again(body: bytes, pause: float) -> AsyncIterator[bytes]:
    while True:
        yield body
        await asyncio.sleep(pause)


def _encoded(body: object) -> tuple[str, bytes]:
    if isinstance(body, bytes):
        return "application/octet-stream", body
    if isinstance(body, str):
        return "text/html; charset=UTF-8", body.encode()
    return "application/json", json.dumps(body).encode()


class Plan:
    """The planned faults. The first one that matches and is due is used; every match is counted.

    ``cut_share`` is the share of model calls, of those that nothing is planned for, whose connection is cut: always
    the same ones, as far as they arrive in the same order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: list[tuple[Answer, list[int]]] = []
        self._chance = random.Random(SEED)
        self.cut_share = 0.0

    def add(self, answer: Answer) -> None:
        with self._lock:
            self._answers = [*self._answers, (answer, [0])]

    def clear(self) -> None:
        with self._lock:
            self._answers = []

    def take(self, request: Request) -> Answer | None:
        """Return the fault for this request, and count it as used."""
        if self._answers and (answer := self._due(request)):
            return answer
        if self.cut_share and _is_model_call(request) and self._chance.random() < self.cut_share:
            return self._chance.choice(CUTS)
        return None

    def take_early(self, request: Request) -> Answer | None:
        """Return the fault for this request that does not wait for its body."""
        return self._due(request, early=True) if self._answers else None

    def _due(self, request: Request, *, early: bool = False) -> Answer | None:
        with self._lock:
            for answer, count in self._answers:
                if answer.early is not early or not answer.fits(request):
                    continue
                count[0] += 1
                turn = count[0] - answer.after
                if turn > 0 and (answer.times is None or turn <= answer.times):
                    return answer
        return None


SEED = 20
"""Seed of the random cuts, so that a soak test is repeatable."""

CUTS = (Answer(cut="head"), Answer(cut="body"))


def _is_model_call(request: Request) -> bool:
    if request.transport == "message":
        return True
    return request.method == "POST" and unquote(request.path) in (RESPONSES, COMPACT)
