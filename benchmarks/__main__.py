"""Runs both sides in one go, in turn, and prints what the addon costs as ratios.

Every row is measured in rounds, both sides alternating, and the medians are compared: throughput and time of the
wall, and the processor time that the proxy itself took, which a busy machine disturbs least. First a bare mitmdump is
compared with one that has the addon; then the addon alone with one that writes events into a file and is observed by
a page, a Prometheus and a follower of events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import load, own
from benchmarks.observers import Observers

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")


class Proxy:
    """A mitmdump, bare or with the addon."""

    def __init__(self, name: str, upstream: dict[str, Any], folder: Path, *arguments: str) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        confdir = folder / "mitmproxy"
        command = [
            str(Path(sys.executable).with_name("mitmdump")),
            *("-p", "0", "--listen-host", "127.0.0.1", "--mode", f"upstream:http://127.0.0.1:{upstream['port']}"),
            *("--set", f"confdir={confdir}", "--set", f"ssl_verify_upstream_trusted_ca={upstream['ca']}"),
            *("--set", "http2=false", "--set", "flow_detail=0"),
            *arguments,
        ]
        environ = {**os.environ, "CODEXPOOL_STATE": str(folder / "state.sqlite3"), "PYTHONUNBUFFERED": "1"}
        begun = time.perf_counter()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, stdin=subprocess.DEVNULL)
        port = self._says(r"listening at 127\.0\.0\.1:(\d+)")
        self.start_up = time.perf_counter() - begun
        ca = confdir / "mitmproxy-ca-cert.pem"
        self.target = load.Target(int(port), ssl.create_default_context(cafile=str(ca)))

    def _says(self, pattern: str) -> str:
        deadline = time.monotonic() + 30
        while not (match := re.search(pattern, self._log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.002)
        return match[1] if match.groups() else match[0]

    def ready(self) -> None:
        """Wait until its identities serve."""
        self._says("is ready")

    @property
    def cpu(self) -> float:
        """Seconds of processor time it has taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    @property
    def memory(self) -> float:
        """MiB it has in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


Measure = Callable[[load.Target], Awaitable[float]]


class Bench:
    """Measures and prints the rows of a table: what the second proxy costs beyond the first.

    ``observers`` observe the second one while it is measured.
    """

    def __init__(self, first: Proxy, second: Proxy, rounds: int, observers: Observers | None = None) -> None:
        self.first, self.second, self.rounds, self.observers = first, second, rounds, observers
        print(f"{'':44} {first.name:>10} {second.name:>10} {'':9} {'wall':>7} {'cpu':>7}   (1.0: no cost)")

    async def row(self, title: str, measure: Measure, work: int = 0, unit: str = "s") -> None:
        """Print a row. ``measure`` gives seconds; with ``work`` they are shown as work per second."""
        walls: tuple[list[float], list[float]] = ([], [])
        cpus: tuple[list[float], list[float]] = ([], [])
        for round_ in range(self.rounds + 1):
            for side, proxy in enumerate((self.first, self.second)):
                before = proxy.cpu
                async with self.observers.active() if self.observers is not None and side else nullcontext():
                    seconds = await measure(proxy.target)
                if round_:  # The first one warms up.
                    walls[side].append(seconds)
                    cpus[side].append(proxy.cpu - before)
        first, second = map(statistics.median, walls)
        if work:
            values = f"{work / first:10.0f} {work / second:10.0f} {unit:9}"
        else:
            values = f"{first * 1000:10.2f} {second * 1000:10.2f} {'ms':9}"
        wall = statistics.median(b / a for a, b in zip(*walls, strict=True))
        print(f"{title:44} {values} {1 / wall:7.3f} {self._ratio(*map(sum, cpus))}", flush=True)

    @staticmethod
    def _ratio(first: float, second: float) -> str:
        return f"{first / second:7.3f}" if first > 0.05 and second > 0.05 else "      -"


async def rows(bench: Bench, scale: float) -> None:
    """All rows but start-up and memory."""
    for path, what in ((load.SWAPPED, "swapped"), (load.OWN, "own")):
        for clients in (1, 10, 100):
            count = max(clients, int(1000 * scale))
            count -= count % clients
            await bench.row(
                f"small requests, {what}, {clients} clients",
                partial(load.small_requests, path=path, clients=clients, requests=count),
                count,
                "/s",
            )
    for clients in (1, 10, 100):
        await bench.row(
            f"first byte of a stream, {clients} clients",
            partial(first_byte, clients=clients),
        )
    for clients in (1, 10, 100):
        events = max(20, int(6000 * scale) // clients)
        await bench.row(
            f"SSE events, {clients} streams",
            partial(last_byte, clients=clients, events=events),
            events * clients,
            "events/s",
        )
    for clients in (1, 10, 100):
        messages = max(20, int(6000 * scale) // clients)
        await bench.row(
            f"WebSocket messages, {clients} sockets",
            partial(load.websocket, clients=clients, messages=messages),
            messages * clients,
            "msgs/s",
        )


async def rows_while_observed(bench: Bench, scale: float) -> None:
    """What it costs to be observed."""
    for clients in (1, 10, 100):
        count = max(clients, int(3000 * scale))
        count -= count % clients
        await bench.row(
            f"small requests, observed, {clients} clients",
            partial(load.small_requests, path=load.SWAPPED, clients=clients, requests=count),
            count,
            "/s",
        )
    events, messages = max(20, int(2000 * scale)), max(20, int(2000 * scale))
    await bench.row(
        "SSE events, observed, 10 streams", partial(last_byte, clients=10, events=events), events * 10, "events/s"
    )
    await bench.row(
        "WebSocket messages, observed, 10 sockets",
        partial(load.websocket, clients=10, messages=messages),
        messages * 10,
        "msgs/s",
    )
    assert bench.observers is not None
    answered = ", ".join(f"{path.partition('?')[0]} {count}" for path, count in bench.observers.answers.items())
    print(f"answers to the observers meanwhile: {answered}")


async def first_byte(target: load.Target, clients: int) -> float:
    return (await load.streams(target, clients, 2, 0.01))[0]


async def last_byte(target: load.Target, clients: int, events: int) -> float:
    return (await load.streams(target, clients, events))[1]


async def memory(bench: Bench, messages: int) -> None:
    """What a long WebSocket leaves in memory."""
    for proxy in (bench.first, bench.second):
        before = proxy.memory
        await load.websocket(proxy.target, 1, messages)
        print(f"memory after {messages} messages, {proxy.name:5}: {proxy.memory - before:+8.1f} MiB", flush=True)


def pool_toml(folder: Path, *names: str) -> Path:
    path = folder / f"{'-'.join(names)}.toml"
    path.touch(mode=0o600)
    tables = (f'[[identity]]\nname = "{name}"\ntoken = "at-test-{name}-0123456789abcdef"\n' for name in names)
    path.write_text("".join(tables))
    return path


def with_addon(folder: Path, *names: str) -> tuple[str, ...]:
    return ("-s", str(ROOT / "addon"), "--set", f"codexpool_config={pool_toml(folder, *names)}")


def start_up(upstream: dict[str, Any], folder: Path, rounds: int) -> None:
    """Milliseconds until the proxy listens."""
    times: dict[str, list[float]] = {"bare": [], "addon": []}
    for round_ in range(rounds + 1):
        for name, arguments in (("bare", ()), ("addon", with_addon(folder, "work"))):
            proxy = Proxy(name, upstream, folder, *arguments)
            if round_:
                times[name].append(proxy.start_up * 1000)
            proxy.stop()
    bare, addon = (statistics.median(times[name]) for name in ("bare", "addon"))
    print(f"start-up until it listens: {bare:.0f} ms, {addon:.0f} ms with the addon: {addon - bare:+.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each row (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much work a row is (1.0)")
    parser.add_argument("--messages", type=int, default=100_000, help="messages of the memory row (100000)")
    parser.add_argument("--only", choices=("addon", "observed"), help="one of the two comparisons (both)")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(cores) > 1:  # The proxy has a core of its own; upstream and load share another one.
            os.sched_setaffinity(0, {cores[1]})
        up = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.upstream", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            assert up.stdout is not None
            upstream = json.loads(up.stdout.readline())
            run(upstream, folder, options, cores)
        finally:
            up.kill()
            up.wait()


STREAMING = ("--set", "stream_large_bodies=100")
"""For the bare side: without it mitmproxy keeps a stream until its end. Answers above 100 bytes are streamed then;
the small requests of these rows have shorter bodies."""


def run(upstream: dict[str, Any], folder: Path, options: argparse.Namespace, cores: list[int]) -> None:
    own.report()
    if options.only != "observed":
        start_up(upstream, folder, options.rounds)
        bare = Proxy("bare", upstream, folder, *STREAMING)
        addon = Proxy("addon", upstream, folder, *with_addon(folder, "work"))
        with running(cores, bare, addon):
            bench = Bench(bare, addon, options.rounds)
            asyncio.run(rows(bench, options.scale))
            asyncio.run(memory(bench, options.messages))
    if options.only != "addon":
        arguments = with_addon(folder, "work")
        observed = Proxy("observed", upstream, folder, *arguments, "--set", f"codexpool_events={folder}/events")
        addon = Proxy("addon", upstream, folder, *arguments)
        with running(cores, addon, observed):
            bench = Bench(addon, observed, options.rounds, Observers(observed.target))
            asyncio.run(rows_while_observed(bench, options.scale))
        lines = (folder / "events").read_bytes().count(b"\n")
        print(f"events in the file: {lines}")


@contextmanager
def running(cores: list[int], *proxies: Proxy) -> Iterator[None]:
    """Proxies on a core of their own, with all their threads, until this ends."""
    try:
        for proxy in proxies:
            if proxy.name != "bare":
                proxy.ready()
            for thread in Path(f"/proc/{proxy.process.pid}/task").iterdir() if cores else ():
                os.sched_setaffinity(int(thread.name), {cores[0]})
        yield
    finally:
        for proxy in proxies:
            proxy.stop()


if __name__ == "__main__":
    main()
