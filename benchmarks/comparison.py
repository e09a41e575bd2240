"""One comparison: starts the sides, and measures row after row."""

from __future__ import annotations

import argparse
import fnmatch
import gc
import os
import platform
import ssl
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mitmproxy import version

from benchmarks import memory, rows
from benchmarks.memory import MemoryRow
from benchmarks.observers import Observers
from benchmarks.progress import Progress
from benchmarks.report import Report
from benchmarks.results import DIRECT, Result
from benchmarks.rounds import Watched, in_order, measure
from benchmarks.rows import Row, Size
from benchmarks.sides import ADDON, BARE, OBSERVED, Cores, Proxy, Side, Upstream, command_of
from codexpool.cli.processes import Children


class Comparison:
    """The sides, their processes, the selected rows, and the results so far."""

    def __init__(self, options: argparse.Namespace, size: Size, folder: Path, children: Children) -> None:
        self.options, self.size = options, size
        self._folder, self._children = folder, children
        self._cores = Cores.chosen()
        names = [ADDON, OBSERVED] if options.observed else options.sides
        self.report = Report(names, size.rounds, environment(), {**vars(options), **vars(size)})
        self._rows = [row for row in (rows.observed() if options.observed else rows.compared()) if self._wants(row)]
        self._others = (
            [] if options.observed else [n for n in (rows.START_UP, memory.START, memory.END) if self._wants(n)]
        )
        self._first, self._last = (
            [] if options.observed else [row for row in some if self._wants(row)]
            for some in (memory.first(size), memory.last(size))
        )
        self.progress = Progress(self.expected())

    def _wants(self, row: Row | MemoryRow | str) -> bool:
        name, pattern = row if isinstance(row, str) else row.name, self.options.only
        return pattern is None or fnmatch.fnmatch(name.lower(), f"*{pattern.lower()}*")

    @property
    def is_empty(self) -> bool:
        """Whether no row is selected."""
        return not (self._rows or self._others or self._first or self._last)

    def expected(self) -> float:
        """Estimate the seconds that everything takes, with the speed of the slowest side."""
        size, sides = self.size, len(self.report.sides)
        seconds = 2.0 * sides
        for row in self._rows:
            one = 0.15 + 0.006 * row.clients
            seconds += sides * (size.rounds * (size.seconds + one) + row.warms_up * (size.warm_up + one))
        for memory_row in (*self._first, *self._last):
            seconds += memory_row.count * memory_row.slowness * sides
        if rows.START_UP in self._others:
            seconds += (size.rounds + 1) * 1.3 * sides
        return seconds

    async def run(self) -> None:
        """Measure everything. Raises BenchError."""
        self._cores.pin_load()
        upstream = Upstream(self._children, self._folder)
        if rows.START_UP in self._others:
            self._start_up(upstream)
        sides = [self._side(name, upstream) for name in self.report.sides]
        proxies = [side.proxy for side in sides if side.proxy is not None]
        watched = Watched([upstream, *proxies], self.progress)
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)
        self._memory(sides, memory.START)
        await self._use_memory(self._first, sides, watched)
        for row in self._rows:
            await measure(row, sides, self.size, watched, self._result(row.name, row.unit, row.saturates))
        await self._use_memory(self._last, sides, watched)
        self._memory(sides, memory.END)
        if self.options.observed:
            self._note_observations(sides)

    def _result(self, name: str, unit: str = "", saturates: bool = False) -> Result:
        result = Result(name, unit, saturates)
        self.report.results.append(result)
        return result

    def _side(self, name: str, upstream: Upstream) -> Side:
        if name == DIRECT:
            return Side(name, upstream.target())
        self.progress.shows(f"starting {name}")
        proxy = self._started(name, upstream)
        if name != BARE:
            proxy.wait_for(r"(?s)is ready.*is ready")  # Both identities.
        target = proxy.target()
        return Side(name, target, proxy, Observers(target) if name == OBSERVED else None)

    def _started(self, name: str, upstream: Upstream) -> Proxy:
        folder = self._folder / name
        command = command_of(name, folder, upstream, self.options.flow_detail)
        return Proxy(self._children, self._cores, name, folder, command)

    def _start_up(self, upstream: Upstream) -> None:
        """Measure how long each proxy takes until it listens. The first start makes its certificates."""
        result = self._result(rows.START_UP)
        for round_ in range(self.size.rounds + 1):
            for name in in_order([side for side in self.report.sides if side != DIRECT], round_):
                self.progress.shows(f"{rows.START_UP}, {name}, round {round_} of {self.size.rounds}")
                proxy = self._started(name, upstream)
                if round_:
                    result.add(name, {"start_up": proxy.start_up * 1e3, "start_cpu": proxy.start_cpu * 1e3})
                proxy.end()

    def _memory(self, sides: Sequence[Side], name: str) -> None:
        if name in self._others:
            result = self._result(name)
            for side in sides:
                if side.proxy is not None:
                    result.add(side.name, {"memory": side.proxy.memory})

    async def _use_memory(self, memory_rows: Sequence[MemoryRow], sides: Sequence[Side], watched: Watched) -> None:
        for row in memory_rows:
            await row.measure(sides, watched, self._result(row.name, row.unit))

    def _note_observations(self, sides: Sequence[Side]) -> None:
        observers = next(side.observers for side in sides if side.observers is not None)
        answered = ", ".join(f"{path.partition('?')[0]} {count}" for path, count in observers.answers.items())
        events = (self._folder / OBSERVED / "events").read_bytes().count(b"\n")
        self.report.notes += [f"answers to the observers meanwhile: {answered}", f"events in the file: {events}"]


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "codexpool": metadata.version("codexpool"),
        "mitmproxy": version.VERSION,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "platform": platform.platform(),
        "processor": cpu.partition(": ")[2],
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }
