"""A stream that dresses its request at the last moment, and can put it on the wire again.

mitmproxy answers a client exactly once per flow. `ResendStream` leaves that rule alone but moves the moment at
which a *held* (not streamed) response is final: once every addon has seen it in the ``response`` hook, the
sender is asked whether the request goes out again. If so the response is dropped, and the client never learns
of it.

The two ideas behind it:

- Towards the server every attempt has a stream id of its own. mitmproxy's server-side layers keep their state per
  stream id, so a fresh id is a fresh exchange, on the same connection if that is still good; whatever still
  arrives for an abandoned attempt carries the old id and is dropped here. Towards the client the id never changes.
- ``make_server_connection`` is where mitmproxy is about to send ``flow.request``. A flow that the sender claims
  leaves from there as a dressed copy instead, so what ``flow.request`` shows (in the flow list, in dumps, in HAR
  files) never was on the wire, and a request that nobody dressed cannot leave by mistake.

Only claimed flows pay for this, and only once per request: body chunks and WebSocket messages of a first attempt
take mitmproxy's own path.

This file knows nothing of Codex or of pools. It is the only one that touches mitmproxy's internals.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from itertools import count
from typing import Any, Protocol, cast

from mitmproxy import http
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers.http import DropStream, GetHttpConnection, HttpLayer, SendHttp
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpResponseHeadersHook, HttpResponseHook

CANCEL: Any
CONNECT_FAILED: Any
UNSENDABLE: Any
try:
    from mitmproxy.proxy.layers.http._events import ErrorCode
except ImportError:  # mitmproxy 11.0 has plain status codes in their place
    CANCEL, CONNECT_FAILED, UNSENDABLE = 499, 502, 502
else:
    CANCEL, CONNECT_FAILED = ErrorCode.CANCEL, ErrorCode.CONNECT_FAILED
    UNSENDABLE = ErrorCode.GENERIC_SERVER_ERROR

FROM_SERVER = (ResponseHeaders, ResponseData, ResponseTrailers, ResponseEndOfMessage, ResponseProtocolError)

# After a reload of this module the name in mitmproxy's module is that of the stream class it installed before.
HttpStream: type[layers.HttpStream] = next(
    cls for cls in layers.HttpStream.__mro__ if cls.__module__ == layers.__name__
)

_TOUCHED = {
    HttpStream: (
        "_handle_event",
        "check_killed",
        "handle_event",
        "handle_protocol_error",
        "make_server_connection",
        "send_response",
        "state_done",
        "state_wait_for_response_headers",
    ),
    HttpLayer: ("event_to_child", "make_stream"),
    layer.Layer: ("handle_event",),
}
"""What this file overrides or calls: unchanged since 2020, and still promised to nobody."""

Commands = Generator[Any, Any, None]


class Sender(Protocol):
    """Who decides what a flow looks like on the wire, and whether it goes out again."""

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        """The dressed copy of ``flow.request`` that leaves now.

        A response instead is the answer to a request that must not leave. None: the flow is no concern of the
        sender's, and mitmproxy sends it as it is. Must not raise.
        """

    def outdated(self, flow: http.HTTPFlow) -> bool:
        """Asked when the connection is there: is what `outbound` gave for it no longer what shall leave?

        Must not raise, and must be cheap: this is asked for every attempt.
        """

    def again(self, flow: http.HTTPFlow) -> bool:
        """Asked about a held response after all addons have seen it: shall the request go out again?

        Must not raise.
        """


class ResendStream(HttpStream):  # type: ignore[misc, valid-type]
    """mitmproxy's stream, with a sender between a claimed flow and the wire."""

    sender: Sender
    _paused_event_queue: deque[events.Event]
    _attempt_ids = count(-1, -1)
    """Stream ids of second and later attempts, below all of mitmproxy's own."""

    def __init__(self, context: Any, stream_id: int) -> None:
        super().__init__(context, stream_id)
        self.attempt_id = stream_id
        self.claimed = False

    # -- an attempt goes out

    def make_server_connection(self) -> Generator[Any, Any, bool]:
        outbound = self.sender.outbound(self.flow)
        if outbound is None and not self.claimed:
            connected: bool = yield from super().make_server_connection()
            return connected
        self.claimed = True
        if outbound is None:
            yield from self._disowned()
        elif self.client_state != self.state_done:
            # Another addon has set `flow.request.stream`: the body is passing by and could not be sent twice.
            reason = "codexpool: not sent, because something streams the request body (flow.request.stream is set)"
            yield from self._fail(reason, UNSENDABLE)
        elif isinstance(outbound, http.Response):
            yield from self._answer_in_place(outbound)
        else:
            yield from self._put_on_the_wire(outbound)
        return False  # All there is to send is sent: mitmproxy's own sending must not follow.

    def _put_on_the_wire_anew(self) -> Commands:
        """While the connection was made, the sender has changed its mind. Once only: then it leaves as it is."""
        outbound = self.sender.outbound(self.flow)
        if isinstance(outbound, http.Request):
            yield from self._put_on_the_wire(outbound, again=True)
        elif outbound is not None:
            yield from self._answer_in_place(outbound)
        else:
            yield from self._disowned()

    def _put_on_the_wire(self, request: http.Request, again: bool = False) -> Commands:
        connection, err = yield GetHttpConnection(
            (request.host, request.port),
            request.scheme == "https",
            self.flow.server_conn.via,
            self.flow.server_conn.transport_protocol,
        )
        if err:
            yield from self._fail(err, CONNECT_FAILED)
            return
        if (yield from self.check_killed(True)):
            return  # The client has left, or somebody has killed the flow, while the connection was made.
        if self.sender.outdated(self.flow) and not again:
            yield from self._put_on_the_wire_anew()
            return
        self.context.server = self.flow.server_conn = connection
        content, trailers = request.raw_content, request.trailers
        yield SendHttp(RequestHeaders(self.attempt_id, request, not (content or trailers)), connection)
        if content:
            yield SendHttp(RequestData(self.attempt_id, content), connection)
        if trailers:
            yield SendHttp(RequestTrailers(self.attempt_id, trailers), connection)
        yield SendHttp(RequestEndOfMessage(self.attempt_id), connection)

    def _disowned(self) -> Commands:
        yield from self._fail("codexpool: not sent, because its sender has disowned it", UNSENDABLE)

    def _fail(self, reason: str, code: Any) -> Commands:
        yield from self.handle_protocol_error(ResponseProtocolError(self.stream_id, reason, code))

    def _answer_in_place(self, response: http.Response) -> Commands:
        self.flow.response = response
        response.timestamp_start = time.time()
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(True)):
            yield from super().send_response()

    # -- a held response may be the reason for another one

    def send_response(self, already_streamed: bool = False) -> Commands:
        if already_streamed or not self.claimed:
            return cast(Commands, super().send_response(already_streamed))
        return self._send_held_response()

    def _send_held_response(self) -> Commands:
        sending: Commands = super().send_response()
        command = next(sending)
        while True:
            reply = yield command
            if isinstance(command, HttpResponseHook):
                again = self.sender.again(self.flow)
                # The response is whole: what else has come for it is late. (After a 101 there is data to come.)
                self._drop_queued(FROM_SERVER if again else (ResponseProtocolError,))
                if again:
                    sending.close()
                    yield from self._abandon_attempt()
                    if not (yield from self.check_killed(True)):
                        yield from self._send_again()
                    return
            try:
                command = sending.send(reply)
            except StopIteration:
                return

    def _send_again(self) -> Commands:
        self.attempt_id = next(self._attempt_ids)
        http_layer = self.context.layers[self.context.layers.index(self) - 1]
        assert isinstance(http_layer, HttpLayer)
        http_layer.streams[self.attempt_id] = self
        self.handle_event = self._handle_event_of_later_attempt
        self.flow.response = None
        self.flow.error = None
        self.server_state = self.state_wait_for_response_headers
        yield from self.make_server_connection()

    def _abandon_attempt(self) -> Commands:
        if self.flow.server_conn.alpn == b"h2":
            # A refusal may have overtaken the body: without a reset the rest of it would still be uploaded.
            # (Over HTTP/1 the same event would close a connection that the next attempt can use.)
            yield SendHttp(RequestProtocolError(self.attempt_id, "refused early", CANCEL), self.flow.server_conn)
        if self.attempt_id != self.stream_id:
            yield DropStream(self.attempt_id)

    def _drop_queued(self, kinds: tuple[type[events.Event], ...]) -> None:
        self._paused_event_queue = deque(event for event in self._paused_event_queue if not isinstance(event, kinds))

    def _handle_event_of_later_attempt(self, event: events.Event) -> Commands:
        if isinstance(event, FROM_SERVER) and event.stream_id != self.attempt_id:
            return
        for command in HttpStream.handle_event(self, event):
            if isinstance(command, SendHttp):
                to_client = command.connection is self.context.client
                command.event.stream_id = self.stream_id if to_client else self.attempt_id
            elif isinstance(command, DropStream):
                yield DropStream(self.attempt_id)
            yield command


def missing_names() -> list[str]:
    """The names this file needs and the running mitmproxy does not have; empty on every supported version."""
    missing = [
        f"{cls.__name__}.{name}" for cls, names in _TOUCHED.items() for name in names if not hasattr(cls, name)
    ]
    if getattr(layers, "HttpStream", None) is None:
        missing.append("layers.http.HttpStream")
    return missing


def install(sender: Sender) -> None:
    """Have every stream from now on ask ``sender``. Streams that are under way keep the sender they began with.

    mitmproxy's HTTP layer looks its stream class up in its own module whenever it makes a stream, for live
    connections and for client replay alike; putting ours there covers both.
    """
    layers.HttpStream = type("ResendStream", (ResendStream,), {"sender": sender})  # type: ignore[misc, assignment]


def uninstall() -> None:
    """Give mitmproxy its own stream class back."""
    layers.HttpStream = HttpStream  # type: ignore[misc]
