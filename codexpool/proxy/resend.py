"""A mitmproxy stream that dresses its request at the last moment, and can send it again.

mitmproxy answers a client once per flow. `ResendStream` keeps that rule, but when every addon has seen a *held* (not
streamed) response, or an error before anything was passed on, it asks the sender whether to send the request again.
If so, the client never learns of that answer. The same goes for a stream whose beginning reports a failure.

How much is held is bounded. The answer to an attempt has these states:

- head: nothing has arrived. A head to be streamed leads to *beginning* or *streamed*, any other to *held*.
- held: the body is read, until its end, `MOST_HELD` bytes, `LONGEST_READ` or a lost connection. Unless it is
  complete, the sender decides what the head alone means (`Sender.judge_incomplete`), or that the attempt is lost.
- beginning: the first pieces of a stream are read, for at most `LONGEST_HOLD`; then all is passed on.
- streamed: nothing can be taken back.

Towards the server, each attempt has a stream id of its own, because mitmproxy's server-side layers keep their state
per stream id. What still arrives for an abandoned attempt has the old id and is dropped. Towards the client the id
never changes. A claimed flow leaves as a dressed copy from ``make_server_connection``, where mitmproxy would send
``flow.request``. So ``flow.request``, which dumps show, never has a pool's token, and a request that was not dressed
cannot leave by mistake. Body chunks and WebSocket messages of a first attempt take mitmproxy's own path.

This file and `codexpool.proxy.connections` know nothing of Codex.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from inspect import isroutine
from itertools import count
from types import SimpleNamespace
from typing import Any, Protocol, cast

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.proxy import commands, events, layer
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
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpResponseHeadersHook, HttpResponseHook
from mitmproxy.proxy.utils import ReceiveBuffer

from codexpool.proxy import connections, quicker, relay, shortcut, tls_sessions

# mitmproxy 11.0 has plain status codes in place of its error codes.
_codes: Any = getattr(layers, "ErrorCode", None)
CANCEL: Any = _codes.CANCEL if _codes else 499
CONNECT_FAILED: Any = _codes.CONNECT_FAILED if _codes else 502
UNSENDABLE: Any = _codes.GENERIC_SERVER_ERROR if _codes else 502

LONGEST_HOLD = 2.0  # seconds from its head for which the beginning of a stream is held
LONGEST_READ = 5.0  # seconds from its head in which the body of a held answer must be complete
MOST_HELD = 1 << 20  # bytes of the body of a held answer, as received

FROM_SERVER = (ResponseHeaders, ResponseData, ResponseTrailers, ResponseEndOfMessage, ResponseProtocolError)

# After a reload of this module mitmproxy's name still refers to the stream class installed before.
HttpStream: type[layers.HttpStream] = next(
    cls for cls in layers.HttpStream.__mro__ if cls.__module__ == layers.__name__
)

# What this file and the modules named below use, besides the methods that `ResendStream` overrides.
_USED = {
    HttpStream: ("_handle_event", "check_killed", "state_done"),
    HttpLayer: ("event_to_child", "make_stream"),
    layer.Layer: ("handle_event",),
    **connections.TOUCHED,
    **tls_sessions.TOUCHED,
    **relay.TOUCHED,
}

Commands = Generator[Any, Any, None]


class Sender(relay.Readers, Protocol):
    """Decides what a flow looks like on the wire, and whether it is sent again. No method may raise.

    By default nothing is dressed, held or sent again.
    """

    def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
        """Return the dressed copy to send now, an answer instead, or None to send a flow of others as it is."""

    def is_outdated(self, flow: http.HTTPFlow) -> bool:
        """Return whether `outbound` has to be asked again, now that the connection is made. Must be cheap."""
        return False

    def head_seen(self, flow: http.HTTPFlow) -> None:
        """Note that all addons have seen the head of a response, which is held or streamed next."""

    def response_complete(self, flow: http.HTTPFlow) -> None:
        """Note that a held response is complete, before any addon sees it in the ``response`` hook."""
        return

    def should_resend(self, flow: http.HTTPFlow) -> bool:
        """Return whether to send a request again, after all addons have seen its held response or its error."""
        return False

    def judge_incomplete(self, flow: http.HTTPFlow, why: str, is_lost: bool) -> http.Response | None:
        """Return what an incomplete held response counts as; None: as a lost connection.

        ``why`` completes "the answer …". ``is_lost``: the connection was lost, and not only too long or too slow.
        """
        return None

    def connection_lost(self, flow: http.HTTPFlow) -> None:
        """Note that the connection was lost before anything was passed on, before the ``error`` hook."""

    def should_hold(self, flow: http.HTTPFlow) -> bool:
        """Return whether to hold the beginning of a stream."""
        return False

    def judge_beginning(self, flow: http.HTTPFlow, piece: bytes) -> http.Response | bool:
        """Take the next piece of a beginning. Return True to pass all on, or a response to replace the stream."""
        return True


class _AnyStream(type):
    """Makes ``isinstance`` accept streams of the class before a reload.

    mitmproxy looks the class up when it injects a message, and a WebSocket may be older than that class.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, HttpStream)


