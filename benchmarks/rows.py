"""The rows of the table: what is measured, and how much of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks import load
from benchmarks.load import Meter, Target
from benchmarks.results import DIRECT, Sample, many
from benchmarks.sides import BARE, Side

Measure = Callable[[Target, Meter], Awaitable[Sample]]


@dataclass(frozen=True)
class Size:
    """How much is measured: rounds of each row, seconds of each measurement, and how much the memory rows use."""

    rounds: int
    seconds: float
    warm_up: float
    first: int
    sessions: int
    sockets: int
    messages: int
    requests: int


FULL: Final = Size(
    rounds=5,
    seconds=1.6,
    warm_up=0.6,
    first=1_000,
    sessions=5_000,
    sockets=200,
    messages=100_000,
    requests=20_000,
)
SHORT: Final = Size(
    rounds=1,
    seconds=0.4,
    warm_up=0.1,
    first=600,
    sessions=500,
    sockets=50,
    messages=2_000,
    requests=500,
)


class Row:
    """A row that is measured in rounds."""

    is_steady = False

    def __init__(self, name: str, unit: str, clients: int, measure: Measure) -> None:
        self.name = name
        self.unit = unit
        self.clients = clients
        self._measure = measure

    @property
    def warms_up(self) -> bool:
        """Whether a round precedes those that count. Steady streams begin slowly, and many take long to connect."""
        return not self.is_steady

    @property
    def saturates(self) -> bool:
        """Whether the load is meant to keep a proxy busy."""
        return self.clients > 1 and not self.is_steady

    def is_for(self, side: Side) -> bool:
        return True

    async def sample(self, side: Side, seconds: float) -> Sample:
        """Measure a side for about so many seconds."""
        sample = await self._measure(side.target, side.meter(seconds))
        if side.proxy is None:
            for metric in ("cpu", "core"):
                sample.pop(metric, None)
        return sample

    def derive(self, samples: Mapping[str, Sample]) -> None:
        """Add to the samples of a round, by side, what follows from those of other sides."""


class SteadyRow(Row):
    """Steady streams: their latency counts beyond the one without a proxy."""

    is_steady = True

    def derive(self, samples: Mapping[str, Sample]) -> None:
        if (direct := samples.get(DIRECT)) is not None:
            for name, sample in samples.items():
                if name != DIRECT:
                    sample["added_p50"] = sample["p50"] - direct["p50"]
                    sample["added_p99"] = sample["p99"] - direct["p99"]


class SecondAttemptRow(Row):
    """What sending again costs; there is none without the addon."""

    def is_for(self, side: Side) -> bool:
        return side.name != BARE

    async def sample(self, side: Side, seconds: float) -> Sample:
        return await load.second_attempts(side.target, side.meter(seconds), refused=side.name != DIRECT)

    def derive(self, samples: Mapping[str, Sample]) -> None:
        if (direct := samples.get(DIRECT)) is not None:
            for name, sample in samples.items():
                if name != DIRECT:
                    sample["beyond"] = sample["again"] - sample["round_trip"] - direct["round_trip"]


def compared() -> list[Row]:
    """All rows of the main comparison, but start-up and memory."""
    bursts = [
        Row(f"WebSocket, bursts, {many(n, 'socket')}", "message", n, partial(load.websocket, clients=n))
        for n in (1, 10, 50)
    ]
    return [
        *bursts,
        *(_steady("WebSocket", n, "socket", "message", load.follow_socket) for n in (50, 200)),
        Row("SSE, bursts, 10 streams", "event", 10, partial(load.sse, clients=10)),
        *(_steady("SSE", n, "stream", "event", load.follow_events) for n in (50, 200)),
        *(
            Row(f"small requests, {many(n, 'client')}", "request", n, partial(load.small_requests, clients=n))
            for n in (1, 10, 100)
        ),
        *(
            Row(f"turns of 12 KB, {many(n, 'client')}", "turn", n, partial(load.turns, clients=n, size=12_000))
            for n in (1, 10, 100)
        ),
        Row("bodies of 2 MB, 4 clients", "turn", 4, partial(load.turns, clients=4, size=2_000_000)),
        SecondAttemptRow("a second attempt", "request", 1, partial(load.second_attempts, refused=True)),
        Row("new connections, 10 clients", "connection", 10, partial(load.connections, clients=10)),
    ]


def observed() -> list[Row]:
    """What it costs to be observed."""
    return [
        *(
            Row(f"small requests, {many(n, 'client')}", "request", n, partial(load.small_requests, clients=n))
            for n in (1, 10, 100)
        ),
        Row("SSE, bursts, 10 streams", "event", 10, partial(load.sse, clients=10)),
        Row("WebSocket, bursts, 10 sockets", "message", 10, partial(load.websocket, clients=10)),
    ]


RATE: Final = 50.0
"""Events a second of one steady stream: what a person watches."""


def _steady(kind: str, clients: int, what: str, unit: str, prepare: load.Prepare) -> Row:
    name = f"{kind}, steady, {clients} {what}s at {RATE:.0f}/s"
    return SteadyRow(name, unit, clients, partial(load.steady, clients=clients, rate=RATE, prepare=prepare))


START_UP: Final = "start-up"
