"""Compare bare mitmdump, `mitmdump -s addon` and `codexpool run` in one go.

Every row is measured in rounds in which the sides take turns, and the medians are compared. The proxies have one
core, load and upstream share another one. Ratios come first: more than 1 is better than bare mitmdump.
docs/performance.md explains the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import gc
import json
import os
import platform
import ssl
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mitmproxy import version

from benchmarks import load, own, rows
from benchmarks.observers import Observers
from benchmarks.progress import Progress, clock
from benchmarks.report import Report, as_document, as_markdown, as_text
from benchmarks.results import DIRECT, Result
from benchmarks.rounds import Watched, measure
from benchmarks.rows import FULL, SHORT, Row, Size
from benchmarks.sides import ADDON, BARE, COMPARED, OBSERVED, BenchError, Cores, Proxy, Side, Upstream, command_of
from codexpool.cli.processes import Children, InterruptedBySignal, Signals


class Bench:
    """One comparison: its sides, their processes, and what was measured so far."""

    def __init__(self, options: argparse.Namespace, size: Size, folder: Path, children: Children) -> None:
        self.options, self.size = options, size
        self._folder, self._children = folder, children
        self._cores = Cores.chosen()
        names = (ADDON, OBSERVED) if options.observed else options.sides
        self.report = Report(list(names), size.rounds, environment(), settings(options, size))
        chosen = rows.observed() if options.observed else rows.compared()
        self._rows = [row for row in chosen if self._wants(row.name)]
        self.progress = Progress(self.expected())

    def _wants(self, name: str) -> bool:
        pattern = self.options.only
        return pattern is None or fnmatch.fnmatch(name.lower(), f"*{pattern.lower()}*")

    def _memory_rows(self) -> tuple[str, str]:
        return rows.growth_by_messages(self.size.messages), rows.growth_by_requests(self.size.requests)

    def expected(self) -> float:
        """Estimate the seconds that all of it takes, on the slowest side's account."""
        size, sides = self.size, len(self.report.sides)
        seconds = 2.0 * sides
        for row in self._rows:
            one = 0.15 + 0.006 * row.clients
            seconds += sides * (size.rounds * (size.seconds + one) + row.warms_up * (size.warm_up + one))
        if not self.options.observed:
            by_messages, by_requests = map(self._wants, self._memory_rows())
            seconds += by_messages * size.messages / 1_000 + by_requests * size.requests * sides / 700
            seconds += self._wants(rows.START_UP) * (size.rounds + 1) * 1.3 * sides
        return seconds

    async def run(self) -> None:
        """Measure everything. Raises BenchError."""
        self._cores.pin_load()
        upstream = Upstream(self._children, self._folder)
        if self._wants(rows.START_UP) and not self.options.observed:
            self._start_up(upstream)
        sides = [self._side(name, upstream) for name in self.report.sides]
        proxies = [side.proxy for side in sides if side.proxy is not None]
        watched = Watched([upstream, *proxies], self.progress)
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)
        if not self.options.observed:
            self._memory(sides, rows.MEMORY_START)
        for row in self._rows:
            await measure(row, sides, self.size, watched, self._result(row))
        if self.options.observed:
            self._say_what_was_observed(sides)
        else:
            await self._growth(sides, watched)
            self._memory(sides, rows.MEMORY_END)

    def _result(self, row: Row) -> Result:
        result = Result(row.name, row.unit, row.saturates)
        self.report.results.append(result)
        return result

    def _side(self, name: str, upstream: Upstream) -> Side:
        if name == DIRECT:
            return Side(name, upstream.target())
        self.progress.shows(f"starting {name}")
        proxy = self._started(name, upstream)
        if name != BARE:
            proxy.says(r"(?s)is ready.*is ready")  # Both identities.
        target = proxy.target()
        return Side(name, target, proxy, Observers(target) if name == OBSERVED else None)

    def _started(self, name: str, upstream: Upstream) -> Proxy:
        folder = self._folder / name
        command = command_of(name, folder, upstream, self.options.flow_detail)
        return Proxy(self._children, self._cores, name, folder, command)

    def _start_up(self, upstream: Upstream) -> None:
        """Measure how long each proxy takes until it listens. The first start makes its certificates."""
        result = Result(rows.START_UP)
        self.report.results.append(result)
        for round_ in range(self.size.rounds + 1):
            for name in (side for side in self.report.sides if side != DIRECT):
                self.progress.shows(f"{rows.START_UP}, {name}, round {round_} of {self.size.rounds}")
                proxy = self._started(name, upstream)
                if round_:
                    result.add(name, {"start_up": proxy.start_up * 1e3, "start_cpu": proxy.start_cpu * 1e3})
                proxy.end()

    def _memory(self, sides: Sequence[Side], name: str) -> None:
        if self._wants(name):
            result = Result(name)
            self.report.results.append(result)
            for side in sides:
                if side.proxy is not None:
                    result.add(side.name, {"memory": side.proxy.memory})

    async def _growth(self, sides: Sequence[Side], watched: Watched) -> None:
        """Measure what a long session and many requests leave in memory."""
        by_messages, by_requests = (Result(name) for name in self._memory_rows())
        for result in (by_messages, by_requests):
            if not self._wants(result.name):
                continue
            self.report.results.append(result)
            for side in sides:
                if side.proxy is None:
                    continue
                self.progress.shows(f"{result.name}, {side.name}")
                before = side.proxy.memory
                try:
                    if result is by_messages:
                        async with load.long_socket(side.target, self.size.messages):
                            after = side.proxy.memory
                    else:
                        await load.so_many_requests(side.target, self.size.requests)
                        after = side.proxy.memory
                except (OSError, EOFError, RuntimeError) as error:
                    raise watched.failure(f"{result.name}, {side.name}", side, error) from error
                result.add(side.name, {"growth": after - before})
                await side.proxy.settle()

    def _say_what_was_observed(self, sides: Sequence[Side]) -> None:
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


