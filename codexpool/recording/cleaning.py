"""A flow with stand-ins in every place of it."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from mitmproxy import connection, flow, http, websocket
from mitmproxy.net import encoding

from codexpool.protocol.inflate import UnreadableError, inflated
from codexpool.recording.fields import Fields
from codexpool.recording.kinds import Kind
from codexpool.recording.layers import LONGEST
from codexpool.recording.standins import StandIns
from codexpool.recording.taking import NOTE, taken
from codexpool.traces.trace import METADATA

TRIES: Final = 5
"""How often a trace is read that changes meanwhile."""

_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How gzip and zstd begin."""

_SERVED: Final = re.compile(r"codexpool: (?P<name>\S+), attempt \d+")
_REFUSED: Final = re.compile(r"(?:\(|; |can serve\. )(?P<name>[\w.-]{1,64}): ")
_NEEDS: Final = re.compile(r"(?:limit; |\), )(?P<name>[\w.-]{1,64}) \(")

Address = tuple[Any, ...]


class Body(NamedTuple):
    """What is recorded of a body; ``why`` says why nothing is."""

    content: bytes | None
    why: str = ""


class Cleaner:
    """Replaces what is private in flows. They have to be `taken` ones; what it gives shares nothing with them."""

    def __init__(self, standins: StandIns) -> None:
        self.standins = standins
        self.fields = Fields(standins)

    def flow(self, source: http.HTTPFlow) -> http.HTTPFlow:
        """The flow with stand-ins."""
        self._learn_names(source)
        made = taken(source, with_bodies=True)
        made.id = self.fields.prose.plain(source.id)
        self._connection(made.client_conn)
        self._connection(made.server_conn)
        note = dict(source.metadata.get(NOTE, {}))
        left_out = dict(note.pop("left_out", {}))
        self._request(made.request, left_out)
        if made.response is not None:
            self._response(made.response, left_out)
        if made.error is not None:
            made.error = flow.Error(self._said(made.error.msg), made.error.timestamp)
        if made.websocket is not None:
            self._websocket(made.websocket, left_out)
        made.comment = self._own(source.comment)
        made.metadata = {NOTE: {**note, **({"left_out": left_out} if left_out else {})}}
        if METADATA in source.metadata:
            made.metadata[METADATA] = self._trace(source.metadata[METADATA])
        return made

    # -- the parts of a flow

    def _request(self, request: http.Request, left_out: dict[str, str]) -> None:
        data = request.data
        data.host = self._host(data.host)
        data.authority = self._bytes(data.authority, self._host)
        data.path = self._bytes(data.path, self.fields.address)
        data.method = self._bytes(data.method, self.fields.prose.plain)
        self._message(request, "request", left_out)

    def _response(self, response: http.Response, left_out: dict[str, str]) -> None:
        response.data.reason = self._bytes(response.data.reason, self.fields.prose.plain)
        self._message(response, "response", left_out)

    def _message(self, message: http.Message, which: str, left_out: dict[str, str]) -> None:
        data = message.data
        body = self._body(message)
        if body.why:
            left_out[which] = body.why
        headers = self._headers(data.headers)
        if body.content is not None and body.content != data.content and "content-length" in headers:
            headers["content-length"] = str(len(body.content))
        data.content, data.headers = body.content, headers
        if data.trailers is not None:
            data.trailers = self._headers(data.trailers)

    def _headers(self, headers: http.Headers) -> http.Headers:
        fields = []
        for name, value in headers.fields:
            text = _text(name)
            made = self.fields.header(text, _text(value))
            fields.append((_raw(self.fields.prose.literally(text)), _raw(made)))
        return http.Headers(fields)

    def _body(self, message: http.Message) -> Body:
        raw = message.raw_content
        if not raw:
            return Body(raw)
        coding = message.headers.get("content-encoding", "identity").strip().lower() or "identity"
        try:
            content = inflated(raw, coding, LONGEST)
        except UnreadableError:
            return Body(None, f"its content-encoding ({self.fields.prose.plain(coding)[:32]}) could not be undone")
        if content.startswith(_COMPRESSED):
            return Body(None, "it is compressed, and its headers do not say so")
        if b"\0" in content:  # A picture, or letters of two bytes each: a secret in there would not be found.
            return Body(None, "it is no text that could be looked through")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return (
                Body(raw) if self._is_clean(content) else Body(None, "it is no text, and something private is in it")
            )
        is_form = "x-www-form-urlencoded" in message.headers.get("content-type", "")
        made = self.fields.query(text) if is_form else self.fields.text(text)
        if made == text:
            return Body(raw)
        return Body(encoding.encode(made.encode("utf-8", "surrogatepass"), coding.removeprefix("x-")))

    def _is_clean(self, content: bytes) -> bool:
        text = content.decode("latin-1")
        return self.fields.prose.plain(text) == text

    def _websocket(self, data: websocket.WebSocketData, left_out: dict[str, str]) -> None:
        for from_client in (True, False):
            messages = [message for message in data.messages if message.from_client is from_client]
            texts = []
            for message in messages:
                try:
                    texts.append(message.content.decode())
                except UnicodeDecodeError:
                    texts.append("")
                if b"\0" in message.content or not texts[-1]:
                    texts[-1] = ""
                    if b"\0" in message.content or not self._is_clean(message.content):
                        message.content = b""
                        left_out["messages"] = "some are no text, and something private was in them"
            for message, text, made in zip(messages, texts, self.fields.events(texts), strict=True):
                if made != text:
                    message.content = made.encode("utf-8", "surrogatepass")
        if data.close_reason:
            data.close_reason = self._said(data.close_reason)

    def _connection(self, made: connection.Connection) -> None:
        made.id = self.fields.prose.plain(made.id)
        made.peername, made.sockname = self._address(made.peername), self._address(made.sockname)
        if isinstance(made, connection.Server):
            made.address = self._address(made.address)
        if made.sni is not None:
            made.sni = self._host(made.sni)

    def _address(self, address: Any) -> Any:
        """An address and a port. (Which port a client has got says nothing.)"""
        return None if address is None else (self._host(address[0]), *address[1:2])

    def _host(self, host: str) -> str:
        name, colon, port = host.rpartition(":")
        if colon and port.isdecimal() and ":" not in name:
            return f"{self._host(name)}:{port}"
        if re.fullmatch(r"[0-9a-fA-F:.]+", host) and ("." in host or ":" in host):
            return self.fields.prose.address(host)
        return self.fields.prose.literally(host)

    def _trace(self, trace: Any) -> Any:
        document = _document(trace) if hasattr(trace, "document") else trace
        prose = self.fields.prose
        prose.is_own = True
        try:
            return self.fields.document(document)
        finally:
            prose.is_own = False

    def _own(self, comment: str) -> str:
        prose = self.fields.prose
        prose.is_own = comment.startswith("codexpool")
        try:
            return prose.plain(comment)
        finally:
            prose.is_own = False

    def _said(self, text: str) -> str:
        return self.fields.prose.addresses(self.fields.text(text))

    def _learn_names(self, source: http.HTTPFlow) -> None:
        """Whom codexpool speaks of: in the comment of a flow, and where it has answered in the backend's place."""
        texts = [source.comment]
        if source.response is not None and b"codexpool: " in (content := source.response.raw_content or b""):
            texts.append(content.decode("utf-8", "replace"))
        if source.websocket is not None:
            contents = (message.content for message in source.websocket.messages if not message.from_client)
            texts += [content.decode("utf-8", "replace") for content in contents if b"codexpool: " in content]
        for text in texts:
            if text.startswith("codexpool: ") or "codexpool: no identity" in text or " at their limit" in text:
                for pattern in (_SERVED, _REFUSED, _NEEDS):
                    for match in pattern.finditer(text):
                        self.standins.of(Kind.IDENTITY, match["name"])

    def _bytes(self, raw: bytes, clean: Any) -> bytes:
        return _raw(clean(_text(raw))) if raw else raw


def _document(trace: Any) -> Any:
    """What a trace says. That of an open socket may be added to while it is read, in the thread of the proxy."""
    for _ in range(TRIES):
        try:
            return trace.document()
        except RuntimeError:
            continue
    return trace.document()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
