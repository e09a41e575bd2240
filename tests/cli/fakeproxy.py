"""A proxy with the addon, as far as commands that ask it can tell: canned documents at ``http://codex.pool/…``."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NOW = 1_764_000_000.0
"""The time in all documents."""


def identity(name: str = "work", **changes: Any) -> dict[str, Any]:
    """An identity of a status document."""
    return {
        "name": name,
        "kind": "pat",
        "fingerprint": "1a2b3c4d5e6f",
        "account_id": f"acc-{name}",
        "user_id": f"user-{name}",
        "plan": "business",
        "fedramp": False,
        "origin": "https://chatgpt.com",
        "status": "ready",
        "since": NOW - 3600,
        "until": None,
        "evidence": "",
        "needs": "",
        "expires_at": None,
        "reminder": "",
        "sessions": 3,
        "headroom": 0.82,
        "limits": [
            {"family": "codex", "minutes": 300, "used_percent": 18.0, "resets_at": NOW + 7380},
            {"family": "codex", "minutes": 10_080, "used_percent": 75.5, "resets_at": NOW + 260_000},
        ],
        "limited": {},
        "requests": 12,
        "refusals": 1,
        "last_used_at": NOW - 5,
        **changes,
    }


DEAD = identity(
    "spare",
    status="needs_replacement",
    evidence="401 token_revoked on codex/responses, confirmed by whoami",
    needs="Put a new token at /home/me/.config/codexpool/pool.toml:4, or: codexpool replace spare",
    limits=[],
    refusals=0,
)


def status(**changes: Any) -> dict[str, Any]:
    """A status document: one identity that serves, and one that needs a person."""
    proxy = {
        "pid": 4711,
        "version": "0.1.0",
        "mitmproxy": "12.3.1",
        "python": "3.12.1",
        "listens": ["127.0.0.1:8080"],
        "started_at": NOW - 12_000,
        "pool": "/home/me/.config/codexpool/pool.toml",
        "observe": False,
        "closed": "",
        **changes.pop("proxy", {}),
    }
    minutes = range(60)
    return {
        "version": 1,
        "at": NOW,
        "proxy": proxy,
        "identities": [identity(), DEAD],
        "sessions": [session()],
        "sessions_total": 17,
        "breaker": {"open": False, "until": None, "names": []},
        "hour": [{"at": NOW - 60 * (59 - i), "requests": i % 9, "refusals": i == 40, "failures": 0} for i in minutes],
        "totals": {
            "requests": 1234,
            "refusals": 12,
            "failures": 3,
            "sent_again": 15,
            "bytes_out": 3_400_000,
            "bytes_in": 12_000_000,
            "sockets_open": 2,
            "under_way": 1,
        },
        "events_last": 0,
        **changes,
    }


def fleet(*names: str, **state: Any) -> dict[str, Any]:
    """The parts of a status document about the state and the proxies that share it; the first is the one asked."""
    return {
        "state": {
            "engine": "postgresql",
            "where": "postgresql://db.example/codexpool",
            "connected": True,
            "since": NOW - 7200,
            "waiting": 0,
            **state,
        },
        "fleet": [
            {
                "host": name,
                "version": "0.1.0",
                "pid": 4711,
                "started_at": NOW - 12_000,
                "seen_at": NOW - 2,
                "alive": True,
                "sessions": 5,
                "self": number == 0,
            }
            for number, name in enumerate(names)
        ],
    }


def session(**changes: Any) -> dict[str, Any]:
    """A session of a status document."""
    return {
        "key": "01a1fc00-1234-7abc-8def-0123456789ab",
        "identity": "work",
        "moves": 0,
        "last_at": NOW - 5,
        "requests": 4,
        "client": "127.0.0.1",
        "model": "gpt-5",
        **changes,
    }


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    """An event: a request that was refused once."""
    return {
        "version": 1,
        "number": number,
        "time": "2025-11-24T16:00:00.123Z",
        "event": "request",
        "flow": f"flow-{number}",
        "client": "127.0.0.1",
        "session": "01a1fc00-1234-7abc-8def-0123456789ab",
        "model": "gpt-5",
        "identity": "spare",
        "method": "POST",
        "host": "chatgpt.com",
        "path": "/backend-api/codex/responses",
        "status": 200,
        "attempts": 2,
        "milliseconds": 843.2,
        "bytes_out": 1234,
        "bytes_in": 5120,
        "refusals": ["work: 401 token_revoked on codex/responses"],
        "was": None,
        "becomes": None,
        "text": "POST /backend-api/codex/responses: 200, spare after 2 attempts",
        **changes,
    }


Answer = tuple[int, Any]
"""Status, and a document or a text."""


class FakeProxy:
    """Answers absolute-form requests for ``http://codex.pool``; what it says can be changed while it runs.

    ``answers`` go by path without query, and come before everything else. ``asked`` are the targets of all requests.
    ``credentials``: a user and a password it insists on.
    """

    def __init__(self, port: int = 0) -> None:
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.status: dict[str, Any] = status()
        self.run = "run-1"
        self.flows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.oldest = 0
        """The number of the last event that is forgotten."""
        self.credentials: tuple[str, str] | None = None
        self.asked: list[str] = []
        self._news = threading.Condition()
        self._stopped = False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.asked.append(self.path)
                code, document = fake._answer(self.path, self.headers.get("proxy-authorization", ""))
                text = document if isinstance(document, str) else json.dumps(document)
                self.send_response(code)
                self.send_header("content-type", "text/html" if isinstance(document, str) else "application/json")
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())
                if fake._stopped:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # A client that has gone is part of the tests.

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FakeProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it; what waits for an event is answered."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def happens(self, *events: dict[str, Any]) -> None:
        """Something happens, and whoever waits for it is told."""
        with self._news:
            self.events.extend(events)
            self._news.notify_all()

    @property
    def last(self) -> int:
        return self.events[-1]["number"] if self.events else self.oldest

    def _answer(self, target: str, credentials: str) -> Answer:
        wanted = self.credentials and base64.b64encode(":".join(self.credentials).encode()).decode()
        if wanted and credentials != f"Basic {wanted}":
            return 407, "<html>Proxy Authentication Required</html>"
        url = urlsplit(target)
        if (url.scheme, url.netloc) != ("http", "codex.pool"):
            return 400, "<html>no proxy request</html>"
        if (canned := self.answers.get(url.path)) is not None:
            return canned() if callable(canned) else canned
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/api/status":
            return 200, {**self.status, "events_last": self.last}
        if url.path == "/api/events":
            return 200, self._events(int(query["after"]), float(query["wait"]), int(query["limit"]), query.get("run"))
        if url.path == "/api/flows":
            return 200, {"flows": self.flows, "next": None}
        if url.path.startswith("/api/flows/"):
            return self._flow(url.path.removeprefix("/api/flows/"))
        return 404, {"error": {"message": "there is no such page"}}

    def _flow(self, wanted: str) -> Answer:
        found = [flow for flow in self.flows if wanted == "last" or flow["id"].startswith(wanted)]
        if not found or (len(found) > 1 and wanted != "last"):
            return 404, {"error": {"message": "no flow of that id is remembered"}}
        return 200, {"flow": found[0], "table": [], "explanation": []}

    def _events(self, after: int, wait: float, limit: int, run: str | None) -> dict[str, Any]:
        deadline = time.monotonic() + wait
        is_other_run = run not in (None, self.run)
        after = 0 if is_other_run else after
        with self._news:
            while self.last == after and not self._stopped and (left := deadline - time.monotonic()) > 0:
                self._news.wait(left)
            newer = [one for one in self.events if one["number"] > after]
            lost = is_other_run or after > self.last or after < self.oldest
            return {"events": newer[:limit], "last": self.last, "lost": lost, "run": self.run}


@contextmanager
def running(port: int = 0) -> Iterator[FakeProxy]:
    """A fake that runs."""
    with FakeProxy(port) as fake:
        yield fake
