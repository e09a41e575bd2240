"""Every order of events: requests side by side on one client connection, answers, cuts, and clients that leave.

Whatever happens, a client gets one response or one error per request, never a mix of two attempts, and nothing is
begun for a request whose client has gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import h2.errors
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from mitmproxy import http

from codexpool.proxy import resend
from tests.proxy.playbook import (
    CUT,
    FAILED,
    Got,
    H2Client,
    H2Upstream,
    Protocol,
    Proxy,
    ScriptedSender,
    Seen,
    proxy_options,
    uninstall,
)

ATTEMPTS = 3
OPTIONS = proxy_options()


@dataclass(eq=False)
class Asked:
    """A request, and what its client made of it."""

    name: str
    got: Got
    body: bytes
    left: bool = False
    waited: bool = False
    """Whether the beginning of a stream was passed on because its time was up. It may say then that it has failed."""
    sent_when_left: tuple[int, int] = (0, 0)


class Schedules(RuleBasedStateMachine):
    """Names: request ``/claimed/3``, and ``3.2`` in every byte of the answer to its second attempt."""

    asked = Bundle("asked")

    @initialize(
        client=st.sampled_from(["h1", "h2"]),
        upstream=st.sampled_from(["h1", "h2"]),
        hosts=st.booleans(),
        reads=st.booleans(),
        repeats=st.booleans(),
        judges=st.sampled_from([frozenset[int](), frozenset({401})]),
        hold=st.sets(st.sampled_from(["response", "open", "error"])),
    )
    def begin(
        self,
        client: Protocol,
        upstream: Protocol,
        hosts: bool,
        reads: bool,
        repeats: bool,
        judges: frozenset[int],
        hold: set[str],
    ) -> None:
        self.sender = ScriptedSender(ATTEMPTS)
        self.sender.repeats, self.sender.judges = repeats, set(judges)
        if hosts:
            self.sender.dress = _each_attempt_to_a_host_of_its_own
        resend.install(self.sender)
        self.proxy = Proxy(client=client, upstream=upstream, opts=OPTIONS)
        self.proxy.reads = reads
        self.proxy.hold = hold
        self.requests: list[Asked] = []
        self.answers: dict[Seen, list[bytes]] = {}
        self.over: set[Seen] = set()

    def teardown(self) -> None:
        if not hasattr(self, "proxy"):
            return
        try:
            self.settle()
        finally:
            uninstall()

    # -- the client

    @property
    def client_can_ask(self) -> bool:
        if isinstance(self.proxy.client, H2Client):
            return len(self.requests) < 6
        open_ = self.proxy.client.conn.connected
        return open_ and (not self.requests or self.requests[-1].got.complete) and len(self.requests) < 6

    @precondition(lambda self: self.client_can_ask)
    @rule(target=asked, size=st.sampled_from([0, 1, 100_000]))
    def ask(self, size: int) -> Asked:
        name = f"/claimed/{len(self.requests)}"
        body = (name.encode() * (size // len(name) + 1))[:size]
        asked = Asked(name, self.proxy.client.ask(name, body), body)
        self.requests.append(asked)
        return asked

    @rule(asked=asked)
    def leave(self, asked: Asked) -> None:
        if not asked.got.over and not asked.left:
            asked.sent_when_left = self.sent_for(asked)
            asked.left = True
            self.proxy.client.leave(asked.got)

    # -- the proxy's own waits

    @precondition(lambda self: self.proxy.held)
    @rule(index=st.integers(0, 9))
    def let_one_go_on(self, index: int) -> None:
        held = self.proxy.held
        held.insert(0, held.pop(index % len(held)))
        self.proxy.release()

    @precondition(lambda self: self.proxy.wakeups)
    @rule()
    def time_passes(self) -> None:
        had = {asked.name: asked.got.body for asked in self.requests}
        self.proxy.wake()
        for asked in self.requests:
            asked.waited |= asked.got.body != had[asked.name]

    # -- the upstreams

    @property
    def open_requests(self) -> list[Seen]:
        return [
            seen
            for seen in self.proxy.requests
            if seen not in self.over and seen.reset is None and seen.upstream.conn.connected
        ]

    @precondition(lambda self: self.open_requests)
    @rule(
        index=st.integers(0, 9),
        status=st.sampled_from([401, 200]),
        events=st.booleans(),
        says=st.sampled_from([b"", b"created;", b"created;", b"failed;"]),
        end=st.booleans(),
    )
    def answer(self, index: int, status: int, events: bool, says: bytes, end: bool) -> None:
        seen = self.open_requests[index % len(self.open_requests)]
        part = self.label(seen) + says
        if seen in self.answers:
            seen.upstream.answer_more(seen, part, end=end)
        else:
            fields = [("content-type", "text/event-stream")] if events else []
            seen.upstream.answer(seen, status, part, fields, end=end)
        self.answers.setdefault(seen, []).append(part)
        if end:
            self.over.add(seen)

    @precondition(lambda self: self.open_requests)
    @rule(index=st.integers(0, 9), size=st.sampled_from([1, resend.MOST_HELD + 1]))
    def refuse_without_end(self, index: int, size: int) -> None:
        seen = self.open_requests[index % len(self.open_requests)]
        if seen not in self.answers:
            self.answers[seen] = [bytes(size)]
            seen.upstream.answer(seen, 401, end=False)
            for start in range(0, size, 60_000):
                if seen not in self.open_requests:
                    break
                seen.upstream.answer_more(seen, bytes(min(60_000, size - start)), end=False)

    @precondition(lambda self: self.open_requests)
    @rule(index=st.integers(0, 9), status=st.sampled_from([100, 103]))
    def answer_for_now(self, index: int, status: int) -> None:
        seen = self.open_requests[index % len(self.open_requests)]
        if seen not in self.answers:
            seen.upstream.interim(seen, status)

    @precondition(lambda self: self.open_requests)
    @rule()
    def refuse_all(self) -> None:
        for seen in self.open_requests:
            if seen not in self.answers and seen.upstream.conn.connected:
                self.answers[seen] = [self.label(seen)]
                self.over.add(seen)
                seen.upstream.answer(seen, 401, self.label(seen))

    @precondition(lambda self: self.open_requests)
    @rule(index=st.integers(0, 9), code=st.sampled_from([h2.errors.ErrorCodes.CANCEL, h2.errors.ErrorCodes.NO_ERROR]))
    def reset(self, index: int, code: h2.errors.ErrorCodes) -> None:
        seen = self.open_requests[index % len(self.open_requests)]
        if isinstance(seen.upstream, H2Upstream):
            self.over.add(seen)
            seen.upstream.reset(seen, code)

    @precondition(lambda self: self.proxy.upstreams)
    @rule(index=st.integers(0, 9))
    def cut(self, index: int) -> None:
        self.proxy.upstreams[index % len(self.proxy.upstreams)].close()

    @precondition(lambda self: not self.proxy.reads)
    @rule()
    def read_on(self) -> None:
        self.proxy.reads = True
        for upstream in self.proxy.upstreams:
            if isinstance(upstream, H2Upstream):
                upstream.read_on()

    # -- what holds at any time

    @invariant()
    def what_a_client_gets_is_of_one_attempt(self) -> None:
        for asked in getattr(self, "requests", []):
            got = asked.got
            if got.status == 429:
                assert FAILED.startswith(got.body)
            if got.status == 401 and CUT.startswith(got.body):
                continue  # Its body did not come to its end, and it was judged by its status.
            if got.status in (200, 401):
                attempts = [seen for seen in self.answers if seen.path == asked.name]
                sent = [b"".join(self.answers[seen]) for seen in attempts]
                assert any(whole.startswith(got.body) for whole in sent), (asked, sent)

    @invariant()
    def nothing_is_sent_for_a_client_that_has_gone(self) -> None:
        for asked in getattr(self, "requests", []):
            if asked.left:
                assert self.sent_for(asked) == asked.sent_when_left

    @invariant()
    def no_stream_that_has_failed_before_it_answered_is_passed_on(self) -> None:
        for asked in getattr(self, "requests", []):
            is_stream = asked.got.status == 200 and "event-stream" in asked.got.headers.get("content-type", "")
            if asked.waited or not is_stream:
                continue
            for seen, parts in self.answers.items():
                if asked.got.body and seen.path == asked.name and b"".join(parts).startswith(asked.got.body):
                    first = next((part for part in parts if b"created" not in part), b"")
                    assert b"failed" not in first

    @invariant()
    def every_attempt_is_the_whole_request(self) -> None:
        if not hasattr(self, "proxy"):
            return
        bodies = {asked.name: asked.body for asked in self.requests}
        for seen in self.proxy.requests:
            assert bodies[seen.path].startswith(seen.body)
            if seen.complete:
                assert seen.body == bodies[seen.path]

    def sent_for(self, asked: Asked) -> tuple[int, int]:
        attempts = [seen for seen in self.proxy.requests if seen.path == asked.name]
        return len(attempts), sum(len(seen.body) for seen in attempts)

    def label(self, seen: Seen) -> bytes:
        return f"{seen.path}.{seen.attempt};".encode()

    # -- in the end

    def settle(self) -> None:
        """Let everything go on and answer all there is: then every client has what it asked for, or an error."""
        for _ in range(200):
            if self.proxy.held:
                self.proxy.release()
            elif self.open_requests:
                self.answer(0, 200, events=False, says=b"", end=True)
                self.nothing_is_sent_for_a_client_that_has_gone()
            else:
                break
        assert not self.proxy.held
        for asked in self.requests:
            assert asked.got.over or asked.left, asked
            if asked.got.status == 200 and asked.got.complete:
                whole = [b"".join(self.answers[seen]) for seen in self.answers if self.is_last(seen, asked)]
                assert whole == [asked.got.body]
        assert self.proxy.layer.streams == {}

    def is_last(self, seen: Seen, asked: Asked) -> bool:
        attempts = [each for each in self.proxy.requests if each.path == asked.name]
        return seen is attempts[-1]


def _each_attempt_to_a_host_of_its_own(request: http.Request, number: int) -> http.Request:
    request.host = f"upstream-{number}.test"
    return request


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
