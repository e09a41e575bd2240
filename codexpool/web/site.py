"""`http://codex.pool/`, answered by the proxy itself: the page, the same as JSON, and metrics.

Only this machine gets an answer; the paths `FOR_ALL` alone answer others too (see `_health`; `/me` wants a member
key). With ``https://`` a client needs the proxy's CA, and its key is not readable on the way. These requests are
not traffic: `addon.py` ends their hooks, so the flow list, dumps and other addons do not see them. The site is
read-only: every path is GET. There is no CORS header, so no other site's script can read an answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from mitmproxy import http

from codexpool.common.addresses import address_of, is_loopback
from codexpool.pool.identity import Status
from codexpool.pool.pool import Pool
from codexpool.protocol.headers import PROBE_VERSION
from codexpool.traces.history import History
from codexpool.views.header_table import rows
from codexpool.views.story import explained
from codexpool.web import me, metrics, status
from codexpool.web.flow_filter import is_wanted
from codexpool.web.status import as_json, join

logger = logging.getLogger("codexpool")

HOST = "codex.pool"
HEALTH: Final = "/healthz"
READY: Final = "/healthz/ready"
AUTHORITY: Final = "/ca.pem"
ME: Final = "/me"
FOR_ALL: Final = frozenset({HEALTH, READY, AUTHORITY, ME})  # the paths that answer other machines, too
_HERE: Final = "/, /api/status, /api/flows, /api/flows/ID, /api/flows/last, /api/events, /metrics"
PAGES: Final = f"{_HERE}, {HEALTH}, {READY}, {AUTHORITY}, {ME}"

STARTING: Final = "the proxy is starting"
SHUTTING_DOWN: Final = "the proxy is shutting down and finishing its turns"
REFUSING: Final = "requests are refused; see the proxy's log"
NO_POOL: Final = "no pool is configured"
UNVERIFIED: Final = "no identity has been verified yet"
NO_IDENTITY: Final = "no identity can serve now"

NOT_HERE: Final = (
    "this page is only available on the machine that the proxy runs on. From another one, forward the proxy's port "
    "(ssh -N -L 8080:127.0.0.1:8080 HOST), and use a browser whose proxy is http://127.0.0.1:8080"
)

LONGEST_WAIT = 25.0  # seconds an answer to ``/api/events`` waits at most for an event
GATHERED = 0.25  # seconds to gather further events after the first, so that a busy proxy is not asked for each
MOST_WAITERS = 32  # requests that may wait for events at the same time; more are answered at once
MOST_EVENTS = 500
MOST_FLOWS = 500  # events, or flows, in one answer

PEM: Final = "application/x-pem-file"
TEXT: Final = "text/plain; charset=utf-8"
PORTS: Final = {b"http": 80, b"https": 443}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


class Proxy(Protocol):
    """The proxy that the site shows."""

    history: History

    def status_view(self, now: float) -> status.View:
        """Return what the status document and the metrics are made from."""

    def unready(self) -> str:
        """Return why the proxy cannot serve; empty if it can."""

    def own_use(self, flow: http.HTTPFlow, now: float) -> tuple[int, dict[str, Any]]:
        """Return the status and document for the holder of the member key in a request, which this hides."""

    def authority(self) -> bytes:
        """Return the certificates of its authority in PEM form: public, but worth nothing without a comparison."""

    def is_own_connection(self, peer: tuple[object, ...]) -> bool:
        """Return whether a client's connection was opened by the proxy itself, for a client elsewhere."""


