"""Background tasks that end with their owner, and functions whose exceptions are only logged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger("codexpool")

T = TypeVar("T")
P = ParamSpec("P")


class Tasks:
    """The tasks of one owner. (The event loop itself keeps only weak references.)"""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.are_stopped = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task; its exception is logged, and raised where it is awaited. After `stop` it is cancelled."""
        if self.are_stopped:
            work.close()
            return asyncio.get_running_loop().create_task(_cancelled())
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_error)
        return task

    def stop(self) -> None:
        self.are_stopped = True
        for task in list(self._tasks):
            task.cancel()


def harmless(keep: Callable[P, None]) -> Callable[P, None]:
    """Make a function log its exceptions instead of raising them: what only observes must not fail a request."""

    @wraps(keep)
    def kept(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            keep(*args, **kwargs)
        except Exception:
            logger.exception("%s failed; the request goes on", keep.__qualname__)

    return kept


def growing_pauses(first: float, longest: float) -> Iterator[float]:
    """Yield the seconds to wait before each retry: ``first``, doubled each time up to ``longest``."""
    pause = first
    while True:
        yield pause
        pause = min(2 * pause, longest)


async def in_thread(function: Callable[..., T], *arguments: Any, daemon: bool = False) -> T:
    """Run a function in a thread of its own, and return its result.

    codexpool does not use `asyncio.to_thread` (ruff refuses it): mitmproxy resolves host names in that pool's few
    threads, so requests would wait for our files and locks. The process waits for a thread that is no ``daemon``.
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
        with contextlib.suppress(RuntimeError):  # The loop has ended.
            loop.call_soon_threadsafe(settle, give, value)

    threading.Thread(target=run, name=f"codexpool-{getattr(function, '__name__', '')}", daemon=daemon).start()
    return await future


async def _cancelled() -> Any:
    raise asyncio.CancelledError


def _log_error(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("codexpool: %s", error, exc_info=error)