class _Timer(commands.RequestWakeup):
    """Ends one hold. mitmproxy fires it in any case; once the hold is over, it is no longer the stream's timer."""

    def __init__(self, delay: float, stream: ResendStream) -> None:
        super().__init__(delay)
        self.stream: ResendStream | None = stream


# Receives the timers of holds that are over.
_NOWHERE = cast(layer.Layer, SimpleNamespace(handle_event=lambda _: iter(())))


class ResendStream(HttpStream, metaclass=_AnyStream):  # type: ignore[misc, valid-type]
    """mitmproxy's stream, with a sender between a claimed flow and the wire.

    It keeps the sender that was installed when it began.
    """

    installed: Sender
    child_layer: layer.Layer | None
    _paused_event_queue: deque[events.Event]
    _attempt_ids = count(-1, -1)  # stream ids of second and later attempts, below all of mitmproxy's own

    def __init__(self, context: Any, stream_id: int) -> None:
        super().__init__(context, stream_id)
        self.sender = self.installed
        self.attempt_id = stream_id
        self.claimed = False
        self._beginning: list[events.Event] = []
        self._is_abandoned = False
        self._timer: _Timer | None = None
        self._hold: float | None = None  # seconds of a hold that begins with this event

    # -- an attempt goes out

    def make_server_connection(self) -> Generator[Any, Any, bool]:
        outbound = self.sender.outbound(self.flow)
        if outbound is None and not self.claimed:
            connected: bool = yield from super().make_server_connection()
            return connected
        self.claimed = True
        shortcut.take(self)
        if outbound is not None and self.client_state != self.state_done:
            # Another addon has set `flow.request.stream`: the body is passing by and could not be sent twice.
            reason = "codexpool: not sent, because something streams the request body (flow.request.stream is set)"
            yield from self._refuse(reason)
        else:
            yield from self._send(outbound)
        return False  # All there is to send is sent: mitmproxy's own sending must not follow.

    def _send(self, outbound: http.Request | http.Response | None, granted: Any = None) -> Commands:
        if isinstance(outbound, http.Request):
            yield from self._put_on_the_wire(outbound, granted)
        elif outbound is not None:
            yield from self._answer_in_place(outbound)
        else:
            yield from self._refuse(
                "codexpool: not sent, because the addon no longer handles this request; try again"
            )

    def _put_on_the_wire(self, request: http.Request, granted: Any = None) -> Commands:
        """Send a request. ``granted`` was made for it before it was outdated; mitmproxy would never reuse it."""
        again = granted is not None
        if again and granted.connected and granted.address == (request.host, request.port):
            connection, err = granted, None
        else:
            connection, err = yield GetHttpConnection(
                (request.host, request.port),
                request.scheme == "https",
                self.flow.server_conn.via,
                self.flow.server_conn.transport_protocol,
            )
        if err:
            yield from self.handle_protocol_error(ResponseProtocolError(self.stream_id, err, CONNECT_FAILED))
            return
        if (yield from self.check_killed(True)):
            return  # While the connection was made, the client has left or an addon has killed the flow.
        if self.sender.is_outdated(self.flow) and not again:  # Once only: then it leaves as it is.
            yield from self._send(self.sender.outbound(self.flow), connection)
            return
        self.context.server = self.flow.server_conn = connection
        self._is_abandoned = False
        content, trailers = request.raw_content, request.trailers
        yield SendHttp(RequestHeaders(self.attempt_id, request, not (content or trailers)), connection)
        if content:
            yield SendHttp(RequestData(self.attempt_id, content), connection)
        if trailers:
            yield SendHttp(RequestTrailers(self.attempt_id, trailers), connection)
        yield SendHttp(RequestEndOfMessage(self.attempt_id), connection)

    def _refuse(self, reason: str) -> Commands:
        yield from super().handle_protocol_error(ResponseProtocolError(self.stream_id, reason, UNSENDABLE))

    def _answer_in_place(self, response: http.Response) -> Commands:
        self.flow.response = response
        response.timestamp_start = time.time()
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(True)):
            yield from self.send_response()

    # -- after a held response

    def send_response(self, already_streamed: bool = False) -> Commands:
        if not self.claimed:
            yield from super().send_response(already_streamed)
            return
        self._hold = None
        if not already_streamed:
            self.sender.response_complete(self.flow)
        sending: Commands = super().send_response(already_streamed)
        command = next(sending)
        while True:
            reply = yield command
            if isinstance(command, HttpResponseHook):
                again = self.sender.should_resend(self.flow) and not already_streamed
                # The response is complete: whatever else is queued for it is late. (After a 101, data follows.)
                is_over = again or self._is_abandoned
                self._drop_queued(FROM_SERVER if is_over else (ResponseProtocolError,))
                if again:
                    sending.close()
                    yield from self._stop_upload()
                    if not (yield from self.check_killed(True)):
                        yield from self._send_again()
                    return
            try:
                command = sending.send(reply)
            except StopIteration:
                return

    # -- after a lost connection

    def handle_protocol_error(self, event: Any) -> Commands:
        if isinstance(event, ResponseProtocolError) and self._has_passed_on_nothing():
            yield from self._handle_loss(event)
        else:
            yield from super().handle_protocol_error(event)

    def _has_passed_on_nothing(self) -> bool:
        early = (self.state_wait_for_response_headers, self.state_consume_response_body, self._state_hold_beginning)
        return self.claimed and self.client_state == self.state_done and self.server_state in early

    def _handle_loss(self, event: Any, is_lost: bool = True) -> Commands:
        is_cut = self.server_state == self.state_consume_response_body
        response = self.sender.judge_incomplete(self.flow, event.message, is_lost) if is_cut else None
        if response is not None:
            yield from self._take_for(response)
            return
        self.sender.connection_lost(self.flow)
        handling: Commands = super().handle_protocol_error(event)
        for command in handling:
            yield command
            if isinstance(command, HttpErrorHook) and self.sender.should_resend(self.flow):
                handling.close()
                self._drop_queued(FROM_SERVER)
                if not (yield from self.check_killed(True)):
                    yield from self._send_again()
                return

    # -- the bounds of a held response

    def state_wait_for_response_headers(self, event: Any) -> Commands:
        for command in super().state_wait_for_response_headers(event):
            yield command
            if self.claimed and isinstance(command, HttpResponseHeadersHook):
                self.sender.head_seen(self.flow)
        if self.claimed and not event.end_stream and self.server_state == self.state_consume_response_body:
            self._hold = LONGEST_READ

    def state_consume_response_body(self, event: Any) -> Commands:
        is_data = self.claimed and isinstance(event, ResponseData)
        if is_data and len(self.response_body_buf) + len(event.data) > MOST_HELD:
            yield from self._cut(f"has more than {MOST_HELD >> 10} KiB")
        else:
            yield from super().state_consume_response_body(event)

    def handle_event(self, event: Any) -> Commands:
        handling: Commands = super().handle_event(event)
        return self._then_hold(handling) if self.claimed else handling

    def _then_hold(self, handling: Commands) -> Commands:
        """Start a timer at the end of the event: most holds are over by then, and each timer is a task."""
        yield from handling
        seconds, self._hold = self._hold, None
        if seconds is not None and self._is_holding:
            self._timer = _Timer(seconds, self)
            yield self._timer

    @property
    def _is_holding(self) -> bool:
        return self.server_state in (self._state_hold_beginning, self.state_consume_response_body)

    def _handle_event(self, event: Any) -> Commands:
        if isinstance(event, events.Wakeup):
            return self._hold_ends(event.command)
        handling: Commands = super()._handle_event(event)
        return handling if self._timer is None else self._while_it_holds(handling)

    def _while_it_holds(self, handling: Commands) -> Commands:
        yield from handling
        if not self._is_holding:
            self._forget_timer()

    def _forget_timer(self) -> None:
        """End the hold. mitmproxy keeps the timer until it fires, but must not keep the stream and its request."""
        timer, self._timer, self._hold = self._timer, None, None
        if timer is not None:
            timer.stream = None
            sources = self._http_layer.command_sources
            if timer in sources:
                sources[timer] = _NOWHERE

    def passthrough(self, event: Any) -> Commands:
        timer = event.command if isinstance(event, events.Wakeup) else None
        if isinstance(timer, _Timer) and timer.stream is self:
            return self._hold_ends(timer)  # All others belong to inner layers.
        passing: Commands = super().passthrough(event)
        return passing

    def _hold_ends(self, timer: commands.RequestWakeup) -> Commands:
        if timer is not self._timer or self.client_state == self.state_errored:
            return  # Its attempt was abandoned, or the client has left.
        self._timer = None
        if self.server_state == self._state_hold_beginning:
            yield from self._pass_on_beginning()
        elif self.server_state == self.state_consume_response_body:
            yield from self._cut(f"was not whole after {LONGEST_READ:.0f} s")

    def _cut(self, why: str) -> Commands:
        yield from self._cancel_attempt()
        given_up = ResponseProtocolError(self.stream_id, f"the answer {why}", UNSENDABLE)
        yield from self._handle_loss(given_up, is_lost=False)

    def _cancel_attempt(self) -> Commands:
        # Over HTTP/1 this closes the connection.
        yield SendHttp(RequestProtocolError(self.attempt_id, "given up", CANCEL), self.flow.server_conn)

    def _take_for(self, response: http.Response) -> Commands:
        """Go on as if the attempt had been answered with ``response``."""
        self._beginning = []
        self.response_body_buf = ReceiveBuffer()
        yield from self._begin_attempt()  # What still arrives for the old one is ignored.
        self._is_abandoned = True
        self.flow.response = response
        response.timestamp_start = time.time()
        yield from self.send_response()

    # -- the beginning of a stream

    def start_response_stream(self) -> Commands:
        if self.claimed and self.sender.should_hold(self.flow):
            self._beginning = []
            self.server_state = self._state_hold_beginning
            self._hold = LONGEST_HOLD
        else:
            yield from super().start_response_stream()

    def _state_hold_beginning(self, event: Any) -> Commands:
        self._beginning.append(event)
        taken_for = self.sender.judge_beginning(self.flow, event.data) if isinstance(event, ResponseData) else True
        if isinstance(taken_for, http.Response):
            yield from self._cancel_attempt()
            yield from self._take_for(taken_for)
        elif taken_for:
            yield from self._pass_on_beginning()

    def _pass_on_beginning(self) -> Commands:
        beginning, self._beginning = self._beginning, []
        yield from super().start_response_stream()
        for held in beginning:
            yield from self.server_state(held)

    @property
    def _http_layer(self) -> HttpLayer:
        return cast(HttpLayer, self.context.layers[self.context.layers.index(self) - 1])

    def passes_on(self, attempt_id: int) -> bool:
        """Return whether data of an attempt go to the client at once (see `codexpool.proxy.shortcut`)."""
        is_its = self.claimed and self.attempt_id == attempt_id and not (self._paused or self._timer)
        return is_its and self.server_state == self.state_stream_response_body

    def look_at(self, piece: bytes) -> Iterable[bytes]:
        """Return what to send for a piece of a streamed answer, as ``state_stream_response_body`` does."""
        stream = self.flow.response.stream
        chunks = stream(piece) if callable(stream) else piece
        if isinstance(chunks, bytes):
            chunks = (chunks,)
        if not getattr(self.context.options, "store_streamed_bodies", False):  # an option since mitmproxy 12
            return chunks
        stored = list(chunks)
        for chunk in stored:
            self.response_body_buf += chunk
        return stored

    def socket(self, attempt_id: int) -> shortcut.Door | None:
        """Return the layer of the WebSocket that an attempt has opened (see `codexpool.proxy.shortcut`)."""
        if self._handle_event != self.passthrough or self.attempt_id != attempt_id or self._paused:
            return None
        found: Any = self.child_layer
        if isinstance(found, relay.WebsocketLayer):
            self.child_layer = found = cast(Any, shortcut.Door(found))
        return found if isinstance(found, shortcut.Door) else None

    # -- the next attempt

    def _begin_attempt(self) -> Commands:
        if self.attempt_id != self.stream_id:
            yield DropStream(self.attempt_id)
        self.attempt_id = next(self._attempt_ids)
        self._http_layer.streams[self.attempt_id] = self
        self._forget_timer()
        self.handle_event = self._handle_event_of_later_attempt  # type: ignore[method-assign]

    def _send_again(self) -> Commands:
        yield from self._begin_attempt()
        self.flow.response = None
        self.flow.error = None
        self.response_body_buf = ReceiveBuffer()  # Part of a refusal may be in it.
        self.server_state = self.state_wait_for_response_headers
        yield from self.make_server_connection()

    def _stop_upload(self) -> Commands:
        if self.flow.server_conn.alpn == b"h2" and not self._is_abandoned:
            # The refusal may have arrived before the body was sent: without a reset the rest would still be uploaded.
            # (Over HTTP/1 the same event would close a connection that the next attempt can use.)
            yield SendHttp(RequestProtocolError(self.attempt_id, "refused early", CANCEL), self.flow.server_conn)

    def _drop_queued(self, kinds: tuple[type[events.Event], ...]) -> None:
        self._paused_event_queue = deque(event for event in self._paused_event_queue if not isinstance(event, kinds))

    def _handle_event_of_later_attempt(self, event: events.Event) -> Commands:
        """Handle an event as mitmproxy does, under the attempt's own stream id towards the server.

        If the client disconnects, mitmproxy cancels the request; dropping the stream then drops the attempt's, too.
        """
        if isinstance(event, FROM_SERVER) and event.stream_id != self.attempt_id:
            return
        for command in ResendStream.handle_event(self, event):
            if isinstance(command, SendHttp):
                to_client = command.connection is self.context.client
                command.event.stream_id = self.stream_id if to_client else self.attempt_id
            elif isinstance(command, DropStream):
                yield DropStream(self.attempt_id)
            yield command


