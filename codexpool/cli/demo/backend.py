"""The demo's backend: a small, strict stand-in for ChatGPT on loopback.

It serves what the Codex CLI needs for a session (discovery, models, turns over HTTP and WebSocket, whoami), knows the
account and routing of each token, and refuses a request whose headers do not fit its token. One port takes CONNECT
requests, as mitmproxy's upstream mode sends them, and speaks TLS on the same connection.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Final

import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy.certs import CertStore
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from codexpool.protocol.endpoints import (
    ACCOUNTS_CHECK,
    API_HOST,
    AUTH_HOST,
    CONFIG_BUNDLE,
    HOST,
    MCP,
    NO_CONSTRAINT,
    RESPONSES,
    USAGE,
    WHOAMI_PATH,
)
from codexpool.protocol.routes import MODELS
from codexpool.tokens.bearer import fingerprint

METRICS: Final = "ab.chatgpt.com"
HOSTS: Final = (HOST, AUTH_HOST, METRICS, API_HOST)

EMPTY: Final[dict[str, object]] = {
    CONFIG_BUNDLE: {},
    "/backend-api/wham/settings/user": {},
    USAGE: {"plan_type": "business", "rate_limit": None},
    "/backend-api/ps/plugins/installed": {"plugins": []},
    "/backend-api/ps/plugins/suggested/codex": {"plugins": []},
    "/backend-api/codex/analytics-events/events": {},
}
"""Side endpoints of the client, with answers that say nothing."""

FORBIDDEN: Final = (
    "x-openai-internal-codex-residency",
    "openai-organization",
    "openai-project",
    "x-openai-actor-authorization",
)
"""Headers that describe the client's own workspace: they must not travel with a token of the pool."""

PIECES: Final = 5
"""Deltas of a generated answer."""

LONGEST_BODY: Final = 1 << 24
"""Bytes of a request's body, as sent and decompressed."""

IDLE: Final = 60.0
"""Seconds without a byte after which a connection is closed."""


@dataclass
class Token:
    """A token the backend knows. ``own``: it is the client's login and not one of the pool."""

    token: str = field(repr=False)
    name: str
    routing_override: str = NO_CONSTRAINT
    own: bool = False
    alive: bool = True

    @property
    def account_id(self) -> str:
        return f"acc-{self.name}"


@dataclass
class Seen:
    """A request as the backend received it, and the status it got (0 until then). ``name`` is the token's."""

    method: str
    host: str
    path: str
    headers: list[tuple[str, str]]
    name: str
    fingerprint: str
    is_websocket: bool
    status: int = 0

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


