"""What is compared: the upstream without a proxy, a bare mitmdump, one with the addon, and `codexpool run`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.load import Meter, Target
from benchmarks.observers import Observers
from benchmarks.results import DIRECT
from codexpool.cli.processes import Children

ROOT: Final = Path(__file__).resolve().parent.parent

BARE, ADDON, RUN, OBSERVED = "bare", "addon", "run", "observed"
COMPARED: Final = (BARE, ADDON, RUN, DIRECT)

STREAMING: Final = ("--set", "stream_large_bodies=100")
"""For the bare side: without it mitmproxy keeps a stream until its end. Bodies above 100 bytes are streamed then;
the answers to small requests have shorter ones."""


class BenchError(Exception):
    """A process of the benchmark cannot go on. The text says why."""


class Cores(NamedTuple):
    """The proxies have one core; load and upstream share another one. None where there is only one."""

    proxy: int | None
    load: int | None

    @classmethod
    def chosen(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1]) if len(cores) > 1 else cls(None, None)

    @contextmanager
    def for_proxies(self) -> Iterator[None]:
        """Start processes on the proxies' core within the block."""
        if self.proxy is not None:
            os.sched_setaffinity(0, {self.proxy})
        try:
            yield
        finally:
            self.pin_load()

    def pin_load(self) -> None:
        """Run this process, and what it starts, on the other core."""
        if self.load is not None:
            os.sched_setaffinity(0, {self.load})


class Process:
    """A process that writes its output to a file."""

    def __init__(self, children: Children, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path):
        self.name = name
        self._log = log
        self._children = children
        with log.open("wb") as file:
            self._process = children.start(
                command, environ={**os.environ, **environ}, folder=ROOT, out=file, err=file
            )

    def wait_for(self, pattern: str, seconds: float = 30) -> str:
        """Wait for output that matches; return the last group, or the match. Raises BenchError."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self._log.read_text(errors="replace"))):
            if self.has_ended or time.monotonic() > deadline:
                what = self.exit_text() if self.has_ended else f"has not printed {pattern!r} within {seconds:.0f} s"
                raise BenchError(f"{self.name} {what}. {self.last_lines()}")
            time.sleep(0.002)
        return match[match.lastindex or 0]

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def exit_text(self) -> str:
        return f"has ended with exit code {self._process.poll()}"

    def last_lines(self, count: int = 15) -> str:
        """Return the last lines of its output, for an error message."""
        lines = self._log.read_text(errors="replace").splitlines()[-count:]
        return "The last lines of its log:\n" + "\n".join(lines) if lines else "Its log is empty."

    @property
    def cpu(self) -> float:
        """Seconds of processor time that all of its threads have taken."""
        return time.clock_gettime((~self._process.pid << 3) | 2)  # CPUCLOCK_SCHED, as in clock_getcpuclockid(3)

    @property
    def memory(self) -> float:
        """Resident memory, in MiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self) -> None:
        self._children.end(self._process)


class Upstream(Process):
    """The process that stands in for the backend."""

    def __init__(self, children: Children, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.upstream", str(folder)]
        super().__init__(children, "the upstream", command, {"PYTHONPATH": str(ROOT)}, folder / "upstream.log")
        said = json.loads(self.wait_for(r'(?m)^(\{"port": .*\})$'))
        self.port, self.ca = int(said["port"]), str(said["ca"])

    def target(self) -> Target:
        """Return the target of a client that uses no proxy."""
        return Target(self.port, ssl.create_default_context(cafile=self.ca))


class Proxy(Process):
    """A mitmdump, bare or with the addon, or a `codexpool run`. The constructor returns when it listens."""

    def __init__(self, children: Children, cores: Cores, name: str, folder: Path, command: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        environ = {
            "CODEXPOOL_STATE": str(folder / "state.sqlite3"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        }
        begun = time.perf_counter()
        with cores.for_proxies():
            super().__init__(children, name, command, environ, folder / "log")
        self._port = int(self.wait_for(r"listening at 127\.0\.0\.1:(\d+)"))
        self.start_up = time.perf_counter() - begun
        self.start_cpu = self.cpu
        self._ca = folder / "mitmproxy/mitmproxy-ca-cert.pem"
        if name != BARE:
            self.wait_for("is ready")

    def target(self) -> Target:
        return Target(self._port, ssl.create_default_context(cafile=str(self._ca)))

    async def settle(self) -> None:
        """Wait until it is idle, for three seconds at most."""
        for _ in range(100):
            before = self.cpu
            await asyncio.sleep(0.03)
            if self.cpu - before < 0.002:
                return


def command_of(name: str, folder: Path, upstream: Upstream, flow_detail: int) -> list[str]:
    """Return the command line of a side. All sides have the same upstream and mitmproxy's defaults."""
    folder.mkdir(exist_ok=True)
    tool = "codexpool" if name == RUN else "mitmdump"
    command = [str(Path(sys.executable).with_name(tool)), *(("run",) if name == RUN else ())]
    if name in (ADDON, OBSERVED):
        command += ["-s", str(ROOT / "addon")]
    command += ["-p", "0", "--listen-host", "127.0.0.1", "--mode", f"upstream:http://127.0.0.1:{upstream.port}"]
    command += ["--set", f"confdir={folder}/mitmproxy", "--set", f"ssl_verify_upstream_trusted_ca={upstream.ca}"]
    command += ["--set", f"flow_detail={flow_detail}"]
    if name == BARE:
        return [*command, *STREAMING]
    command += ["--set", f"codexpool_config={_pool_toml(folder)}"]
    return [*command, "--set", f"codexpool_events={folder}/events"] if name == OBSERVED else command


def _pool_toml(folder: Path) -> Path:
    """Write a pool of two identities: the second one serves what the first is refused."""
    path = folder / "pool.toml"
    path.touch(mode=0o600)
    tables = (f'[[identity]]\nname = "{name}"\ntoken = "at-test-{name}-0123456789abcdef"\n' for name in ("a", "b"))
    path.write_text("".join(tables))
    return path


@dataclass
class Side:
    """One column: where the load goes, and the proxy that is measured (none for ``direct``)."""

    name: str
    target: Target
    proxy: Proxy | None = None
    observers: Observers | None = None

    def meter(self, seconds: float) -> Meter:
        return Meter(seconds, lambda: self.proxy.cpu if self.proxy is not None else 0.0)

    def observed(self) -> AbstractAsyncContextManager[None]:
        """Observe the proxy within the block, if it has observers."""
        return self.observers.active() if self.observers is not None else nullcontext()
