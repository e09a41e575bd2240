"""Clients that observe a proxy under load: the page, Prometheus, and a follower of events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Final

from benchmarks import load

EVERY: Final = {"/api/status": 2.0, "/api/flows?limit=50": 2.0, "/metrics": 5.0}
"""Seconds between two requests: those of the page, and of a fast Prometheus."""

BETWEEN: Final = 0.5
"""Seconds between two requests for events, as the page waits."""


class Observers:
    """Observe only while the proxy is measured, and continue in the next round: a round may last only a second."""

    def __init__(self, target: load.Target) -> None:
        self._target = target
        self._seconds = 0.0
        self._begun: float | None = None
        self._due = dict.fromkeys(EVERY, 0.1)
        self._after = 0
        self.answers = dict.fromkeys((*EVERY, "/api/events"), 0)
        """How often each was answered."""

    @contextlib.asynccontextmanager
    async def active(self) -> AsyncIterator[None]:
        """Observe as long as this lasts."""
        self._begun = time.perf_counter()
        tasks = [asyncio.create_task(self._ask_again(path)) for path in EVERY]
        tasks.append(asyncio.create_task(self._follow()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            self._seconds, self._begun = self._now, None
        for error in ended:
            if not isinstance(error, asyncio.CancelledError):
                raise RuntimeError("an observer has failed") from error

    @property
    def _now(self) -> float:
        """Seconds of observation so far."""
        return self._seconds + (time.perf_counter() - self._begun if self._begun is not None else 0.0)

    async def _ask_again(self, path: str) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._due[path] - self._now))
            self._due[path] = self._now + EVERY[path]
            await self._get(path)
            self.answers[path] += 1

    async def _follow(self) -> None:
        while True:
            body = await self._get(f"/api/events?after={self._after}&wait=20&limit=200")
            self._after = json.loads(body)["last"]
            self.answers["/api/events"] += 1
            await asyncio.sleep(BETWEEN)

    async def _get(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target.port, limit=1 << 20)
        try:
            writer.write(f"GET http://codex.pool{path} HTTP/1.1\r\nhost: codex.pool\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:16]:
                raise RuntimeError(f"{path}: {head.decode()}")
            return await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r")[0]))
        finally:
            writer.close()