class RefusedError(Exception):
    """The request breaks a rule, or its token is dead: the status, and the error code and message of the answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": code, "message": message, "type": "invalid_request_error"}}


class StandIn:
    """Serve ``tokens`` from entering to leaving.

    Attributes:
        proxy_port: of the CONNECT proxy, on 127.0.0.1.
        ca_file: the certificate authority to trust.
        seen: every request, in order.
        refusals: the rules that requests have broken; a dead token breaks none.
        leaks: requests that carried a token of the pool where it does not belong.
    """

    def __init__(self, tokens: Iterable[Token], folder: Path) -> None:
        self.tokens = {token.token: token for token in tokens}
        self.seen: list[Seen] = []
        self.refusals: list[str] = []
        self.leaks: list[str] = []
        self.numbers = itertools.count(1)
        self.tls, self.ca_file = _certified(folder)
        self._server = _Server(self)
        self.proxy_port = self._server.server_address[1]

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._server.serve_forever, name="stand-in", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kill(self, token: str) -> None:
        """Refuse a token from now on, on every endpoint."""
        self.tokens[token].alive = False

    def requests(self, path: str, name: str | None = None) -> list[Seen]:
        """Return the requests for a path, in order; only those with the token of this name, if given."""
        return [seen for seen in list(self.seen) if seen.path == path and name in (None, seen.name)]

    def receive(self, seen: Seen, bearer: str, body: bytes) -> Token:
        """Record a request and return its token. Raises RefusedError if a rule is broken or the token is dead."""
        self.seen.append(seen)
        token = self.tokens.get(bearer)
        swapped = seen.path in (RESPONSES, MODELS, ACCOUNTS_CHECK)
        self._look_for_leaks(seen, bearer if swapped or seen.path == WHOAMI_PATH else "", body)
        try:
            if token is None:
                raise RefusedError(401, "invalid_token", "no token that is known here")
            if seen.path != WHOAMI_PATH:
                _check(seen, token, swapped)
        except RefusedError as error:
            self.refusals.append(f"{seen.method} {seen.host}{seen.path}: {error}")
            raise
        if not token.alive:
            raise RefusedError(401, "token_revoked", "Your authentication token has been revoked.")
        return token

    def _look_for_leaks(self, seen: Seen, spent: str, body: bytes) -> None:
        expected = f"Bearer {spent}"
        values = [
            value for name, value in seen.headers if not (name.lower() == "authorization" and value == expected)
        ]
        text = "\n".join([seen.path, *values])
        pooled = [token.token for token in self.tokens.values() if not token.own]
        if any(token in text or token.encode() in body for token in pooled):
            self.leaks.append(f"{seen.method} {seen.host}{seen.path}")


def _check(seen: Seen, token: Token, swapped: bool) -> None:
    """Raise RefusedError if a request's headers do not fit its token and path."""
    if token.own is swapped:
        raise RefusedError(401, "invalid_token", f"the token of {token.name} does not belong on this path")
    if (account := seen.header("chatgpt-account-id")) != token.account_id:
        raise RefusedError(403, "account_mismatch", f"chatgpt-account-id is {account!r}, not {token.account_id!r}")
    if any("<codexpool" in value for _, value in seen.headers):
        raise RefusedError(400, "placeholder", "a header has a placeholder of codexpool")
    if not swapped:
        return
    if sent := [name for name in FORBIDDEN if seen.header(name) is not None]:
        raise RefusedError(400, "unexpected_header", f"{', '.join(sent)} must not be sent")
    override = seen.header("x-openai-account-routing-override")
    optional = override is None and seen.path != RESPONSES
    if not optional and (override or NO_CONSTRAINT) != token.routing_override:
        raise RefusedError(400, "routing_mismatch", f"x-openai-account-routing-override is {override!r}")


def _certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a TLS context for ``HOSTS``, and the file of the authority that vouches for it."""
    store = CertStore.from_store(folder / "backend", "standin", 2048)
    entry = store.get_cert(HOST, [x509.DNSName(host) for host in HOSTS])
    chain = folder / "backend" / "hosts.pem"
    chain.touch(mode=0o600)
    key = entry.privatekey.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(key + entry.cert.to_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(chain)
    return context, folder / "backend" / "standin-ca-cert.pem"


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is no news: a client may leave at any time."""


