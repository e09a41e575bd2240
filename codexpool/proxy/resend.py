"""A stream that dresses its request at the last moment, and can put it on the wire again.

mitmproxy answers a client exactly once per flow. `ResendStream` leaves that rule alone but moves the moment at
which a *held* (not streamed) response is final: once every addon has seen it in the ``response`` hook, the
sender is asked whether the request goes out again. If so the response is dropped, and the client never learns
of it. The same holds for a connection that is lost before anything was passed on (the ``error`` hook), and for a
stream whose beginning says that it has failed: that is held, in place of being passed on, and becomes a response.

What is held is bounded. An attempt that is answered goes through these states:

- head: nothing has come yet. A head that is to be streamed leads to *beginning* or straight to *streamed*, any other
  to *held*.
- held: the body is read. It ends with the body; or at `MOST_HELD` bytes, after `LONGEST_READ`, or with a lost
  connection, and then the sender says what the head alone amounts to (`Sender.cut`), or that the attempt is lost.
- beginning: the first pieces of a stream are read, for `LONGEST_HOLD` at most; then all is passed on.
- streamed: nothing can be taken back.

A timer belongs to the hold that it was set for. Going over to another attempt ends the hold, and the timer with it:
when it fires all the same it finds another one in its place, or none, and changes nothing.

The two ideas behind it:

- Towards the server every attempt has a stream id of its own. mitmproxy's server-side layers keep their state per
  stream id, so a fresh id is a fresh exchange, on the same connection if that is still good; whatever still
  arrives for an abandoned attempt carries the old id and is dropped here. Towards the client the id never changes.
- ``make_server_connection`` is where mitmproxy is about to send ``flow.request``. A flow that the sender claims
  leaves from there as a dressed copy instead, so what ``flow.request`` shows (in the flow list, in dumps, in HAR
  files) never was on the wire, and a request that nobody dressed cannot leave by mistake.

Only claimed flows pay for this, and only once per request: body chunks and WebSocket messages of a first attempt
take mitmproxy's own path.

This file knows nothing of Codex or of pools. It and `codexpool.proxy.connections`, which it installs, are the only
ones that touch mitmproxy's internals.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from itertools import count
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

from codexpool.proxy import connections

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

LONGEST_HOLD = 2.0
"""Seconds for which the beginning of a stream is held at most, counted from its head."""

LONGEST_READ = 5.0
"""Seconds for which the body of a held answer is waited for, counted from its head."""

MOST_HELD = 1 << 20
"""Bytes of a held answer's body that are read at most, as they come over the wire."""

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
        "passthrough",
        "send_response",
        "start_response_stream",
        "state_consume_response_body",
        "state_done",
        "state_wait_for_response_headers",
    ),
    HttpLayer: ("event_to_child", "make_stream"),
    layer.Layer: ("handle_event",),
    **connections.TOUCHED,
}
"""What is overridden or called here and in `codexpool.proxy.connections`: unchanged since 2020, and still promised to
nobody."""

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

    def head(self, flow: http.HTTPFlow) -> None:
        """Told when all addons have seen the head of a response, before it is held or streamed. Must not raise."""

    def whole(self, flow: http.HTTPFlow) -> None:
        """Told before the ``response`` hook, and so before any addon: a held response is whole. Must not raise."""

    def again(self, flow: http.HTTPFlow) -> bool:
        """Asked about a response, or a lost connection, after all addons have seen it: shall the request go out
        again? For a response that was streamed the answer makes no difference. Must not raise.
        """

    def cut(self, flow: http.HTTPFlow, why: str, is_lost: bool) -> http.Response | None:
        """Asked about a held response whose body does not come to its end: what is it to be taken for?

        None: for a lost connection. ``why`` is the end of a sentence about it; ``is_lost``: its connection was lost,
        and it has not only become too long, or taken too long. Must not raise.
        """

    def lost(self, flow: http.HTTPFlow) -> None:
        """Told before the ``error`` hook: the connection was lost, and nothing was passed on. Must not raise."""

    def holds(self, flow: http.HTTPFlow) -> bool:
        """Asked as a stream begins: is its beginning to be looked at before it is passed on? Must not raise."""

    def begins(self, flow: http.HTTPFlow, piece: bytes) -> http.Response | bool:
        """Given the pieces of such a beginning: True if all is passed on from now, False if more is to come first.

        A response is what the stream is taken for: it has failed, and is dropped. Must not raise.
        """