class Site:
    """Answers the requests for ``HOST``."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._history = proxy.history
        self.run = f"{time.time():.3f}"  # Identifies this run of the addon: each numbers its events from 1.
        self._waiters = 0

    def has(self, flow: http.HTTPFlow) -> bool:
        data = flow.request.data
        return is_here(data.host, data.port) and data.port == PORTS.get(data.scheme)

    async def answer(self, flow: http.HTTPFlow) -> None:
        try:
            answer = await self._answer(flow)
        except Exception:
            logger.exception("cannot answer a request for http://%s", HOST)
            answer = _error(500, "internal error of codexpool; see the proxy's log")
        body = b"" if flow.request.method == "HEAD" else answer.body
        flow.response = http.Response.make(answer.status, body, {"content-type": answer.content_type, **HEADERS})

    async def _answer(self, flow: http.HTTPFlow) -> Answer:
        request, peer = flow.request, flow.client_conn.peername
        is_for_all = (path := request.path.partition("?")[0]) in FOR_ALL
        if not is_for_all and (not is_loopback(address_of(peer)) or self._proxy.is_own_connection(peer)):
            return _error(403, NOT_HERE)
        if request.method not in ("GET", "HEAD"):
            return _error(405, "this site is read-only: use GET")
        if path == ME:
            return self._own_use(flow)
        if path == AUTHORITY:
            return Answer(200, self._proxy.authority(), PEM)
        if is_for_all:
            return _health(path, self._proxy.unready())
        try:
            return await self._document(request)
        except ValueError as error:
            return _error(400, str(error))

    def _own_use(self, flow: http.HTTPFlow) -> Answer:
        code, document = self._proxy.own_use(flow, time.time())
        if me.wants_json(flow.request.headers.get("accept", "")):
            return Answer(code, as_json(document))
        text = me.text(document) if code == 200 else f"{document['error']['message']}\n"
        return Answer(code, text.encode(), TEXT)

    async def _document(self, request: http.Request) -> Answer:
        """Answer a request from this machine. Raises ValueError if it is malformed."""
        now = time.time()
        parts = urlsplit(request.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if (page := read_pages().get(parts.path)) is not None:
            return page
        match parts.path.split("/")[1:]:
            case ["api", "status"]:
                return Answer(200, await join(status.pieces(self._proxy.status_view(now), now)))
            case ["api", "flows"]:
                traces = [trace for trace in self._history.traces() if is_wanted(trace, query)]
                shown = traces[: _number(query, "limit", 50, MOST_FLOWS)]
                documents = (as_json(trace.document(with_headers=False)) for trace in shown)
                return Answer(200, await join(_list("flows", documents, {"total": len(traces)})))
            case ["api", "flows", wanted] if wanted:
                return self._flow(unquote(wanted))
            case ["api", "events"]:
                return await self._events(query)
            case ["metrics"]:
                return Answer(200, await metrics.scrape(self._proxy.status_view(now), now), metrics.CONTENT_TYPE)
            case _:
                return _error(404, f"no such page; there are: {PAGES}")

    def _flow(self, wanted: str) -> Answer:
        trace = self._history.trace(wanted)
        if trace is None:
            return _error(404, "no request yet" if wanted == "last" else "the proxy remembers no such flow")
        document = trace.document()
        table = [row.document() for row in rows(document)]
        explanation = [line.text for line in explained(document)]
        return Answer(200, as_json({"flow": document, "table": table, "explanation": explanation}))

    async def _events(self, query: dict[str, str]) -> Answer:
        history = self._history
        after = _number(query, "after", max(0, history.last - 50), 2**53)
        limit = _number(query, "limit", 200, MOST_EVENTS)
        seconds = min(float(_number(query, "wait", 0, 3600)), LONGEST_WAIT)
        lost = history.has_lost(after)
        is_other_run = after > history.last or query.get("run", self.run) != self.run
        if is_other_run:  # All events are new to this client.
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
        return Answer(200, await join(_list("events", (event.json for event in events), about)))


def is_here(host: str, port: int) -> bool:
    """Return whether a client asks for the site."""
    return host.lower().rstrip(".") == HOST and port in PORTS.values()


@cache
def read_pages() -> dict[str, Answer]:
    """Return the files of the page by path; read at the first request, then kept."""
    found = {}
    for file in resources.files("codexpool.web").joinpath("static").iterdir():
        if (content_type := TYPES.get(PurePath(file.name).suffix)) is not None:
            found[f"/{file.name}"] = Answer(200, file.read_bytes(), f"{content_type}; charset=utf-8")
    found["/"] = found.pop("/index.html")
    return found


def _number(query: dict[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise ValueError(f"{name} must be a whole number, 0 or more")
    return min(int(text), most)


def _list(name: str, items: Iterable[bytes], about: dict[str, Any]) -> Iterator[bytes]:
    """Yield a JSON document with a list in it, a piece for each item."""
    yield f'{{"{name}": ['.encode()
    separator = b""
    for item in items:
        yield separator + item
        separator = b", "
    yield b"], " + as_json(about)[1:]


def _error(status: int, message: str) -> Answer:
    return Answer(status, as_json({"error": {"message": message}}))


def unready(pool: Pool | None, *, is_closed: bool, observes: bool, leaves: bool) -> str:
    """Return why a proxy cannot serve; empty if it can. A proxy that only observes relays everything.

    ``is_closed``: without a pool, requests are refused instead of relayed.
    """
    if leaves:
        return SHUTTING_DOWN
    if observes:
        return ""
    if pool is None:
        return REFUSING if is_closed else NO_POOL
    statuses = {identity.status for identity in pool.identities.values() if not identity.paused}
    if statuses == {Status.UNVERIFIED}:
        return UNVERIFIED
    return "" if Status.READY in statuses else NO_IDENTITY


def _health(path: str, reason: str) -> Answer:
    """Answer a health check. Other machines may ask, so it has no name, no path and no text of the log.

    Without an identity that can serve, a proxy still is to get the requests: all proxies of a pool are in the same
    position, and clients that reach one of them are told until when.
    ``probe`` tells `codexpool doctor` on another machine that this is a proxy with the addon.
    """
    document = {"status": "ok", "ready": not reason, "probe": PROBE_VERSION, **({"reason": reason} if reason else {})}
    return Answer(503 if path == READY and reason not in ("", NO_IDENTITY) else 200, as_json(document))
