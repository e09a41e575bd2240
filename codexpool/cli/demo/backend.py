"""The demo's backend: a small, strict stand-in for ChatGPT on loopback.

It serves what the Codex CLI needs for a session, and reports each request whose headers do not match its token. One
port takes CONNECT requests, as mitmproxy's upstream mode sends them, and speaks TLS on the same connection.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy.certs import CertStore
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from codexpool.protocol import endpoints, routes
from codexpool.protocol.endpoints import API_HOST, AUTH_HOST, HOST, NO_CONSTRAINT, RESPONSES, WHOAMI_PATH

HOSTS: Final = (HOST, AUTH_HOST, "ab.chatgpt.com", API_HOST)
SWAPPED: Final = (RESPONSES, routes.MODELS, endpoints.ACCOUNTS_CHECK)  # with a token of the pool; others with own
LENT: Final = (endpoints.USAGE,)  # with either
# They describe the client's own workspace: they must not travel with a token of the pool.
FORBIDDEN: Final = ("x-openai-internal-codex-residency", "openai-organization", "openai-project")


@dataclass
class Token:
    """A token the backend knows; ``own`` marks the client's login, which is not in the pool."""

    token: str = field(repr=False)
    name: str
    routing_override: str = NO_CONSTRAINT
    own: bool = False
    alive: bool = True
    is_dying: bool = False
    """The next turn finds it dead."""

    @property
    def account_id(self) -> str:
        return f"acc-{self.name}"


@dataclass
class Seen:
    """A request as the backend received it. ``name`` is that of its token; ``status`` is 0 until it is answered."""

    method: str
    host: str
    path: str
    headers: list[tuple[str, str]] = field(repr=False)
    name: str = ""
    status: int = 0

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def bearer(self) -> str:
        return (self.header("authorization") or "").removeprefix("Bearer ")

    @property
    def kind(self) -> str:
        return "WebSocket" if self.header("upgrade") else self.method


class StandIn(ThreadingTCPServer):
    """A context in which the backend serves ``tokens``.

    ``proxy_port`` on 127.0.0.1 takes CONNECT requests; ``ca_file`` is the authority to trust. ``seen`` has every
    request in order, and ``problems`` says what was wrong with them; that a token is dead is no problem.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, tokens: Iterable[Token], folder: Path) -> None:
        self.tokens = {token.token: token for token in tokens}
        self.seen: list[Seen] = []
        self.problems: list[str] = []
        self.numbers = itertools.count(1)
        self.tls, self.ca_file = _certified(folder)
        super().__init__(("127.0.0.1", 0), _Connection)
        self.proxy_port = self.server_address[1]

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.serve_forever, name="stand-in", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client may close its connection at any time."""

    def kill(self, token: str) -> None:
        """Refuse a token from its next turn on, on every endpoint.

        The client's other requests come before or after the turn; the story is about the turn.
        """
        self.tokens[token].is_dying = True

    def receive(self, seen: Seen, body: bytes) -> Token | None:
        """Record a request, and return its token; None if that is unknown or dead."""
        self.seen.append(seen)
        token = self.tokens.get(seen.bearer)
        seen.name = token.name if token else ""
        request = f"{seen.method} {seen.host}{seen.path}"
        self.problems += [f"{request}: {problem}" for problem in self._problems(seen, token, body)]
        if token and token.is_dying and seen.path == RESPONSES:
            token.alive = False
        return token if token and token.alive else None

    def _problems(self, seen: Seen, token: Token | None, body: bytes) -> Iterator[str]:
        is_swapped, is_lent, is_whoami = seen.path in SWAPPED, seen.path in LENT, seen.path == WHOAMI_PATH
        skipped = "authorization" if is_swapped or is_lent or is_whoami else ""
        text = "\n".join([seen.path, *(value for name, value in seen.headers if name.lower() != skipped)])
        pooled = [token.token for token in self.tokens.values() if not token.own]
        if any(token in text or token.encode() in body for token in pooled):
            yield "a token of the pool where it does not belong"
        if token is None:
            yield "unknown token"
        if token is None or is_whoami:
            return
        if token.own is is_swapped and not is_lent:
            yield f"the token of {token.name} does not belong on this path"
        if (account := seen.header("chatgpt-account-id")) != token.account_id:
            yield f"chatgpt-account-id is {account!r}, not {token.account_id!r}"
        if "<codexpool" in text:
            yield "a placeholder of codexpool"
        if token.own:
            return
        if sent := [name for name in FORBIDDEN if seen.header(name) is not None]:
            yield f"{', '.join(sent)} must not be sent"
        override = seen.header("x-openai-account-routing-override")
        if (override or seen.path == RESPONSES) and (override or NO_CONSTRAINT) != token.routing_override:
            yield f"x-openai-account-routing-override is {override!r}"


