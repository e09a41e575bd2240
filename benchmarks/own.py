"""Measures the processor time of codexpool's own code per request, second attempt and turn, without a network."""

from __future__ import annotations

import asyncio
import time

from mitmproxy import http

from codexpool.pool.selection import Because
from codexpool.proxy import tracer
from codexpool.proxy.flows import Serving
from codexpool.proxy.mitm.garbage import exempt_all_objects
from codexpool.proxy.serving import SwapHandler
from codexpool.traces.history import History
from tests.proxy.still_keeper import REFUSAL, StillKeeper, flow


async def measure(requests: int) -> tuple[float, float]:
    """Seconds of processor time for a request that is served at once, and for the second attempt of one."""
    keeper = StillKeeper("first", "second")
    exchanges = SwapHandler(history=History())
    exchanges.flows.mode = Serving(keeper)
    flows = [flow(number) for number in range(requests)]
    good = [http.Response.make(200, b"{}", {"content-type": "application/json"}) for _ in flows]
    first = second = 0.0
    exempt_all_objects()  # As in a proxy.
    while flows:  # A finished flow is not kept, as in a proxy.
        one, answer = flows.pop(), good.pop()
        begun = time.process_time()
        await _served(exchanges, one, answer)
        first += time.process_time() - begun
    refused = [flow(number) for number in range(requests)]
    for one in refused:
        keeper.reset()
        exchanges.open(one)
        await exchanges.assign(one)
        exchanges.outbound(one)
        one.response = http.Response.make(401, REFUSAL, {"content-type": "application/json"})
        begun = time.process_time()
        exchanges.headers_came(one)
        await exchanges.judge(one)
        if not exchanges.should_resend(one) or not isinstance(exchanges.outbound(one), http.Request):
            raise RuntimeError("not sent again")
        second += time.process_time() - begun
    return first / requests, second / requests


async def _served(exchanges: SwapHandler, one: http.HTTPFlow, answer: http.Response) -> None:
    exchanges.open(one)
    await exchanges.assign(one)
    exchanges.outbound(one)
    one.response = answer
    exchanges.headers_came(one)
    await exchanges.judge(one)
    exchanges.finish(one)


DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"%s"}\n\n' % (
    b"x" * 150
)
DONE = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"output":["%s"],"usage":'
    b'{"input_tokens":10,"output_tokens":20}}}\n\n' % (b"y" * 2000)
)


async def measure_turn(turns: int, events: int) -> tuple[float, float]:
    """Seconds of processor time for a turn of 12 KB whose answer is streamed, without and for each of its events."""
    exchanges = SwapHandler(history=History())
    exchanges.flows.mode = Serving(StillKeeper("first", "second"))
    flows = [flow(number % 20) for number in range(turns)]
    exempt_all_objects()
    all_of_it = passing = 0.0
    while flows:
        one = flows.pop()
        one.request.data.content = b"x" * 12_000
        begun = time.process_time()
        exchanges.open(one)
        await exchanges.assign(one)
        exchanges.outbound(one)
        one.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
        exchanges.headers_came(one)
        exchanges.judge_beginning(one, DELTA)
        assert callable(one.response.stream)
        event_begun = time.process_time()
        for _ in range(events):
            one.response.stream(DELTA)
        passing += time.process_time() - event_begun
        one.response.stream(DONE)
        await exchanges.judge(one)
        exchanges.finish(one)
        all_of_it += time.process_time() - begun
    return (all_of_it - passing) / turns, passing / turns / events


async def measure_tracing(requests: int) -> tuple[float, float]:
    """Seconds of processor time for the trace of a request, and for its event in a file, which a thread writes."""
    keeper, history = StillKeeper("first", "second"), History()
    exchanges = SwapHandler(history=history)
    exchanges.flows.mode = Serving(keeper)
    trace = event = 0.0
    for number in range(requests):
        one = flow(number)
        await _served(exchanges, one, http.Response.make(200, b"{}", {"content-type": "application/json"}))
        exchange = exchanges.flows[one]
        identity, fields, tries = keeper.pool.identities["first"], one.request.headers.fields, exchange.tries
        keeper.pool.because, exchange.tries = Because.OWN, []  # As for nearly all: no other identity was considered.
        route = exchanges.flows.route(one.request)
        begun = time.process_time()
        made = tracer.begun(one, route, exchange.asked, "thread-id", False)
        exchange.trace = made
        history.began(made)
        attempt = tracer.attempted(keeper.pool, exchange, identity, identity.fingerprint, False)
        history.assigned(made)
        attempt.sent(fields, time.time())
        attempt.answered(200, fields, time.time())
        tracer.over(history, one, exchange)
        trace += time.process_time() - begun
        exchange.tries = tries
        (last,) = history.events(history.last - 1, 1)
        begun = time.process_time()
        if not last.json:
            raise RuntimeError("no event")
        event += time.process_time() - begun
    return trace / requests, event / requests


def report(requests: int = 1000) -> None:
    """Print all measurements, in microseconds."""
    asyncio.run(measure(50))
    first, second = asyncio.run(measure(requests))
    print(f"our own part of a request: {first * 1e6:.0f} µs; of sending one again: {second * 1e6:.0f} µs")
    turn, event = asyncio.run(measure_turn(requests, 30))
    print(f"of a turn of 12 KB: {turn * 1e6:.0f} µs; of each event of its answer: {event * 1e6:.1f} µs")
    asyncio.run(measure_tracing(50))
    trace, event = asyncio.run(measure_tracing(requests))
    print(f"of that for its trace: {trace * 1e6:.0f} µs; beyond it, for its event in a file: {event * 1e6:.0f} µs")


if __name__ == "__main__":
    report()
