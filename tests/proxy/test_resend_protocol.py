"""What `codexpool.proxy.resend` promises, as protocol: no network, every order of events at will."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import h2.errors
import pytest
from mitmproxy import connection, http
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from wsproto.connection import Connection as WebSocket
from wsproto.connection import ConnectionType
from wsproto.events import TextMessage

from codexpool.proxy import resend
from tests.proxy.playbook import (
    FAILED,
    HOST,
    Got,
    H1Client,
    H1Upstream,
    H2Upstream,
    Protocol,
    Proxy,
    ScriptedSender,
    Seen,
    Streaming,
    uninstall,
)

PAIRS: list[tuple[Protocol, Protocol]] = [("h1", "h1"), ("h1", "h2"), ("h2", "h1"), ("h2", "h2")]
each_pair = pytest.mark.parametrize(("client", "upstream"), PAIRS)
each_framed_pair = pytest.mark.parametrize(("client", "upstream"), [pair for pair in PAIRS if pair != ("h2", "h1")])
"""From HTTP/2 to HTTP/1 mitmproxy uses each connection once, and does not frame bodies of unknown length."""
each_client = pytest.mark.parametrize("client", ["h1", "h2"])
each_upstream = pytest.mark.parametrize("upstream", ["h1", "h2"])

ONE_EXCHANGE = ["requestheaders", "request", "responseheaders", "response"]


@pytest.fixture
def sender() -> Iterator[ScriptedSender]:
    sender = ScriptedSender()
    resend.install(sender)
    yield sender
    uninstall()


def refuse(seen: Seen) -> None:
    seen.upstream.answer(seen, 401, b"refused %d" % seen.attempt)


def serve(seen: Seen, body: bytes = b"served") -> None:
    seen.upstream.answer(seen, 200, body)


def to_another_host(request: http.Request, number: int) -> http.Request:
    if number > 1:
        request.host = f"upstream-{number}.test"
    return request


def nothing_is_left(proxy: Proxy) -> None:
    assert proxy.layer.streams == {}
    assert not [command for command in proxy.layer.command_sources if command.blocking]


def taken_back(seen: Seen) -> bool:
    """The proxy has ended the request towards the server: a cancelled stream or a closed connection."""
    if isinstance(seen.upstream, H2Upstream):
        return seen.reset == h2.errors.ErrorCodes.CANCEL
    return seen.upstream.conn.state is connection.ConnectionState.CLOSED


# -- flows that are none of the sender's


@each_pair
def test_unclaimed_flow_is_byte_for_byte_what_mitmproxy_does(client: Protocol, upstream: Protocol) -> None:
    def exchange() -> tuple[bytes, bytes, list[str], list[str]]:
        proxy = Proxy(client=client, upstream=upstream)
        for body in (b"", b"question"):
            proxy.client.ask("/unclaimed", body, [("x-own", "1")])
            proxy.requests[-1].upstream.answer(proxy.requests[-1], 401, b"no", [("x-theirs", "2")])
            got = proxy.client.ask("/unclaimed", body)
            proxy.requests[-1].upstream.answer(proxy.requests[-1], 200, b"yes")
            assert got.body == b"yes"
        sent = b"|".join(bytes(peer.wire) for peer in proxy.upstreams)
        return sent, bytes(proxy.client.wire), proxy.hooks, proxy.logs

    by_mitmproxy = exchange()
    resend.install(ScriptedSender())
    try:
        assert exchange() == by_mitmproxy
    finally:
        uninstall()


@each_framed_pair
def test_unclaimed_request_body_may_be_streamed_by_another_addon(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream, addon=StreamsRequests())
    got = proxy.client.ask("/unclaimed", b"begin", end=False)
    (seen,) = proxy.requests
    assert not seen.complete
    proxy.client.ask_more(got, b" end")
    serve(seen)
    assert seen.body == b"begin end"
    assert got.body == b"served"
    nothing_is_left(proxy)


class StreamsRequests(Streaming):
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        flow.request.stream = True


# -- one attempt


@each_pair
def test_good_first_answer_streams_from_its_first_byte(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    (seen,) = proxy.requests
    assert (seen.attempt, seen.body, seen.complete) == (1, b"question", True)

    seen.upstream.answer(seen, 200, b"event one ", end=False)
    assert (got.status, got.body, got.complete) == (200, b"event one ", False)
    seen.upstream.answer_more(seen, b"event two")
    assert (got.body, got.complete) == (b"event one event two", True)
    assert proxy.hooks == ONE_EXCHANGE
    nothing_is_left(proxy)


@each_pair
def test_the_flow_never_shows_what_is_on_the_wire(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    proxy.client.ask("/claimed", b"question", [("authorization", "Bearer at-test-client")])
    refuse(proxy.requests[0])
    assert [seen.headers["authorization"] for seen in proxy.requests] == ["Bearer at-test-1", "Bearer at-test-2"]
    assert proxy.flows[0].request.headers["authorization"] == "Bearer at-test-client"


@each_pair
def test_a_response_of_the_sender_answers_and_nothing_leaves(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.dress = lambda request, number: http.Response.make(503, b"nobody")
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    assert (got.status, got.body, got.complete) == (503, b"nobody", True)
    assert proxy.opened == []
    assert proxy.hooks == ONE_EXCHANGE
    nothing_is_left(proxy)


@each_pair
def test_a_response_of_the_sender_can_follow_a_refusal(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.dress = lambda request, number: request if number == 1 else http.Response.make(503, b"nobody else")
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert (got.status, got.body, got.complete) == (503, b"nobody else", True)
    assert len(proxy.requests) == 1
    nothing_is_left(proxy)


@each_client
@pytest.mark.parametrize("end", [True, False], ids=["known length", "chunked"])
def test_a_streamed_body_is_refused_before_anything_leaves(
    client: Protocol, end: bool, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, addon=StreamsRequests())
    got = proxy.client.ask("/claimed", b"question", end=end)
    if not end and client == "h2":
        proxy.client.ask_more(got, b" and more")
    assert got.status == 502
    assert got.over
    assert b"flow.request.stream" in got.body
    assert proxy.opened == []
    assert proxy.hooks == ["requestheaders", "error"]
    nothing_is_left(proxy)


# -- more than one attempt


@each_pair
def test_client_sees_only_the_answer_to_the_second_attempt(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    proxy.requests[0].upstream.answer(proxy.requests[0], 401, b"refused", [("x-refusal", "1")])
    assert not got.headers
    first, second = proxy.requests
    assert [first.attempt, second.attempt] == [1, 2]

    second.upstream.answer(second, 200, b"event one ", end=False)
    assert (got.status, got.body, got.complete) == (200, b"event one ", False)
    assert "x-refusal" not in got.headers
    second.upstream.answer_more(second, b"event two")
    assert (got.body, got.complete) == (b"event one event two", True)
    nothing_is_left(proxy)


@each_pair
def test_response_hooks_fire_once_per_attempt(client: Protocol, upstream: Protocol, sender: ScriptedSender) -> None:
    """Request hooks fire once."""
    proxy = Proxy(client=client, upstream=upstream)
    proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    serve(proxy.requests[1])
    assert proxy.hooks == [*ONE_EXCHANGE, "responseheaders", "response"]
    assert proxy.flows[0].response is not None
    assert proxy.flows[0].response.status_code == 200
    assert not proxy.flows[0].live


@each_pair
def test_a_flow_has_no_answer_during_its_second_attempt(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert proxy.flows[0].response is None
    proxy.requests[1].upstream.close()
    assert proxy.flows[0].response is None, "an addon that logs the error must not find the refusal with it"
    assert proxy.flows[0].error is not None


@each_pair
@pytest.mark.parametrize("size", [0, 1, 1 << 20, 30 << 20], ids=["0", "1B", "1MiB", "30MiB"])
def test_every_attempt_carries_the_whole_body(
    client: Protocol, upstream: Protocol, size: int, sender: ScriptedSender
) -> None:
    body = (b"0123456789abcdefghijklm" * (size // 23 + 1))[:size]
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", body)
    refuse(proxy.requests[0])
    first, second = proxy.requests
    assert first.body == second.body == body
    assert first.complete
    assert second.complete
    serve(second)
    assert got.body == b"served"


def test_every_attempt_carries_the_trailers(sender: ScriptedSender) -> None:
    proxy = Proxy(client="h2", upstream="h2")
    got = proxy.client.ask("/claimed", b"question", end=False)
    proxy.client.ask_more(got, b"!", [("x-checksum", "42")])
    refuse(proxy.requests[0])
    for seen in proxy.requests:
        assert (seen.body, seen.trailers, seen.complete) == (b"question!", {"x-checksum": "42"}, True)
    serve(proxy.requests[1])
    assert got.complete
    nothing_is_left(proxy)


def test_trailers_without_a_body_are_carried_too(sender: ScriptedSender) -> None:
    proxy = Proxy(client="h2", upstream="h2")
    got = proxy.client.ask("/claimed", end=False)
    proxy.client.ask_more(got, b"", [("x-checksum", "0")])
    refuse(proxy.requests[0])
    assert [(seen.body, seen.trailers) for seen in proxy.requests] == [(b"", {"x-checksum": "0"})] * 2


@each_framed_pair
def test_second_attempt_uses_the_connection_of_the_first(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    first, second = proxy.requests
    assert first.upstream is second.upstream


@each_client
def test_a_second_attempt_connects_again_if_necessary(client: Protocol, sender: ScriptedSender) -> None:
    proxy = Proxy(client=client)
    got = proxy.client.ask("/claimed", b"question")
    (first,) = proxy.requests
    first.upstream.answer(first, 401, b"refused", [("connection", "close")])
    _, second = proxy.requests
    assert second.upstream is not first.upstream
    assert second.body == b"question"
    serve(second)
    assert got.body == b"served"
    nothing_is_left(proxy)


@each_pair
def test_second_attempt_can_go_to_another_host(client: Protocol, upstream: Protocol, sender: ScriptedSender) -> None:
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert proxy.opened == [("upstream.test", 80), ("upstream-2.test", 80)]
    serve(proxy.requests[1])
    assert got.body == b"served"
    assert proxy.flows[0].request.host == "upstream.test"
    nothing_is_left(proxy)


@each_pair
def test_a_fifth_attempt_can_succeed(client: Protocol, upstream: Protocol, sender: ScriptedSender) -> None:
    sender.attempts = 5
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    for number in range(4):
        refuse(proxy.requests[number])
    serve(proxy.requests[4])
    assert [seen.attempt for seen in proxy.requests] == [1, 2, 3, 4, 5]
    assert (got.status, got.body, got.complete) == (200, b"served", True)
    nothing_is_left(proxy)


@each_pair
def test_the_last_refusal_is_relayed_whole(client: Protocol, upstream: Protocol, sender: ScriptedSender) -> None:
    sender.attempts = 3
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    for number in range(3):
        refuse(proxy.requests[number])
    assert len(proxy.requests) == 3
    assert (got.status, got.body, got.complete) == (401, b"refused 3", True)
    nothing_is_left(proxy)


@each_pair
def test_client_connection_serves_on_after_a_resend(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    for turn in range(3):
        got = proxy.client.ask("/claimed", b"question %d" % turn)
        refuse(proxy.requests[-1])
        assert proxy.requests[-1].body == b"question %d" % turn
        serve(proxy.requests[-1], b"answer %d" % turn)
        assert (got.body, got.complete) == (b"answer %d" % turn, True)
    assert len(proxy.requests) == 6
    nothing_is_left(proxy)


def test_response_trailers_of_a_later_attempt_reach_the_client(sender: ScriptedSender) -> None:
    proxy = Proxy(client="h2", upstream="h2")
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    second = proxy.requests[1]
    assert isinstance(second.upstream, H2Upstream)
    second.upstream.answer(second, 200, b"served", end=False)
    second.upstream.http.send_headers(second.stream, [("x-sum", "1")], end_stream=True)
    second.upstream.send(second.upstream.http.data_to_send())
    assert (got.body, got.complete) == (b"served", True)
    nothing_is_left(proxy)


def test_streams_of_one_client_connection_do_not_mix(sender: ScriptedSender) -> None:
    proxy = Proxy(client="h2", upstream="h2")
    got = [proxy.client.ask(f"/claimed/{number}", b"question %d" % number) for number in range(5)]
    for seen in reversed(proxy.requests[:]):
        refuse(seen)
    again = proxy.requests[5:]
    assert len(again) == 5
    for seen in again:
        seen.upstream.answer(seen, 200, seen.path.encode(), end=False)
    for seen in reversed(again):
        seen.upstream.answer_more(seen, b" " + seen.body)
    assert [each.body for each in got] == [b"/claimed/%d question %d" % (n, n) for n in range(5)]
    nothing_is_left(proxy)


def test_upstream_mode_sends_every_attempt_to_the_parent_proxy(sender: ScriptedSender) -> None:
    proxy = Proxy(mode=HTTPMode.upstream)
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert proxy.opened == [("parent.test", 3128)]
    assert [seen.path for seen in proxy.requests] == ["http://upstream.test/claimed"] * 2
    serve(proxy.requests[1])
    assert got.body == b"served"


def test_transparent_mode_sends_again_too(sender: ScriptedSender) -> None:
    proxy = Proxy(mode=HTTPMode.transparent)
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    serve(proxy.requests[1])
    assert proxy.opened == [("upstream.test", 80)]
    assert got.body == b"served"


def test_a_disowned_flow_is_answered_with_an_error(sender: ScriptedSender) -> None:
    class Disowning(ScriptedSender):
        def outbound(self, flow: http.HTTPFlow) -> http.Request | http.Response | None:
            return None if self.tries else super().outbound(flow)

    resend.install(Disowning())
    proxy = Proxy()
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert got.status == 502
    assert len(proxy.requests) == 1
    nothing_is_left(proxy)


# -- the sender changes its mind while a connection is made


@each_pair
def test_an_attempt_outdated_when_connected_is_dressed_again(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.stale = {1}
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    assert [(seen.attempt, seen.body) for seen in proxy.requests] == [(2, b"question")]
    assert proxy.opened[-1] == ("upstream-2.test", 80)
    serve(proxy.requests[0])
    assert (got.status, got.body, got.complete) == (200, b"served", True)
    nothing_is_left(proxy)


@each_pair
def test_an_attempt_is_dressed_again_only_once(client: Protocol, upstream: Protocol, sender: ScriptedSender) -> None:
    sender.stale = {1, 2, 3}
    proxy = Proxy(client=client, upstream=upstream)
    proxy.client.ask("/claimed", b"question")
    assert [seen.attempt for seen in proxy.requests] == [2]


@each_pair
def test_a_second_attempt_is_dressed_again_when_outdated(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.stale = {2}
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert [seen.attempt for seen in proxy.requests] == [1, 3]
    serve(proxy.requests[1])
    assert got.body == b"served"
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("instead", [http.Response.make(503, b"nobody"), None], ids=["a response", "disowned"])
def test_nothing_leaves_if_an_outdated_attempt_has_no_successor(
    client: Protocol, upstream: Protocol, instead: http.Response | None, sender: ScriptedSender
) -> None:
    sender.stale = {1}
    sender.dress = lambda request, number: request if number == 1 else instead
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    assert proxy.requests == []
    assert (got.status, got.over) == (502 if instead is None else 503, True)
    nothing_is_left(proxy)


@each_pair
def test_nothing_leaves_if_the_client_leaves_while_reconnecting(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.stale = {1}
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    proxy.hold = {"open"}
    got = proxy.client.ask("/claimed", b"question")
    proxy.release()
    proxy.client.leave(got)
    proxy.release()
    assert proxy.requests == []
    nothing_is_left(proxy)


# -- the client leaves


@each_pair
def test_client_that_leaves_the_first_attempt_ends_it(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    proxy.client.leave(got)
    (seen,) = proxy.requests
    assert taken_back(seen)
    assert proxy.hooks == ["requestheaders", "request", "error"]
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("attempt", [1, 2])
def test_nothing_leaves_if_the_client_leaves_while_judging(
    client: Protocol, upstream: Protocol, attempt: int, sender: ScriptedSender
) -> None:
    sender.attempts = 5
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    for number in range(attempt - 1):
        refuse(proxy.requests[number])
    proxy.hold = {"response"}
    refuse(proxy.requests[-1])
    proxy.client.leave(got)
    proxy.release()
    assert len(proxy.requests) == attempt
    assert proxy.hooks[-2:] == ["response", "error"]
    nothing_is_left(proxy)


def test_a_body_still_on_its_way_up_ends_with_the_client(sender: ScriptedSender) -> None:
    proxy = Proxy(client="h2", upstream="h2")
    proxy.reads = False
    proxy.hold = {"response"}
    got = proxy.client.ask("/claimed", bytes(200_000))
    refuse(proxy.requests[0])
    proxy.client.leave(got)
    proxy.release()
    assert taken_back(proxy.requests[0])


@each_pair
@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_nothing_leaves_if_the_client_leaves_while_connecting(
    client: Protocol, upstream: Protocol, attempt: int, sender: ScriptedSender
) -> None:
    sender.attempts = 5
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    proxy.hold = {"open"}
    got = proxy.client.ask("/claimed", b"question")
    for number in range(attempt - 1):
        proxy.release()
        refuse(proxy.requests[number])
    proxy.client.leave(got)
    proxy.release()
    assert len(proxy.requests) == attempt - 1
    assert proxy.hooks.count("error") == 1
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "in the middle of the answer"])
def test_client_that_leaves_the_second_attempt_ends_it(
    client: Protocol, upstream: Protocol, begun: bool, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    first, second = proxy.requests
    if begun:
        second.upstream.answer(second, 200, b"event one", end=False)
    proxy.client.leave(got)
    assert taken_back(second)
    assert first.reset is None
    assert proxy.hooks.count("error") == 1
    nothing_is_left(proxy)


# -- the server leaves


@each_pair
@pytest.mark.parametrize("attempt", [1, 2, 3])
@pytest.mark.parametrize("held", [False, True], ids=["no answer", "half a refusal"])
def test_connection_that_ends_before_an_answer_is_one_error(
    client: Protocol, upstream: Protocol, attempt: int, held: bool, sender: ScriptedSender
) -> None:
    sender.attempts = 5
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    for number in range(attempt - 1):
        refuse(proxy.requests[number])
    last = proxy.requests[-1]
    if held:
        last.upstream.answer(last, 401, b"refu", end=False)
    last.upstream.close()
    assert (got.status, got.over) == (502, True)
    assert b"refu" not in got.body
    assert len(proxy.requests) == attempt
    assert proxy.hooks.count("error") == 1
    nothing_is_left(proxy)


@each_pair
def test_connection_that_ends_within_the_second_answer_cuts_it(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    second = proxy.requests[1]
    # From HTTP/2 to HTTP/1 an answer without a length would end with its connection, cut or not.
    length = [("content-length", "100")] if upstream == "h2" else []
    second.upstream.answer(second, 200, b"event one", length, end=False)
    second.upstream.close()
    assert (got.status, got.body, got.complete, got.cut) == (200, b"event one", False, True)
    nothing_is_left(proxy)


@each_client
def test_reset_of_the_second_attempt_reaches_the_client(client: Protocol, sender: ScriptedSender) -> None:
    proxy = Proxy(client=client, upstream="h2")
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    second = proxy.requests[1]
    assert isinstance(second.upstream, H2Upstream)
    second.upstream.reset(second)
    assert (got.status, got.over) == (502, True)
    nothing_is_left(proxy)


@each_pair
def test_second_attempt_that_cannot_connect_is_one_error(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    proxy.unreachable = {"upstream-2.test"}
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert (got.status, got.over) == (502, True)
    assert b"no route to host" in got.body
    assert proxy.hooks == [*ONE_EXCHANGE, "error"]
    nothing_is_left(proxy)


@each_pair
def test_a_connection_lost_while_judging_is_replaced(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    proxy.hold = {"response"}
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    proxy.requests[0].upstream.close()
    proxy.release()
    first, second = proxy.requests
    assert second.upstream is not first.upstream
    serve(second)
    proxy.release()
    assert (got.status, got.body) == (200, b"served")
    nothing_is_left(proxy)


# -- late events of an abandoned attempt

LATE: dict[str, Callable[[int], HttpEvent]] = {
    "headers": lambda stream: ResponseHeaders(stream, http.Response.make(200, b"late"), False),
    "data": lambda stream: ResponseData(stream, b"late"),
    "trailers": lambda stream: ResponseTrailers(stream, http.Headers([(b"late", b"1")])),
    "end": ResponseEndOfMessage,
    "reset": lambda stream: ResponseProtocolError(stream, "late", resend.UNSENDABLE),
}

MOMENTS = ["judging", "connecting", "waiting", "in the middle of the answer"]


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("abandoned", [1, 2])
@pytest.mark.parametrize("moment", MOMENTS)
@each_pair
def test_late_events_of_an_abandoned_attempt_are_dropped(
    client: Protocol, upstream: Protocol, moment: str, abandoned: int, late: str, sender: ScriptedSender
) -> None:
    """The layers of HTTP/1 and HTTP/2 let few of these through today; the stream does not rely on it."""
    sender.attempts = 5
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    for number in range(abandoned - 1):
        refuse(proxy.requests[number])
    (stream,) = {stream for stream in proxy.layer.streams.values() if isinstance(stream, resend.ResendStream)}
    event = LATE[late](stream.attempt_id)

    proxy.hold = {"response", "open"}
    refuse(proxy.requests[-1])
    for now in MOMENTS:
        if now == "connecting":
            proxy.release("response")
        elif now == "waiting":
            proxy.release("open")
        elif now == "in the middle of the answer":
            proxy.requests[-1].upstream.answer(proxy.requests[-1], 200, b"event one ", end=False)
            assert got.status == 200
        if now == moment:
            proxy.inject(event)
    last = proxy.requests[-1]
    last.upstream.answer_more(last, b"event two")
    proxy.release("response")

    assert (got.status, got.body, got.complete, got.cut) == (200, b"event one event two", True, False)
    assert [seen.attempt for seen in proxy.requests] == list(range(1, abandoned + 2))
    assert "late" not in got.headers
    assert "error" not in proxy.hooks
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("moment", MOMENTS[1:])
def test_first_connection_may_end_while_the_second_serves(
    client: Protocol, upstream: Protocol, moment: str, sender: ScriptedSender
) -> None:
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    proxy.reads = False  # Over HTTP/2 the first stream is still open on our side.
    proxy.hold = {"open"}
    got = proxy.client.ask("/claimed", bytes(70_000))
    proxy.release()
    first = proxy.requests[0]
    refuse(first)
    if moment == "connecting":
        first.upstream.close()
    proxy.reads = True
    proxy.release()
    if moment == "waiting":
        first.upstream.close()
    second = proxy.requests[1]
    second.upstream.answer(second, 200, b"event one ", end=False)
    if moment == "in the middle of the answer":
        first.upstream.close()
    second.upstream.answer_more(second, b"event two")
    assert (got.status, got.body, got.complete) == (200, b"event one event two", True)
    assert "error" not in proxy.hooks
    nothing_is_left(proxy)


# -- refusals that overtake the request's body (HTTP/2)


@each_client
def test_early_refusal_stops_the_upload_of_the_abandoned_attempt(client: Protocol, sender: ScriptedSender) -> None:
    body = bytes(range(256)) * 1000
    proxy = Proxy(client=client, upstream="h2")
    proxy.reads = False
    got = proxy.client.ask("/claimed", body)
    (first,) = proxy.requests
    refuse(first)
    assert first.reset == h2.errors.ErrorCodes.CANCEL
    second = proxy.requests[1]
    assert isinstance(second.upstream, H2Upstream)
    for _ in range(5):
        second.upstream.read_on()
    assert second.body == body
    assert len(first.body) == 65_535, "no more of it than had been on its way"
    serve(second)
    assert got.body == b"served"
    nothing_is_left(proxy)


def test_refusal_after_the_whole_body_resets_nothing(sender: ScriptedSender) -> None:
    proxy = Proxy(client="h2", upstream="h2")
    proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert proxy.requests[0].reset is None


@each_client
@pytest.mark.parametrize("hook", ["responseheaders", "response"])
def test_an_early_refusal_followed_by_a_reset_is_sent_again(
    client: Protocol, hook: str, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream="h2")
    proxy.reads = False
    proxy.hold = {hook}
    got = proxy.client.ask("/claimed", bytes(200_000))
    first = proxy.requests[0]
    assert isinstance(first.upstream, H2Upstream)
    if hook == "responseheaders":
        first.upstream.refuse_early(first, b"refused")
    else:
        refuse(first)
        first.upstream.reset(first, h2.errors.ErrorCodes.NO_ERROR)
    proxy.release()
    for _ in range(5):
        first.upstream.read_on()
    second = proxy.requests[1]
    assert second.body == bytes(200_000)
    serve(second)
    proxy.release()
    assert (got.status, got.body) == (200, b"served")
    assert "error" not in proxy.hooks
    nothing_is_left(proxy)


@each_client
def test_a_reset_after_a_relayed_refusal_disturbs_nothing(client: Protocol, sender: ScriptedSender) -> None:
    """mitmproxy alone would hand the reset to a client whose answer is complete, and over HTTP/1 crash at it."""
    sender.attempts = 1
    proxy = Proxy(client=client, upstream="h2")
    proxy.reads = False
    proxy.hold = {"response"}
    got = proxy.client.ask("/claimed", bytes(70_000))
    first = proxy.requests[0]
    assert isinstance(first.upstream, H2Upstream)
    refuse(first)
    first.upstream.reset(first, h2.errors.ErrorCodes.NO_ERROR)
    proxy.release()
    assert (got.status, got.body, got.complete) == (401, b"refused 1", True)
    assert "error" not in proxy.hooks

    proxy.hold = set()
    first.upstream.read_on()
    following = proxy.client.ask("/claimed", b"next")
    serve(proxy.requests[-1])
    assert following.body == b"served"
    nothing_is_left(proxy)


# -- other addons


@each_pair
def test_flow_killed_over_its_refusal_is_not_sent_again(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    class Killing(Streaming):
        def response(self, flow: http.HTTPFlow) -> None:
            flow.kill()

    proxy = Proxy(client=client, upstream=upstream, addon=Killing())
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert len(proxy.requests) == 1
    assert (got.status, got.cut) == (None, True)
    assert proxy.hooks == [*ONE_EXCHANGE, "error"]
    assert not proxy.flows[0].live


@each_pair
def test_a_flow_killed_while_connecting_again_is_not_sent(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.dress = to_another_host
    proxy = Proxy(client=client, upstream=upstream)
    proxy.hold = {"open"}
    got = proxy.client.ask("/claimed", b"question")
    proxy.release()
    refuse(proxy.requests[0])
    proxy.flows[0].kill()
    proxy.release()
    assert len(proxy.requests) == 1
    assert got.cut


@each_pair
def test_another_addons_response_reaches_the_client(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    class Replacing(Streaming):
        def response(self, flow: http.HTTPFlow) -> None:
            flow.response = http.Response.make(429, b"replaced")

    proxy = Proxy(client=client, upstream=upstream, addon=Replacing())
    got = proxy.client.ask("/claimed", b"question")
    refuse(proxy.requests[0])
    assert (got.status, got.body, got.complete) == (429, b"replaced", True)
    assert len(proxy.requests) == 1
    nothing_is_left(proxy)


# -- WebSocket


def test_a_handshake_is_sent_again_and_messages_pass(sender: ScriptedSender) -> None:
    sender.attempts = 3
    proxy = Proxy()
    got, client, upstream = handshake(proxy, refusals=2)
    assert got.status == 101
    ours, theirs = (
        WebSocket(ConnectionType.CLIENT),
        WebSocket(ConnectionType.SERVER),
    )
    for number in range(3):
        client.send(ours.send(TextMessage(f"to {number}")))
        upstream.send(theirs.send(TextMessage(f"from {number}")))
    assert messages(theirs, upstream.tunnel) == ["to 0", "to 1", "to 2"]
    assert messages(ours, client.tunnel) == ["from 0", "from 1", "from 2"]
    assert proxy.hooks.count("websocket_message") == 6
    assert len(proxy.upstreams) == 1

    client.close()
    assert proxy.hooks[-1] == "websocket_end"
    assert upstream.conn.state is connection.ConnectionState.CLOSED


def test_a_message_right_after_the_101_is_not_lost(sender: ScriptedSender) -> None:
    proxy = Proxy()
    proxy.hold = {"response"}
    _, client, upstream = handshake(proxy, refusals=1)
    theirs = WebSocket(ConnectionType.SERVER)
    upstream.send(theirs.send(TextMessage("hello")))
    proxy.release()
    assert messages(WebSocket(ConnectionType.CLIENT), client.tunnel) == ["hello"]


def test_server_that_ends_a_websocket_ends_it_for_the_client(sender: ScriptedSender) -> None:
    proxy = Proxy()
    _, client, upstream = handshake(proxy, refusals=1)
    upstream.close()
    assert proxy.hooks[-1] == "websocket_end"
    assert client.conn.state is connection.ConnectionState.CLOSED


def handshake(proxy: Proxy, refusals: int) -> tuple[Got, H1Client, H1Upstream]:
    assert isinstance(proxy.client, H1Client)
    got = proxy.client.upgrade("/claimed")
    for number in range(refusals):
        refuse(proxy.requests[number])
        if proxy.held:
            proxy.release()
    last = proxy.requests[refusals]
    assert isinstance(last.upstream, H1Upstream)
    last.upstream.answer(last, 101)
    return got, proxy.client, last.upstream


def messages(reader: WebSocket, data: bytearray | None) -> list[str]:
    assert data is not None
    reader.receive_data(bytes(data))
    return [event.data for event in reader.events() if isinstance(event, TextMessage)]


# -- installing


def test_streams_under_way_keep_the_sender_they_began_with(sender: ScriptedSender) -> None:
    proxy = Proxy()
    got = proxy.client.ask("/claimed", b"question")
    resend.install(another := ScriptedSender())
    refuse(proxy.requests[0])
    serve(proxy.requests[1])
    assert got.body == b"served"
    assert another.tries == {}


def test_every_touched_name_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resend.missing_names() == []
    monkeypatch.delattr(layers.HttpStream, "check_killed")
    assert resend.missing_names() == ["HttpStream.check_killed"]


def test_ids_of_attempts_are_never_used_twice(sender: ScriptedSender) -> None:
    seen: set[int] = set()
    for _, client in itertools.product(range(3), ("h1", "h2")):
        proxy = Proxy(client=client)  # type: ignore[arg-type]
        proxy.client.ask("/claimed", b"question")
        refuse(proxy.requests[0])
        (attempt,) = {number for number in proxy.layer.streams if number < 0}
        assert attempt not in seen
        seen.add(attempt)


# -- a connection that is lost, and a stream that fails


@each_pair
@pytest.mark.parametrize("how", ["no answer", "half a refusal", "half a beginning"])
def test_a_connection_lost_early_costs_the_client_nothing(
    client: Protocol, upstream: Protocol, how: str, sender: ScriptedSender
) -> None:
    sender.repeats = True
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    match how:
        case "half a refusal":
            first.upstream.answer(first, 401, b"refu", end=False)
        case "half a beginning":
            first.upstream.answer(first, 200, b"created", EVENTS, end=False)

    first.upstream.close()

    second = proxy.requests[1]
    assert second.body == b"question"
    serve(second)
    assert (got.status, got.body, got.complete) == (200, b"served", True)
    assert proxy.flows[0].error is None
    nothing_is_left(proxy)


@each_pair
def test_an_answer_that_was_passed_on_is_not_requested_again(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.repeats = True
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    length = [("content-length", "100")] if upstream == "h2" else []
    first.upstream.answer(first, 200, b"event one", length, end=False)
    first.upstream.close()

    assert len(proxy.requests) == 1
    assert (got.body, got.complete) == (b"event one", False)


@each_upstream
def test_a_connection_that_cannot_be_made_is_tried_again(upstream: Protocol, sender: ScriptedSender) -> None:
    sender.repeats = True
    sender.dress = to_another_host
    proxy = Proxy(upstream=upstream)
    proxy.unreachable = {HOST}
    got = proxy.client.ask("/claimed", b"question")

    serve(proxy.requests[0])
    assert (got.status, got.complete) == (200, True)
    nothing_is_left(proxy)


EVENTS = [("content-type", "text/event-stream")]


@each_pair
def test_a_beginning_is_passed_on_whole_once_the_stream_answers(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"created 1;", EVENTS, end=False)
    first.upstream.answer_more(first, b"created 2;", end=False)
    assert (got.status, got.body) == (None, b"")

    first.upstream.answer_more(first, b"delta;", end=False)
    assert got.body == b"created 1;created 2;delta;"
    first.upstream.answer_more(first, b"more", end=True)
    assert (got.body, got.complete) == (b"created 1;created 2;delta;more", True)
    assert proxy.hooks == ONE_EXCHANGE
    nothing_is_left(proxy)


@each_pair
def test_a_beginning_is_not_held_for_long(client: Protocol, upstream: Protocol, sender: ScriptedSender) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"created 1;", EVENTS, end=False)
    proxy.wakeups = [wakeup for wakeup in proxy.wakeups if wakeup.delay == resend.LONGEST_HOLD]

    proxy.wake()

    assert (got.status, got.body) == (200, b"created 1;")
    first.upstream.answer_more(first, b"failed;", end=True)
    assert (got.body, got.complete) == (b"created 1;failed;", True)
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("says", [b"delta;", b"failed;"])
def test_time_that_passes_after_a_beginning_changes_nothing(
    client: Protocol, upstream: Protocol, says: bytes, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"created;", EVENTS, end=False)
    first.upstream.answer_more(first, says, end=says == b"delta;")
    proxy.wakeups = [wakeup for wakeup in proxy.wakeups if wakeup.delay == resend.LONGEST_HOLD]

    proxy.wake()

    if says == b"failed;":
        second = proxy.requests[1]
        second.upstream.answer(second, 200, b"delta;", EVENTS)
    assert (got.status, got.complete) == (200, True)
    nothing_is_left(proxy)


@each_pair
def test_a_stream_that_ends_while_it_begins_is_passed_on(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"created;", EVENTS, end=True)

    assert (got.status, got.body, got.complete) == (200, b"created;", True)
    nothing_is_left(proxy)


@each_pair
@pytest.mark.parametrize("ends", [True, False])
def test_a_stream_that_fails_at_once_is_requested_again(
    client: Protocol, upstream: Protocol, ends: bool, sender: ScriptedSender
) -> None:
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"created;", EVENTS, end=False)
    first.upstream.answer_more(first, b"failed;", end=ends)

    second = proxy.requests[1]
    assert second.body == b"question"
    second.upstream.answer(second, 200, b"delta", EVENTS)
    assert (got.status, got.body, got.complete) == (200, b"delta", True)
    nothing_is_left(proxy)


@each_pair
def test_a_stream_that_fails_for_good_becomes_a_response(
    client: Protocol, upstream: Protocol, sender: ScriptedSender
) -> None:
    sender.attempts = 1
    proxy = Proxy(client=client, upstream=upstream)
    got = proxy.client.ask("/claimed", b"question")
    first = proxy.requests[0]
    first.upstream.answer(first, 200, b"failed;", EVENTS, end=False)

    assert (got.status, got.body, got.complete) == (429, FAILED, True)
    assert taken_back(first)
    nothing_is_left(proxy)