def _certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a TLS context for ``HOSTS``, and the file of its certificate authority."""
    store = CertStore.from_store(folder / "backend", "standin", 2048)
    entry = store.get_cert(HOST, [x509.DNSName(host) for host in HOSTS])
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    chain = folder / "backend" / "hosts.pem"
    chain.write_bytes(entry.privatekey.private_bytes(*pem) + entry.cert.to_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(chain)
    return context, folder / "backend" / "standin-ca-cert.pem"


class _Connection(BaseHTTPRequestHandler):
    """One connection: a CONNECT, then TLS and requests on it."""

    protocol_version = "HTTP/1.1"
    server: StandIn
    host = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the demo prints what was seen."""

    def do_CONNECT(self) -> None:
        self.send_response_only(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.host = self.path.partition(":")[0]

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.connection.close()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        seen = Seen(self.command, self.host, path, list(self.headers.items()))
        if self.host not in (HOST, AUTH_HOST):
            return self._send(seen, 200, b"{}")
        token = self.server.receive(seen, body)
        if token is None:
            error = {"code": "token_revoked", "message": "Your authentication token has been revoked."}
            return self._send(seen, 401, json.dumps({"error": error}).encode())
        if path != RESPONSES:
            return self._send(seen, 200, json.dumps(_document(path, token)).encode())
        if seen.kind == "WebSocket":
            return self._converse(seen, token)
        events = _generation(token, next(self.server.numbers), json.loads(body))
        stream = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        return self._send(seen, 200, stream.encode(), "text/event-stream")

    do_GET = do_POST  # noqa: N815 (http.server looks for this name)

    def _send(self, seen: Seen, status: int, body: bytes, content_type: str = "application/json") -> None:
        seen.status = status
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _converse(self, seen: Seen, token: Token) -> None:
        """Accept the upgrade, and answer each message until the client leaves."""
        socket = WSConnection(ConnectionType.SERVER)
        fields = [(name.encode(), value.encode()) for name, value in seen.headers]
        socket.initiate_upgrade_connection(fields, self.path)
        seen.status, self.close_connection = 101, True
        text = ""
        while True:
            for event in socket.events():
                match event:
                    case Request():
                        self.wfile.write(socket.send(AcceptConnection()))
                    case TextMessage():
                        text += event.data
                        if event.message_finished:
                            for answer in _generation(token, next(self.server.numbers), json.loads(text)):
                                self.wfile.write(socket.send(TextMessage(json.dumps(answer))))
                            text = ""
                    case CloseConnection():
                        self.wfile.write(socket.send(event.response()))
                        return
            if not (data := self.rfile.read1(65536)):
                return
            socket.receive_data(data)


def _document(path: str, token: Token) -> dict[str, Any]:
    """Return what an endpoint answers; side endpoints of the client get an empty document."""
    match path:
        case endpoints.WHOAMI_PATH:
            owner = {"chatgpt_account_id": token.account_id, "chatgpt_user_id": f"user-{token.name}"}
            plan = {"chatgpt_plan_type": "business", "chatgpt_account_is_fedramp": False}
            return {**owner, **plan, "email": f"{token.name}@example.invalid"}
        case endpoints.ACCOUNTS_CHECK:
            account = {"id": token.account_id, "plan_type": "business", "structure": "workspace"}
            account |= {"account_routing_override": token.routing_override, "workspace_backend_origin": NO_CONSTRAINT}
            return {"accounts": [account], "default_account_id": token.account_id}
        case endpoints.USAGE:
            window = {"used_percent": 12, "limit_window_seconds": 18000, "reset_after_seconds": 3600}
            limit = {"primary_window": window | {"reset_at": int(time.time()) + 3600}, "secondary_window": None}
            return {"plan_type": "business", "rate_limit": {"allowed": True, "limit_reached": False, **limit}}
        case routes.MODELS:
            return {"models": []}
        case _:
            return {}


def _generation(token: Token, number: int, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of an answer: ``answer from <name>, request <n>``, and the input's last ``echo:<word>``."""
    response = {"id": f"resp_{number}", "object": "response", "model": request["model"], "output": []}
    usage = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
    yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
    if request.get("generate") is not False:  # The Codex CLI warms up a WebSocket with such a request.
        words = re.findall(r"echo:(\w+)", json.dumps(request["input"]))
        text = f"answer from {token.name}, request {number}" + (f", {words[-1]}" if words else "")
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": content}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        response["output"] = [item]
    yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}}