def hang_up(proxyserver: Any, flow: http.HTTPFlow) -> None:
    """Close the server's side of a WebSocket. mitmproxy then closes the client's side with a close frame.

    ``proxyserver`` is mitmproxy's addon of that name. A connection with an open WebSocket has no other streams.
    """
    handler = proxyserver.connections.get(flow.client_conn.id)
    for connection, transport in list(handler.transports.items()) if handler is not None else ():
        if isinstance(connection, Server) and transport.handler is not None:
            transport.handler.cancel("codexpool: hung up")


def missing_names() -> list[str]:
    """Return the names this file needs and the running mitmproxy lacks; empty on every supported version."""
    own = vars(shortcut.Stream)
    named = [name for name, value in vars(ResendStream).items() if name[0] != "_" and isroutine(value)]
    overridden = [name for name in named if name not in own]
    needed = [*_USED.items(), *shortcut.TOUCHED.items(), (HttpStream, overridden)]
    missing = [f"{cls.__name__}.{name}" for cls, names in needed for name in names if not hasattr(cls, name)]
    looked_up = ("HttpStream", "Http1Client", "Http1Server")
    missing += [f"layers.http.{name}" for name in looked_up if not hasattr(layers, name)]
    return missing + connections.missing_names() + relay.missing_names()


def install(sender: Sender, is_heard: Callable[[], bool] = lambda: True) -> None:
    """Make every new stream ask ``sender``. Streams under way keep the sender they began with.

    ``is_heard`` tells whether other addons have hooks for WebSocket messages.

    mitmproxy's HTTP layer looks its classes up in its own module, for live connections and for client replay.
    """
    ResendStream.installed = sender
    layers.HttpStream = ResendStream  # type: ignore[misc]
    connections.install()
    quicker.install()
    relay.install(sender, is_heard)
