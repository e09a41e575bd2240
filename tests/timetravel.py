"""An event loop that advances its clock instead of waiting: an hour of pauses takes no time."""

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
    """Adds each timeout to the loop's clock instead of waiting."""

    loop: TimeTravelLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("all tasks wait for something that cannot happen")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class TimeTravelLoop(asyncio.SelectorEventLoop):
    """A loop for code that uses no other threads or processes."""

    def __init__(self, begin: float) -> None:
        self.now = begin
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        # A float of unix seconds has no nanoseconds: with the default resolution no timer would ever be due.
        self._clock_resolution = 1e-5

    def time(self) -> float:
        return self.now


async def _at_once(function: Callable[..., Any], /, *arguments: Any, daemon: bool = False) -> Any:
    await asyncio.sleep(0)
    return function(*arguments)


@contextmanager
def time_travel(begin: float) -> Iterator[TimeTravelLoop]:
    """A loop whose clock is also `time.time`. Functions for threads run in the loop."""
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
