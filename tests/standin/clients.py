"""Independent clients (httpx, websockets) and tokens, for the tests of the stand-in."""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx
import zstandard
from websockets.sync.client import ClientConnection, connect

from tests.standin import RESPONSES, StandIn, Token

WORK = "at-test-work-5d0f9c8b7a6e4d3c2b1a0f9e8d7c6b5a"
SPARE = "at-test-spare-1a2b3c4d5e6f708192a3b4c5d6e7f809"
CLIENT = "at-test-client-00112233445566778899aabbccddeeff"


def work(**more: Any) -> Token:
    return Token(WORK, "acc-work", "user-work", name="work", **more)


def spare(**more: Any) -> Token:
    return Token(SPARE, "acc-spare", "user-spare", name="spare", **more)


def client_token() -> Token:
    return Token(CLIENT, "acc-client", "user-client", plan="plus", name="client")


def dressed(token: Token) -> dict[str, str]:
    """Return all headers that belong to a token."""
    headers = {"authorization": f"Bearer {token.token}", "chatgpt-account-id": token.account_id}
    if token.fedramp:
        headers["x-openai-fedramp"] = "true"
    if token.routing_override != "NO_CONSTRAINT":
        headers["x-openai-account-routing-override"] = token.routing_override
    return headers


def prompt(text: str, **more: Any) -> dict[str, Any]:
    """Return the body of a model request."""
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return {"model": "gpt-test", "stream": True, "store": False, "input": [message], **more}


def tls(standin: StandIn) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(standin.ca_file))


def settings(standin: StandIn, *, http2: bool = False) -> dict[str, Any]:
    """Return the options of an httpx client that uses the CONNECT proxy."""
    return {
        "proxy": f"http://127.0.0.1:{standin.proxy_port}",
        "verify": tls(standin),
        "http2": http2,
        "limits": httpx.Limits(max_connections=None),
        "timeout": 20,
        "trust_env": False,
    }


def http(standin: StandIn, *, http2: bool = False) -> httpx.Client:
    """Return such a client, for one thread at a time."""
    return httpx.Client(**settings(standin, http2=http2))


def ask(client: httpx.Client, token: Token, text: str = "say hi", **headers: str) -> httpx.Response:
    """Send a model request over HTTP."""
    return post(client, token, prompt(text), **headers)


def post(client: httpx.Client, token: Token, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Send a model request over HTTP with this body, compressed as the real client does."""
    return client.post(
        f"{token.origin}{RESPONSES}",
        content=zstandard.compress(json.dumps(body).encode()),
        headers={**dressed(token), "content-encoding": "zstd", "content-type": "application/json", **headers},
    )


def answer_in(response: httpx.Response) -> str:
    """Join the deltas of an event stream."""
    events = events_in(response)
    assert events[-1]["type"] == "response.completed"
    return text_in(events)


def events_in(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of an event stream."""
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


def websocket(standin: StandIn, token: Token, **headers: str) -> ClientConnection:
    """Open a WebSocket to the responses endpoint."""
    return connect(
        f"wss://{token.host}{RESPONSES}",
        ssl=tls(standin),
        proxy=f"http://127.0.0.1:{standin.proxy_port}",
        additional_headers={**dressed(token), **headers},
        open_timeout=20,
        close_timeout=5,
    )


ENDS = ("response.completed", "response.failed", "error")


def say(socket: ClientConnection, text: str = "say hi", **more: Any) -> list[dict[str, Any]]:
    """Take a turn on a socket. Return all its frames, up to the end or an error."""
    socket.send(json.dumps({"type": "response.create", **prompt(text), **more}))
    frames: list[dict[str, Any]] = []
    while not frames or frames[-1]["type"] not in ENDS:
        frames.append(json.loads(socket.recv(timeout=20)))
    return frames


def text_in(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["delta"] for frame in frames if frame["type"] == "response.output_text.delta")