class _Connection(BaseHTTPRequestHandler):
    """One connection: a CONNECT, then TLS and requests on it."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE
    server: _Server
    host = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the demo shows what was seen."""

    def do_CONNECT(self) -> None:
        host = self.path.partition(":")[0]
        if self.host or host not in HOSTS:
            self.send_error(403)
            return
        self.send_response_only(200)
        self.end_headers()
        self.connection = self.server.standin.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.host = host

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.connection.close()

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), LONGEST_BODY))
        if self.headers.get("content-encoding") == "zstd":
            body = zstandard.ZstdDecompressor().stream_reader(body).read(LONGEST_BODY)
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        standin, bearer = self.server.standin, (self.headers.get("authorization") or "").removeprefix("Bearer ")
        known, upgrades = standin.tokens.get(bearer), self.headers.get("upgrade", "").lower() == "websocket"
        path = self.path.partition("?")[0]
        headers = list(self.headers.items())
        seen = Seen(
            self.command, self.host, path, headers, known.name if known else "", fingerprint(bearer), upgrades
        )
        if self.host not in (HOST, AUTH_HOST):
            return self._send_json(seen, {} if self.host == METRICS else None)
        try:
            token = standin.receive(seen, bearer, body)
            if path == RESPONSES and upgrades:
                return self._converse(seen, token)
            if path == RESPONSES and self.command == "POST":
                return self._stream(seen, _generation(token, next(standin.numbers), json.loads(body)))
        except RefusedError as refusal:
            return self._send_json(seen, refusal.body, refusal.status)
        return self._send_json(seen, _mcp(json.loads(body)) if path == MCP and body else _document(path, token))

    def _send_json(self, seen: Seen, document: object, status: int = 200) -> None:
        """Send a document; none is a 404."""
        body = json.dumps({} if document is None else document).encode()
        seen.status = 404 if document is None else status
        self.send_response(seen.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, seen: Seen, events: Iterable[Mapping[str, Any]]) -> None:
        seen.status = 200
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _converse(self, seen: Seen, token: Token) -> None:
        """Accept the upgrade, and answer each message until the client leaves."""
        socket = WSConnection(ConnectionType.SERVER)
        fields = [(name.encode(), value.encode()) for name, value in seen.headers]
        socket.initiate_upgrade_connection(fields, self.path)
        seen.status, self.close_connection = 101, True
        parts: list[str] = []
        while True:
            for event in socket.events():
                match event:
                    case Request():
                        self.wfile.write(socket.send(AcceptConnection(extensions=[PerMessageDeflate()])))
                    case TextMessage():
                        parts.append(event.data)
                        if event.message_finished:
                            request, parts = json.loads("".join(parts)), []
                            for answer in _generation(token, next(self.server.standin.numbers), request):
                                self.wfile.write(socket.send(TextMessage(json.dumps(answer))))
                    case Ping():
                        self.wfile.write(socket.send(event.response()))
                    case CloseConnection():
                        self.wfile.write(socket.send(event.response()))
                        return
            if not (data := self.rfile.read1(65536)):
                return
            socket.receive_data(data)


def _document(path: str, token: Token) -> object:
    """Return what an endpoint answers; None where there is no such endpoint."""
    account = {"plan_type": "business", "structure": "workspace", "workspace_backend_origin": NO_CONSTRAINT}
    account |= {"id": token.account_id, "account_routing_override": token.routing_override}
    owner = {"email": f"{token.name}@example.invalid", "chatgpt_user_id": f"user-{token.name}"}
    owner |= {"chatgpt_account_id": token.account_id, "chatgpt_plan_type": "business"}
    documents: dict[str, object] = {
        **EMPTY,
        WHOAMI_PATH: {**owner, "chatgpt_account_is_fedramp": False},
        ACCOUNTS_CHECK: {
            "accounts": [account],
            "default_account_id": token.account_id,
            "account_ordering": [token.account_id],
        },
        MODELS: {"models": []},
    }
    return documents.get(path)


def _mcp(call: Mapping[str, Any]) -> dict[str, Any]:
    """Answer as a server without tools: the client complains about one that is missing."""
    results: dict[object, Any] = {
        "initialize": {
            "protocolVersion": call.get("params", {}).get("protocolVersion"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "stand-in", "version": "1"},
        },
        "tools/list": {"tools": []},
        "resources/list": {"resources": []},
        "resources/templates/list": {"resourceTemplates": []},
    }
    return {"jsonrpc": "2.0", "id": call.get("id"), "result": results.get(call.get("method"), {})}


def _generation(token: Token, number: int, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of an answer: ``answer from <name>, request <n>``, and the input's last ``echo:<word>``."""
    response = {"id": f"resp_{number}", "object": "response", "model": request["model"], "output": []}
    usage: dict[str, Any] = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
    if request.get("generate") is not False:
        words = re.findall(r"echo:(\w+)", json.dumps(request["input"]))
        text = f"answer from {token.name}, request {number}" + (f", {words[-1]}" if words else "")
        item: dict[str, Any] = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": []}
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        size = -(-len(text) // PIECES)
        for start in range(0, len(text), size):
            place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
            yield {"type": "response.output_text.delta", **place, "delta": text[start : start + size]}
        item = {**item, "content": [{"type": "output_text", "text": text, "annotations": []}]}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        response["output"] = [item]
    yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}}
