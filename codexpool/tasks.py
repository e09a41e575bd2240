"""Work in the background that ends with its owner, and whose errors are heard of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger("codexpool")

T = TypeVar("T")


class Tasks:
    """The tasks of one owner. (The event loop itself holds its tasks weakly only.)"""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin with something. What it raises is logged, and raised again where the task is awaited."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_complain)
        return task

    def stop(self) -> None:
        """Cancel all that is under way."""
        for task in self._tasks:
            task.cancel()


def _complain(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("codexpool: %s", error, exc_info=error)