class _AnyStream(type):
    """Has ``isinstance`` take every stream for one of the class that is installed now.

    mitmproxy tells a stream from a connection by its class as it injects a message, and looks that class up then. A
    WebSocket outlives the class it began with: each reload of this module brings another.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, HttpStream)


class _Timer(commands.RequestWakeup):
    """What ends a hold. mitmproxy gives it back when its time has come, whatever has happened in between."""

    def __init__(self, delay: float, stream: ResendStream) -> None:
        super().__init__(delay)
        self.stream: ResendStream | None = stream


class _Nobody:
    """Takes what comes of a timer whose hold is over."""

    def handle_event(self, event: events.Event) -> Commands:
        yield from ()


_NOBODY = _Nobody()


class ResendStream(HttpStream, metaclass=_AnyStream):  # type: ignore[misc, valid-type]
    """mitmproxy's stream, with a sender between a claimed flow and the wire.

    It keeps the sender that was installed when it began.
    """

    installed: Sender
    """The sender of streams that begin now."""
    _paused_event_queue: deque[events.Event]
    _attempt_ids = count(-1, -1)
    """Stream ids of second and later attempts, below all of mitmproxy's own."""

    def __init__(self, context: Any, stream_id: int) -> None:
        super().__init__(context, stream_id)
        self.sender = self.installed
        self.attempt_id = stream_id
        self.claimed = False
        self._beginning: list[events.Event] = []
        self._is_abandoned = False
        self._timer: _Timer | None = None
        """Of the hold that is under way."""

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
            yield from self._refuse(reason)
        elif isinstance(outbound, http.Response):
            yield from self._answer_in_place(outbound)
        else:
            yield from self._put_on_the_wire(outbound)
        return False  # All there is to send is sent: mitmproxy's own sending must not follow.

    def _put_on_the_wire_anew(self, granted: Any) -> Commands:
        """While the connection was made, the sender has changed its mind. Once only: then it leaves as it is.

        mitmproxy counts the connections it has granted, and reuses none between HTTP/2 and HTTP/1: one that is asked
        for and not used is lost.
        """
        outbound = self.sender.outbound(self.flow)
        if isinstance(outbound, http.Request):
            yield from self._put_on_the_wire(outbound, granted)
        elif outbound is not None:
            yield from self._answer_in_place(outbound)
        else:
            yield from self._disowned()

    def _put_on_the_wire(self, request: http.Request, granted: Any = None) -> Commands:
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
            return  # The client has left, or somebody has killed the flow, while the connection was made.
        if self.sender.outdated(self.flow) and not again:
            yield from self._put_on_the_wire_anew(connection)
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

    def _disowned(self) -> Commands:
        yield from self._refuse("codexpool: not sent, because its sender has disowned it")

    def _refuse(self, reason: str) -> Commands:
        yield from super().handle_protocol_error(ResponseProtocolError(self.stream_id, reason, UNSENDABLE))

    def _answer_in_place(self, response: http.Response) -> Commands:
        self.flow.response = response
        response.timestamp_start = time.time()
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(True)):
            yield from self.send_response()

    # -- a held response may be the reason for another one

    def send_response(self, already_streamed: bool = False) -> Commands:
        if not self.claimed:
            return cast(Commands, super().send_response(already_streamed))
        return self._send_response_or_request(already_streamed)

    def _send_response_or_request(self, already_streamed: bool) -> Commands:
        if not already_streamed:
            self.sender.whole(self.flow)
        sending: Commands = super().send_response(already_streamed)
        command = next(sending)
        while True:
            reply = yield command
            if isinstance(command, HttpResponseHook):
                again = self.sender.again(self.flow) and not already_streamed
                # The response is whole: what else has come for it is late. (After a 101 there is data to come.)
                is_over = again or self._is_abandoned
                self._drop_queued(FROM_SERVER if is_over else (ResponseProtocolError,))
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

    # -- a lost connection may be the reason, too

    def handle_protocol_error(self, event: Any) -> Commands:
        if isinstance(event, ResponseProtocolError) and self._has_passed_on_nothing():
            return self._handle_loss(event)
        return cast(Commands, super().handle_protocol_error(event))

    def _has_passed_on_nothing(self) -> bool:
        return (
            self.claimed
            and self.client_state == self.state_done
            and self.server_state
            in (
                self.state_wait_for_response_headers,
                self.state_consume_response_body,
                self._state_hold_beginning,
            )
        )

    def _handle_loss(self, event: Any, is_lost: bool = True) -> Commands:
        is_cut = self.server_state == self.state_consume_response_body
        response = self.sender.cut(self.flow, event.message, is_lost) if is_cut else None
        if response is None:
            yield from self._lose(event)
        else:
            yield from self._take_for(response)

    def _lose(self, event: Any) -> Commands:
        self.sender.lost(self.flow)
        handling: Commands = super().handle_protocol_error(event)
        for command in handling:
            yield command
            if isinstance(command, HttpErrorHook) and self.sender.again(self.flow):
                handling.close()
                self._drop_queued(FROM_SERVER)
                if self.attempt_id != self.stream_id:
                    yield DropStream(self.attempt_id)
                if not (yield from self.check_killed(True)):
                    yield from self._send_again()
                return

    # -- what is held is held within bounds

    def state_wait_for_response_headers(self, event: Any) -> Commands:
        for command in super().state_wait_for_response_headers(event):
            yield command
            if self.claimed and isinstance(command, HttpResponseHeadersHook):
                self.sender.head(self.flow)
        if self.claimed and not event.end_stream and self.server_state == self.state_consume_response_body:
            yield from self._hold_for(LONGEST_READ)

    def state_consume_response_body(self, event: Any) -> Commands:
        is_data = self.claimed and isinstance(event, ResponseData)
        if is_data and len(self.response_body_buf) + len(event.data) > MOST_HELD:
            yield from self._cut(f"has more than {MOST_HELD >> 10} KiB")
        else:
            yield from super().state_consume_response_body(event)

    def _hold_for(self, seconds: float) -> Commands:
        self._timer = _Timer(seconds, self)
        yield self._timer

    def _handle_event(self, event: Any) -> Commands:
        if isinstance(event, events.Wakeup):
            return self._hold_ends(event.command)
        handling: Commands = super()._handle_event(event)
        return handling if self._timer is None else self._while_it_holds(handling)

    def _while_it_holds(self, handling: Commands) -> Commands:
        yield from handling
        if self.server_state not in (self._state_hold_beginning, self.state_consume_response_body):
            self._forget_timer()

    def _forget_timer(self) -> None:
        """No hold is under way any more. mitmproxy keeps the timer until its time has come, but not the stream: its
        request may be large."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stream = None
            sources = self._http_layer.command_sources
            if timer in sources:
                sources[timer] = cast(layer.Layer, _NOBODY)

    def passthrough(self, event: Any) -> Commands:
        timer = event.command if isinstance(event, events.Wakeup) else None
        if isinstance(timer, _Timer) and timer.stream is self:
            return self._hold_ends(timer)  # All others are for the layers within.
        passing: Commands = super().passthrough(event)
        return passing

    def _hold_ends(self, timer: commands.RequestWakeup) -> Commands:
        if timer is not self._timer or self.client_state == self.state_errored:
            return  # It was set for an attempt that was abandoned, or the client has left.
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
        # The rest is of no interest: over HTTP/1 this closes the connection.
        yield SendHttp(RequestProtocolError(self.attempt_id, "given up", CANCEL), self.flow.server_conn)

    def _take_for(self, response: http.Response) -> Commands:
        """Go on as if the attempt, which is over, had been answered with this."""
        self._beginning = []
        self.response_body_buf = ReceiveBuffer()
        if self.attempt_id != self.stream_id:
            yield DropStream(self.attempt_id)
        self._begin_attempt()  # What still comes for the old one is ignored.
        self._is_abandoned = True
        self.flow.response = response
        response.timestamp_start = time.time()
        yield from self.send_response()

    # -- and so may the beginning of a stream

    def start_response_stream(self) -> Commands:
        if self.claimed and self.sender.holds(self.flow):
            self._beginning = []
            self.server_state = self._state_hold_beginning
            yield from self._hold_for(LONGEST_HOLD)
        else:
            yield from super().start_response_stream()

    def _state_hold_beginning(self, event: Any) -> Commands:
        self._beginning.append(event)
        taken_for = self.sender.begins(self.flow, event.data) if isinstance(event, ResponseData) else True
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
        http_layer = self.context.layers[self.context.layers.index(self) - 1]
        assert isinstance(http_layer, HttpLayer)
        return http_layer

    def _begin_attempt(self) -> None:
        self.attempt_id = next(self._attempt_ids)
        self._http_layer.streams[self.attempt_id] = self
        self._forget_timer()
        self.handle_event = self._handle_event_of_later_attempt

    def _send_again(self) -> Commands:
        self._begin_attempt()
        self.flow.response = None
        self.flow.error = None
        self.response_body_buf = ReceiveBuffer()  # Half a refusal may be in it.
        self.server_state = self.state_wait_for_response_headers
        yield from self.make_server_connection()

    def _abandon_attempt(self) -> Commands:
        if self.flow.server_conn.alpn == b"h2" and not self._is_abandoned:
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


def hang_up(proxyserver: Any, flow: http.HTTPFlow) -> None:
    """End the server's side of a WebSocket. mitmproxy then says good-bye to the client with a close frame.

    ``proxyserver`` is mitmproxy's addon of that name. A connection with an open WebSocket has no other streams.
    """
    handler = proxyserver.connections.get(flow.client_conn.id)
    for connection, transport in list(handler.transports.items()) if handler is not None else ():
        if isinstance(connection, Server) and transport.handler is not None:
            transport.handler.cancel("codexpool: hung up")


def missing_names() -> list[str]:
    """The names this file needs and the running mitmproxy does not have; empty on every supported version."""
    missing = [
        f"{cls.__name__}.{name}" for cls, names in _TOUCHED.items() for name in names if not hasattr(cls, name)
    ]
    looked_up = ("HttpStream", "Http1Client", "Http1Server")
    return missing + [f"layers.http.{name}" for name in looked_up if not hasattr(layers, name)]


def install(sender: Sender) -> None:
    """Have every stream from now on ask ``sender``. Streams that are under way keep the sender they began with.

    mitmproxy's HTTP layer looks its classes up in its own module whenever it makes one, for live connections and for
    client replay alike; putting ours there covers both.
    """
    ResendStream.installed = sender
    layers.HttpStream = ResendStream  # type: ignore[misc]
    connections.install()


def uninstall() -> None:
    """Give mitmproxy its own classes back."""
    layers.HttpStream = HttpStream  # type: ignore[misc]
    connections.uninstall()