def settings(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    return {**vars(options), "rounds": size.rounds, "seconds": size.seconds}


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="measure everything in about two minutes, roughly")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="counted rounds of each row (5; short: 1)")
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name contains PATTERN, which may have * and ?")
    parser.add_argument(
        "--sides",
        type=_sides,
        default=list(COMPARED),
        metavar="LIST",
        help=f"what to compare with the first one ({','.join(COMPARED)})",
    )
    parser.add_argument("--observed", action="store_true", help="compare the addon with the addon that is observed")
    parser.add_argument("--flow-detail", type=int, default=0, metavar="N", help="mitmdump's, for all sides (0)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON document")
    shown.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def _sides(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(COMPARED):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


def main() -> int:
    """Run the benchmark; return the exit code: 1 after a failure, 2 for wrong usage (of argparse)."""
    options = parsed()
    if not sys.platform.startswith("linux"):
        print("the benchmark reads /proc and pins processes to cores: it needs Linux", file=sys.stderr)
        return 1
    size = SHORT if options.short else FULL
    size = Size(**{**vars(size), "rounds": options.rounds or size.rounds})
    with (
        tempfile.TemporaryDirectory(prefix="codexpool-bench-") as folder,
        Signals() as signals,
        Children(signals) as children,
    ):
        return run(Bench(options, size, Path(folder), children))


def run(bench: Bench) -> int:
    """Run a comparison, and print what was measured, even if it fails or is interrupted."""
    options, report = bench.options, bench.report
    print(f"this takes about {clock(bench.expected())} minutes; Ctrl-C prints what there is", file=sys.stderr)
    code = 0
    try:
        if options.only is None and not options.observed:
            with contextlib.redirect_stdout(sys.stderr if options.json or options.markdown else sys.stdout):
                own.report()
        asyncio.run(bench.run())
    except InterruptedBySignal as signal:
        report.interrupted, code = True, int(str(signal.code))
    except BenchError as failure:
        bench.progress.ends()
        print(f"error: {failure}", file=sys.stderr)
        report.interrupted, code = True, 1
    bench.progress.ends()
    if not report.results and not code:
        print(f"no row's name contains {options.only!r}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_document(report), indent=2))
    else:
        print(as_markdown(report) if options.markdown else as_text(report))
    return code


if __name__ == "__main__":
    sys.exit(main())
