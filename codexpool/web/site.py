"""`http://codex.pool/`, as the proxy itself answers it: the page, the same as JSON, and metrics.

Only requests that come to the proxy for that name get here, and only from this machine; `/healthz` alone answers
others too (see `codexpool.web.health`). They are no traffic: the flow list, dumps and other addons do not see them
(`addon.py` ends their hooks here). Everything is GET, nothing can be changed, and no other site's script can read an
answer: there is no CORS header.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from mitmproxy import http

from codexpool.common.addresses import address_of, is_loopback
from codexpool.traces.history import History
from codexpool.views.header_table import rows
from codexpool.views.story import explained
from codexpool.web import health
from codexpool.web.pieces import joined

logger = logging.getLogger("codexpool")

HOST = "codex.pool"

LONGEST_WAIT = 25.0
"""Seconds for which an answer to ``/api/events`` is held back at most until there is an event."""

GATHERED = 0.25
"""Seconds for which an event that was waited for waits for others, so that a busy proxy is not asked for each."""

MOST_WAITERS = 32
"""Requests that wait for events at the same time; more are answered at once."""

MOST_EVENTS = 500
MOST_FLOWS = 500
"""Events, or flows, in one answer."""

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class Answer(NamedTuple):
    """An answer of the site."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


class Site:
    """``status`` gives ``/api/status``, as JSON; ``metrics`` gives ``/metrics``, with its content type, for an
    ``Accept`` header; ``unready`` says why the proxy does not serve, and nothing if it does."""

    def __init__(
        self,
        history: History,
        status: Callable[[float], Awaitable[bytes]],
        metrics: Callable[[str, float], Awaitable[tuple[bytes, str]]],
        is_own_connection: Callable[[tuple[object, ...]], bool] = lambda address: False,
        unready: Callable[[], str] = lambda: health.STARTS,
    ) -> None:
        self._history = history
        self._status = status
        self._metrics = metrics
        self._is_own_connection = is_own_connection
        self._unready = unready
        self.run = f"{time.time():.3f}"
        """Numbers of events begin anew with each run of the addon."""
        self._waiters = 0

    def has(self, flow: http.HTTPFlow) -> bool:
        """Whether a request is for this site, and no other addon's."""
        request = flow.request
        return request.data.host.lower().rstrip(".") == HOST and request.data.scheme == b"http" and request.port == 80

    async def answer(self, flow: http.HTTPFlow) -> None:
        """Answer a request for this site."""
        try:
            answer = await self._answer(flow)
        except Exception:
            logger.exception("a request for http://%s could not be answered", HOST)
            answer = _error(500, "something of ours broke; the proxy's log says what")
        body = b"" if flow.request.method == "HEAD" else answer.body
        flow.response = http.Response.make(answer.status, body, {"content-type": answer.content_type, **HEADERS})

    async def _answer(self, flow: http.HTTPFlow) -> Answer:
        is_for_all = (asked_for := flow.request.path.partition("?")[0]) in (health.PATH, health.READY_PATH)
        if not is_for_all and (
            not is_loopback(address_of(peer := flow.client_conn.peername)) or self._is_own_connection(peer)
        ):
            return _error(403, "this page is for the machine that the proxy runs on")
        if flow.request.method not in ("GET", "HEAD"):
            return _error(405, "only GET: nothing can be changed here")
        if is_for_all:
            return Answer(*health.answer(asked_for, self._unready()))
        now = time.time()
        try:
            parts = urlsplit(flow.request.path)
            asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            path = parts.path
            if (page := _pages().get(path)) is not None:
                return page
            match path.split("/")[1:]:
                case ["api", "status"]:
                    return Answer(200, await self._status(now))
                case ["api", "flows"]:
                    return Answer(200, await self._flow_list(_number(asked, "limit", 50, MOST_FLOWS)))
                case ["api", "flows", wanted] if wanted:
                    return self._flow(unquote(wanted))
                case ["api", "events"]:
                    return await self._events(asked)
                case ["metrics"]:
                    return Answer(200, *await self._metrics(flow.request.headers.get("accept", ""), now))
                case _:
                    return _error(404, f"there is no such page; there is: {', '.join(PAGES)}")
        except ValueError as error:
            return _error(400, str(error))

    async def _flow_list(self, limit: int) -> bytes:
        traces = list(self._history.traces())
        documents = (_bytes(trace.document(with_headers=False)) for trace in traces[:limit])
        return await joined(_list("flows", documents, {"total": len(traces)}))

    def _flow(self, wanted: str) -> Answer:
        trace = self._history.trace(wanted)
        if trace is None:
            what = "no request has come yet" if wanted == "last" else "there is no such flow among the last ones"
            return _error(404, what)
        document = trace.document()
        return _json(
            {
                "flow": document,
                "table": [row.document() for row in rows(document)],
                "explanation": [line.text for line in explained(document)],
            }
        )

    async def _events(self, asked: dict[str, str]) -> Answer:
        history = self._history
        after = _number(asked, "after", max(0, history.last - 50), 2**53)
        limit = _number(asked, "limit", 200, MOST_EVENTS)
        seconds = min(float(_number(asked, "wait", 0, 3600)), LONGEST_WAIT)
        lost = history.has_lost(after)
        if after > history.last or asked.get("run", self.run) != self.run:  # Of a run before this one: all is new.
            lost, after = True, 0
        if seconds and self._waiters < MOST_WAITERS:
            self._waiters += 1
            try:
                if history.last == after:
                    await history.news(after, seconds)
                    await asyncio.sleep(GATHERED)
            finally:
                self._waiters -= 1
        events = history.events(after, max(1, limit))
        last = events[-1].number if events else history.last
        about = {"last": last, "lost": lost, "run": self.run}
        return Answer(200, await joined(_list("events", (event.json for event in events), about)))


@cache
def _pages() -> dict[str, Answer]:
    """The files of the page, by path: read once, when somebody looks at it first."""
    found = {}
    for file in resources.files("codexpool.web").joinpath("static").iterdir():
        if (content_type := TYPES.get(PurePath(file.name).suffix)) is not None:
            found[f"/{file.name}"] = Answer(200, file.read_bytes(), content_type)
    found["/"] = found.pop("/index.html")
    return found


PAGES = (
    *("/", "/api/status", "/api/flows", "/api/flows/ID", "/api/flows/last", "/api/events", "/metrics"),
    *(health.PATH, health.READY_PATH),
)


def _number(asked: dict[str, str], name: str, default: int, most: int) -> int:
    text = asked.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise ValueError(f"{name} is to be a whole number, 0 or more")
    return min(int(text), most)


def _list(name: str, items: Iterable[bytes], about: dict[str, Any]) -> Iterator[bytes]:
    """A document with a list in it as JSON, a piece for each item."""
    yield f'{{"{name}": ['.encode()
    between = b""
    for item in items:
        yield between + item
        between = b", "
    yield b"], " + _bytes(about)[1:]


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _json(document: dict[str, Any]) -> Answer:
    return Answer(200, _bytes(document))


def _error(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"error": {"message": message}}).encode())
