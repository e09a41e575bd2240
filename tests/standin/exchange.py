"""Requests, replies, and the records of both."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import zstandard

Headers = list[tuple[str, str]]

Transport = Literal["http/1.1", "h2", "websocket", "message", "connect"]
"""The transport of a request. ``websocket`` is the upgrade, ``message`` a ``response.create`` on the socket."""


class CutError(Exception):
    """The stand-in drops this connection, as planned."""


Cut = Literal["", "head", "body"]
"""Where the stand-in drops the connection: nowhere, before the first byte, or in the middle of the body."""


@dataclass(slots=True)
class Seen:
    """One request as received, and its result.

    ``headers`` are as received, in order and spelling. ``fingerprint`` and ``name`` are those of the bearer
    token, the name only where the stand-in knows it. ``status`` is 0 until answered; for a message it is the
    status of the error frame, or 200. ``refusal`` is the rule that the request broke; a token that is merely
    dead breaks none. ``complete``: the whole answer is on its way. Where it is not, the stand-in has ``cut`` the
    connection or ``closed`` the socket (with this code) as planned, or the client ``aborted`` it.
    ``body`` is decoded; length and hash are of the body as received. ``peer`` is the address that connected: with
    several proxies, it tells which one asked.
    """

    number: int
    host: str
    method: str
    path: str
    headers: Headers
    transport: Transport
    connection: int
    peer: str = ""
    at: float = field(default_factory=time.time)
    query: str = ""
    fingerprint: str = ""
    name: str = ""
    body_length: int = 0
    body_sha256: str = ""
    body: bytes | None = None
    status: int = 0
    refusal: str = ""
    complete: bool = False
    cut: bool = False
    closed: int = 0
    aborted: bool = False

    def header(self, name: str) -> str | None:
        """Return the first header of that name, ignoring case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def by_pool(self) -> bool:
        """Whether codexpool asked for itself, and not with a client's request."""
        return (self.header("user-agent") or "").startswith("codexpool/")


@dataclass(slots=True)
class Request:
    """A request in progress; header names in lower case, ``server_name`` from TLS, ``body`` decoded."""

    host: str
    method: str
    path: str
    query: str
    headers: Headers
    transport: Transport
    seen: Seen
    server_name: str = ""
    body: bytes = b""
    first: dict[str, str] = field(init=False)
    bearer: str = field(init=False, default="")
    """Return the token of ``Authorization: Bearer …``, or an empty string; for an agent, its private key."""
    code: str = field(init=False, default="")
    """Why what an agent has signed is refused; empty if it is not."""

    def __post_init__(self) -> None:
        self.first = dict(reversed(self.headers))
        scheme, _, token = self.first.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            self.bearer = token

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        return self.first.get(name)

    def received(self, body: bytes) -> None:
        """Set the body, without its content coding. Raises ValueError if it cannot be decoded."""
        self.seen.body_length = len(body)
        self.seen.body_sha256 = hashlib.sha256(body).hexdigest()
        self.body = decoded(body, self.header("content-encoding") or "identity")
        self.seen.body = self.body


@dataclass(slots=True)
class Reply:
    """An answer for any transport. A ``body`` that is an iterator is streamed, piece by piece."""

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""
    delay: float = 0.0
    cut: Cut = ""
    interim: tuple[int, ...] = ()
    trailers: Headers = field(default_factory=list)

    @classmethod
    def of_json(cls, data: object, status: int = 200, headers: Headers | None = None) -> Reply:
        return cls(status, [("content-type", "application/json"), *(headers or [])], json.dumps(data).encode())


def decoded(body: bytes, coding: str) -> bytes:
    """A body without its content coding. Raises ValueError if it is damaged, cut short or unknown."""
    match coding:
        case "identity":
            return body
        case "zstd":
            stream = zstandard.ZstdDecompressor().decompressobj()
            try:
                plain = stream.decompress(body)
            except zstandard.ZstdError as error:
                raise ValueError(f"the body is no zstd: {error}") from error
            if not stream.eof or stream.unused_data:
                raise ValueError("the zstd body is cut short, or something follows it")
            return plain
    raise ValueError(f"content-encoding {coding!r} is not one the client uses")


def error_body(code: str, message: str, kind: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    """The backend's error object."""
    return {"error": {"message": message, "type": kind, "code": code, **more}}


def nothing_here() -> Reply:
    """The answer on unknown paths."""
    return Reply.of_json(error_body("not_found", "no such endpoint"), 404)
