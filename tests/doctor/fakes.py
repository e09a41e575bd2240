"""A proxy that can be asked, and speaks for the backend behind CONNECT with a certificate of its own."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from codexpool.doctor.environment import ClientEnvironment
from tests.cli.fakeproxy import Answer
from tests.standin.certificates import Authority

KEY = "at-pool-TESTtestTESTtestTESTtestTESTtestTESTtest_-0"
"""A member key that no test may print."""


def client(
    environ: Mapping[str, str] | None = None, home: Path = Path("/nowhere/.codex"), **more: Any
) -> ClientEnvironment:
    """A client with these variables, and no files."""
    return ClientEnvironment(home, dict(environ or {}), **more)


class FakeProxy:
    """``documents`` are what it answers at ``http://codex.pool``, by path. ``probes`` are the headers of all requests
    that came through its tunnel; how each is answered can be changed."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.documents: dict[str, Answer] = {}
        self.probes: list[dict[str, str]] = []
        self.connects = 0
        self.answers_probes = True
        self.says: dict[str, Any] = {}
        """What its answers to probes say otherwise."""
        self.failed_handshakes = 0
        self.shift = 0.0
        """Seconds by which its clock is ahead."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.issue(["chatgpt.com"]))
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                fake.connects += 1
                assert self.headers["x-codexpool-probe"], "or the proxy would connect to the backend"
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                try:
                    self.connection = context.wrap_socket(self.connection, server_side=True)
                except OSError:
                    fake.failed_handshakes += 1  # A warning in the log of a proxy.
                    raise
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
                self.handle_one_request()
                self.close_connection = True

            def do_GET(self) -> None:
                if self.path.startswith("http://codex.pool/"):
                    self._answer(*fake.documents.get(urlsplit(self.path).path, (404, {})), {})
                elif isinstance(self.connection, ssl.SSLSocket):
                    self._probed("websocket" if self.headers.get("upgrade") == "websocket" else "http")
                else:
                    self._answer(401, {"error": {"code": "token_revoked"}}, {})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self._probed("http")

            def _probed(self, transport: str) -> None:
                fake.probes.append({name.lower(): value for name, value in self.headers.items()})
                number = self.headers["x-codexpool-probe"]
                if fake.answers_probes:
                    self._answer(200, probed(number, transport, **fake.says), {"x-codexpool-probe": number})
                else:
                    self._answer(401, {"error": {"message": "no such token"}}, {"server": "cloudflare"})

            def _answer(self, status: int, document: Any, headers: Mapping[str, str]) -> None:
                body = json.dumps(document).encode()
                self.send_response_only(status)
                self.send_header("date", self.date_time_string(time.time() + fake.shift))
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def probed(number: str, over: str, **changes: Any) -> dict[str, Any]:
    """What a proxy answers to a probe."""
    return {
        "probe": number,
        "version": 2,
        "pool": True,
        "refused": None,
        "identity": "work",
        "transport": over,
        "replaced": ["authorization", "chatgpt-account-id"],
        "added": [],
        "removed": [],
        "observing": False,
        "member": "ann",
        **changes,
    }


@contextmanager
def running(folder: Path) -> Iterator[FakeProxy]:
    """A fake that runs."""
    fake = FakeProxy(folder)
    try:
        yield fake
    finally:
        fake.stop()
