"""Measures rows in rounds. The sides take turns in varying order, so a disturbance affects all of them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from benchmarks.progress import Progress
from benchmarks.results import Result, Sample
from benchmarks.rows import Row, Size
from benchmarks.sides import BenchError, Process, Side

T = TypeVar("T")


async def measure(row: Row, sides: Sequence[Side], size: Size, watched: Watched, result: Result) -> None:
    """Measure a row: a warm-up round if it needs one, then the rounds that are added to ``result``."""
    taking_part = [side for side in sides if row.is_for(side)]
    for round_ in range(0 if row.warms_up else 1, size.rounds + 1):
        samples: dict[str, Sample] = {}
        for side in in_order(taking_part, round_):
            watched.progress.shows(f"{row.name}, {side.name}, round {round_} of {size.rounds}")
            samples[side.name] = await watched.sample(row, side, size.seconds if round_ else size.warm_up)
        if round_:
            row.derive(samples)
            for side in taking_part:
                result.add(side.name, samples[side.name])


def in_order(sides: Sequence[T], round_: int) -> list[T]:
    """Return the sides in the order of a round. Over the rounds, each comes first, and next to each other one."""
    first = round_ % len(sides) if sides else 0
    turned = [*sides[first:], *sides[:first]]
    return turned[::-1] if (round_ // max(1, len(sides))) % 2 else turned


class Watched:
    """Measures a side, and explains a failure."""

    def __init__(self, processes: Sequence[Process], progress: Progress) -> None:
        self._processes = processes
        self.progress = progress

    async def sample(self, row: Row, side: Side, seconds: float) -> Sample:
        """Measure once, and wait until the proxy is idle. Raises BenchError."""
        with self.explained(row.name, side):
            async with asyncio.timeout(120), side.observed():
                sample = await row.sample(side, seconds)
        if side.proxy is not None:
            await side.proxy.settle()
        return sample

    @contextmanager
    def explained(self, what: str, side: Side) -> Iterator[None]:
        """Turn an error into a BenchError: which process has ended, or the last output of the side's proxy."""
        try:
            yield
        except (OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
            why, said = f"{type(error).__name__}: {error}", side.proxy.last_lines() if side.proxy is not None else ""
            for process in self._processes:
                if process.has_ended:
                    why, said = f"{process.name} {process.exit_text()}", process.last_lines()
            raise BenchError(f"{what}, {side.name}: {why}. {said}") from error
