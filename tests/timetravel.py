"""An event loop whose clock goes ahead when nobody has anything to do: an hour of pauses passes in no time."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from codexpool.common import tasks


class _Selector(selectors.SelectSelector):
    """Waits for nothing: what it would have waited is added to the loop's clock."""

    loop: TimeTravelLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and for nothing that will ever come")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class TimeTravelLoop(asyncio.SelectorEventLoop):
    """Everything in it is to happen on the loop itself: there is nobody else it would wait for."""

    def __init__(self, begin: float) -> None:
        self.now = begin
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        # A float of unix seconds knows no nanoseconds: with the usual resolution nothing would ever be due.
        self._clock_resolution = 1e-5

    def time(self) -> float:
        return self.now


async def _at_once(function: Callable[..., Any], /, *arguments: Any, daemon: bool = False) -> Any:
    await asyncio.sleep(0)
    return function(*arguments)


@contextmanager
def time_travel(begin: float) -> Iterator[TimeTravelLoop]:
    """A loop that is also the clock of `time.time`; threads are no threads in it."""
    loop = TimeTravelLoop(begin)
    with (
        mock.patch.object(time, "time", loop.time),
        mock.patch.object(asyncio, "to_thread", _at_once),
        mock.patch.object(tasks, "in_thread", _at_once),
    ):
        try:
            yield loop
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
