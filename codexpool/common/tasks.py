"""Work in the background that ends with its owner, and whose errors are heard of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

logger = logging.getLogger("codexpool")

T = TypeVar("T")


class Tasks:
    """The tasks of one owner. (The event loop itself holds its tasks weakly only.)"""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.are_stopped = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin with something. What it raises is logged, and raised again where the task is awaited.

        After `stop` nothing begins any more: the task is a cancelled one.
        """
        if self.are_stopped:
            work.close()
            return asyncio.get_running_loop().create_task(_cancelled())
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_complain)
        return task

    def stop(self) -> None:
        """Cancel all that is under way."""
        self.are_stopped = True
        for task in list(self._tasks):
            task.cancel()


def growing_pauses(first: float, longest: float) -> Iterator[float]:
    """Yield the seconds to wait before each next try: ``first``, then twice as many each time, up to ``longest``."""
    pause = first
    while True:
        yield pause
        pause = min(2 * pause, longest)


async def in_thread(function: Callable[..., T], *arguments: Any, daemon: bool = False) -> T:
    """Return what a function gives that may take long. It runs in a thread of its own.

    `asyncio.to_thread` is not used anywhere in codexpool (ruff refuses it): mitmproxy resolves host names in the few
    threads that it takes, so requests would wait behind whatever waits for a file or a lock there. The end of the
    process waits for the thread, unless it is a ``daemon``.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(give: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            give(value)

    def run() -> None:
        try:
            give, value = future.set_result, function(*arguments)
        except BaseException as error:
            give, value = future.set_exception, error  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # The loop has ended, and nobody waits.
            loop.call_soon_threadsafe(settle, give, value)

    threading.Thread(target=run, name=f"codexpool-{getattr(function, '__name__', '')}", daemon=daemon).start()
    return await future


async def _cancelled() -> Any:
    raise asyncio.CancelledError


def _complain(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("codexpool: %s", error, exc_info=error)
