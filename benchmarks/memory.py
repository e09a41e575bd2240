"""The rows about memory: what sockets and sessions take, and whether messages and requests make the process grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks import load
from benchmarks.load import Target
from benchmarks.results import Result
from benchmarks.rounds import Watched
from benchmarks.rows import Size
from benchmarks.sides import Side

START: Final = "memory after the start"
END: Final = "memory after everything"


@dataclass(frozen=True)
class MemoryRow:
    """A load whose effect on memory is measured: before ``block`` and within it.

    ``tells_each``: growth is expected, and the result also has the growth for each unit.
    """

    name: str
    unit: str
    count: int
    slowness: float  # Seconds for each unit, roughly.
    block: Callable[[Target], AbstractAsyncContextManager[None]]
    tells_each: bool = False

    async def measure(self, sides: Sequence[Side], watched: Watched, result: Result) -> None:
        """Measure each side once."""
        for side in sides:
            if side.proxy is None:
                continue
            watched.progress.shows(f"{self.name}, {side.name}")
            before = side.proxy.memory
            with watched.explained(self.name, side):
                async with asyncio.timeout(600), self.block(side.target):
                    growth = side.proxy.memory - before
            each = {"each": 1024 * growth / self.count} if self.tells_each else {}
            result.add(side.name, {"growth": growth, **each})
            await side.proxy.settle()


def first(size: Size) -> list[MemoryRow]:
    """The rows before all others. Later, free memory in the processes would hide growth."""
    return [
        MemoryRow(
            f"memory, the first {size.first:,} small requests",
            "request",
            size.first,
            0.0014,
            partial(load.requests, count=size.first, sessions=10),
            tells_each=True,
        ),
        MemoryRow(
            f"memory, {size.sessions:,} sessions with a request each",
            "session",
            size.sessions,
            0.0014,
            partial(load.requests, count=size.sessions, sessions=size.sessions),
            tells_each=True,
        ),
        MemoryRow(
            f"memory, {size.sockets:,} open WebSockets",
            "socket",
            size.sockets,
            0.008,
            partial(load.open_sockets, count=size.sockets),
            tells_each=True,
        ),
    ]


def last(size: Size) -> list[MemoryRow]:
    """The rows after all others. They show whether a process keeps growing."""
    return [
        MemoryRow(
            f"memory, {size.messages:,} messages on one WebSocket",
            "message",
            size.messages,
            0.0001,
            partial(load.long_socket, messages=size.messages),
        ),
        MemoryRow(
            f"memory, {size.requests:,} small requests",
            "request",
            size.requests,
            0.0014,
            partial(load.requests, count=size.requests, sessions=10),
        ),
    ]
