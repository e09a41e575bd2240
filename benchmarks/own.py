"""What our own code takes for a request, and for sending it again: no network, no mitmproxy around it."""

from __future__ import annotations

import asyncio
import time

from mitmproxy import http
from mitmproxy.test import tflow

from benchmarks import load
from codexpool.config import PoolConfig
from codexpool.members.ledger import Ledger
from codexpool.pool.because import Because
from codexpool.pool.identity import Asked, Condition, Identity, IdentityKey, Kind, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Selection
from codexpool.proxy import tracer
from codexpool.proxy.flows import Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.tokens.bearer import Bearer
from codexpool.traces.history import History
from codexpool.upkeep.keeper import Keeper

REFUSAL = b'{"error":{"code":"token_expired","message":"expired"}}'


class StillKeeper(Keeper):
    """A keeper without files and without whoami: its identities are what they are."""

    def __init__(self, *names: str) -> None:
        self._bearers = {name: Bearer.of(f"at-test-{name}-0123456789abcdef") for name in names}
        self.hosts = frozenset({"chatgpt.com"})
        self.config: PoolConfig | None = None
        self.pool = Pool()
        self.ledger = Ledger(lambda account, spent: None)
        self.reset()

    def reset(self) -> None:
        """Everybody is ready again."""
        self.pool.states.identities = {}
        self.pool.replace_identities(
            [
                Identity(
                    name,
                    Kind.PAT,
                    bearer.fingerprint,
                    Condition(Status.READY, 0),
                    metadata=Metadata(f"acc-{name}", f"user-{name}", "business"),
                )
                for name, bearer in self._bearers.items()
            ],
            Selection.DRAIN_FIRST,
            0,
        )

    def bearer(self, name: str) -> Bearer:
        return self._bearers[name]

    def served(self, name: str, asked: Asked, sent_at: float) -> None:
        """Nothing outlives a benchmark."""

    def saw_usage(self, key: IdentityKey) -> None:
        """Nothing outlives a benchmark."""
        self.pool.saw_usage(key)


def flow(number: int) -> http.HTTPFlow:
    head, _, body = load.post(load.SWAPPED, number).partition(b"\r\n\r\n")
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n")[1:])]
    flow = tflow.tflow()
    flow.request = http.Request(
        "chatgpt.com",
        443,
        b"POST",
        b"https",
        b"",
        load.SWAPPED.encode(),
        b"HTTP/1.1",
        http.Headers(fields),
        body,
        None,
        0,
        0,
    )
    return flow


async def measure(requests: int) -> tuple[float, float]:
    """Seconds of processor time for a request that is served at once, and for the second attempt of one."""
    keeper = StillKeeper("first", "second")
    exchanges = SwapHandler(history=History())
    exchanges.flows.mode = Serving(keeper)
    flows = [flow(number) for number in range(requests)]
    good = [http.Response.make(200, b"{}", {"content-type": "application/json"}) for _ in flows]
    first = second = 0.0
    for one, answer in zip(flows, good, strict=True):
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
        if not exchanges.again(one) or not isinstance(exchanges.outbound(one), http.Request):
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
    exchanges.is_over(one)


async def measure_looking(requests: int) -> tuple[float, float]:
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
        keeper.pool.because, exchange.tries = Because.OWN, []  # as for nearly all: nobody else was looked at
        begun = time.process_time()
        made = tracer.begun(one, exchange.policy, exchange.asked, "thread-id", False)
        exchange.trace = made
        history.begins(made)
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
    """Print all of them, in microseconds."""
    asyncio.run(measure(50))
    first, second = asyncio.run(measure(requests))
    print(f"our own part of a request: {first * 1e6:.0f} µs; of sending one again: {second * 1e6:.0f} µs")
    asyncio.run(measure_looking(50))
    trace, event = asyncio.run(measure_looking(requests))
    print(f"of that for its trace: {trace * 1e6:.0f} µs; beyond it, for its event in a file: {event * 1e6:.0f} µs")


if __name__ == "__main__":
    report()
