"""A stand-in for the site of a running proxy: the page itself, and documents made by hand.

To look at the page with it: ``python -m tests.web.standin_site normal 8123``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from codexpool.web.site import HEADERS, TYPES
from tests.running import ROOT
from tests.web.documents import Document, event
from tests.web.scenes import Scene, scene

STATIC = ROOT / "codexpool" / "web" / "static"


class StandInSite:
    """It keeps its port over restarts, as a proxy does. ``asked`` are the paths that were asked for; with ``refusal``
    it tells nothing but that, as the proxy does to those who may not ask."""

    def __init__(self, name: str = "normal", port: int = 0) -> None:
        self.scene: Scene = scene(name)
        self.asked: list[str] = []
        self.refusal = ""
        self._port = port
        self._news = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> StandInSite:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        site = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                site._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more; who waits for an event gets none."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.socket.close()
        with self._news:
            self._news.notify_all()

    def show(self, name: str) -> None:
        """Be in another situation from now on."""
        with self._news:
            self.scene = scene(name)

    def say(self, text: str, what: str = "turn", **changes: object) -> Document:
        """An event happens."""
        with self._news:
            made = event(self.scene.status["events_last"] + 1, text, what, **changes)  # type: ignore[arg-type]
            self.scene.events.append(made)
            self.scene.status["events_last"] += 1
            self._news.notify_all()
        return made

    def begin_anew(self) -> None:
        """What is told is of another run of the proxy from now on, whose events count anew."""
        with self._news:
            self.scene.events.clear()
            self.scene.flows.clear()
            self.scene.details.clear()
            self.scene.status["events_last"] = 0
            self.scene.status["proxy"].update(pid=4243, started_at=time.time())

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        parts = urlsplit(handler.path)
        path = "/index.html" if parts.path == "/" else parts.path
        if not path.startswith("/api/"):
            _send_file(handler, STATIC / Path(path).name)
            return
        if self.refusal:
            _send_document(handler, 403, {"error": {"message": self.refusal}})
            return
        found = self._found(
            path.removeprefix("/api/"), {name: values[0] for name, values in parse_qs(parts.query).items()}
        )
        missing: Document = {"error": {"message": "there is no such flow among the last ones"}}
        _send_document(handler, 200 if found else 404, found or missing)

    def _found(self, what: str, asked: dict[str, str]) -> Document | None:
        match what.split("/"):
            case ["status"]:
                return {**self.scene.status, "at": time.time()}
            case ["flows"]:
                flows = [one for one in self.scene.flows if _is_wanted(one, asked)]
                return {"flows": flows[: int(asked["limit"])], "total": len(flows)}
            case ["flows", wanted]:
                return self.scene.details.get(unquote(wanted))
            case ["events"]:
                return self._events(*(int(asked[name]) for name in ("after", "wait", "limit")))
        return None

    def _events(self, after: int, wait: float, limit: int) -> Document:
        def newer() -> list[Document]:
            return [one for one in self.scene.events if one["number"] > after]

        with self._news:
            server = self._server
            self._news.wait_for(lambda: newer() or self._server is not server, wait)
            events = newer()[:limit]
            last = events[-1]["number"] if events else self.scene.status["events_last"]
            return {"events": events, "last": last, "lost": False}


def _is_wanted(one: Document, asked: dict[str, str]) -> bool:
    """Filter flows as `codexpool.web.flow_filter` does, by those that the tests ask for."""
    return (
        asked.get("session", "") in (one["session"]["key"] or "")
        and asked.get("identity", "") in ("", *(attempt["identity"] for attempt in one["attempts"]))
        and asked.get("member", "") in ("", one.get("member"))
    )


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def _send_file(handler: BaseHTTPRequestHandler, file: Path) -> None:
    if file.is_file():
        _send(handler, 200, file.read_bytes(), f"{TYPES[file.suffix]}; charset=utf-8")
    else:
        _send(handler, 404, b"", "text/plain")


def _send_document(handler: BaseHTTPRequestHandler, status: int, document: Document) -> None:
    _send(handler, status, json.dumps(document).encode(), "application/json; charset=utf-8")


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
    try:
        handler.send_response(status)
        for name, value in {**HEADERS, "content-type": kind, "content-length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
    except OSError:
        pass  # The browser has left.


if __name__ == "__main__":
    with StandInSite(sys.argv[1] if len(sys.argv) > 1 else "normal", int((sys.argv + ["0"] * 2)[2])) as standin:
        print(standin.url, flush=True)
        while True:
            time.sleep(3)
            standin.say("turn on the socket of spare: completed")
