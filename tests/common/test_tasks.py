"""What is begun ends with its owner, and nobody waits in a place that others need."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from codexpool.common.tasks import Tasks, in_thread


async def test_nothing_begins_after_the_end() -> None:
    tasks, done = Tasks(), []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    running = tasks.spawn(work())
    tasks.stop()
    late = tasks.spawn(work())
    for task in (running, late):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert done == []


async def test_an_error_in_the_background_is_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise RuntimeError("lost otherwise")

    task = Tasks().spawn(work())
    with pytest.raises(RuntimeError):
        await task
    await asyncio.sleep(0)
    assert "lost otherwise" in caplog.text


async def test_what_takes_long_keeps_no_thread_that_others_need() -> None:
    release = threading.Event()
    slow = [asyncio.create_task(in_thread(release.wait, 10)) for _ in range(40)]
    begun = time.monotonic()
    await asyncio.to_thread(time.sleep, 0)  # what mitmproxy looks host names up in
    assert time.monotonic() - begun < 5
    release.set()
    assert await asyncio.gather(*slow) == [True] * 40


async def test_an_exception_in_a_thread_reaches_the_awaiter() -> None:
    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await in_thread(broken)
