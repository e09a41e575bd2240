"""What several proxies with one PostgreSQL cost: `python -m benchmarks.fleet notifications` and `… start-up`.

``notifications`` opens the state as many proxies would, each in a process with others, on a database full of
sessions, and times how soon what one of them writes is known to all. ``start-up`` times a proxy from its start to its
first answer, and compares checkouts: ``--against`` names another one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from codexpool.pool.identity import Condition, IdentityKey, Status
from codexpool.state.location import Postgres
from tests.postgres import Server

ROOT: Final = Path(__file__).parent.parent
PER_PROCESS: Final = 10  # Proxies that share a process: their threads mostly wait.
KEY: Final = IdentityKey("acct", "user")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    notified = kinds.add_parser("notifications")
    notified.add_argument("--proxies", type=int, default=50)
    notified.add_argument("--sessions", type=int, default=100_000)
    notified.add_argument("--news", type=int, default=100, help="rows written one after the other")
    notified.add_argument("--pause", type=float, default=0.2, help="seconds between two of them")
    started = kinds.add_parser("start-up")
    started.add_argument("--against", type=Path, help="another checkout")
    started.add_argument("--rounds", type=int, default=11)
    chosen = parser.parse_args(arguments)
    if chosen.kind == "start-up":
        found: dict[str, Any] = start_up([ROOT, *([chosen.against] if chosen.against else [])], chosen.rounds)
    else:
        found = notifications(chosen.proxies, chosen.sessions, chosen.news, chosen.pause)
    json.dump(found, sys.stdout, indent=2)
    print()


def notifications(proxies: int, sessions: int, news: int, pause: float) -> dict[str, Any]:
    with Server() as server:
        url = server.url()
        filled = fill(url, sessions)
        with listeners(url, proxies) as pipes:
            from codexpool.state.postgres import PostgresState

            state, before = PostgresState(Postgres(url)), server_cpu(server)
            begun, looked_up = time.monotonic(), []
            for number in range(news):
                state.put_condition(f"f{number}", Condition(Status.LIMITED, time.monotonic(), time.time() + 60))
                time.sleep(pause)
                asked = time.monotonic()
                state.look_up([f"s{number * sessions // news}"])
                looked_up.append(time.monotonic() - asked)
            time.sleep(2)
            seconds, busy = time.monotonic() - begun, server_cpu(server) - before
            for pipe in pipes:
                pipe.send("end")
            heard = [pipe.recv() for pipe in pipes]
            delays = [delay for process in heard for delay in process["delays"]]
            state.close()
    return {
        "proxies": proxies,
        "sessions": sessions,
        "filled in seconds": round(filled, 1),
        "news": news,
        "heard, of all": round(len(delays) / (news * proxies), 4),
        "ms until known to a proxy": quantiles(delays),
        "ms of a look-up": quantiles(looked_up),
        "cpu of the server, of a core": round(busy / seconds, 3),
        "cpu of a proxy, of a core": round(sum(process["cpu"] for process in heard) / proxies / seconds, 4),
    }


def fill(url: str, sessions: int) -> float:
    from codexpool.state.postgres import PostgresState

    begun, state = time.monotonic(), PostgresState(Postgres(url))
    for number in range(sessions):
        state.put_session(f"s{number}", KEY, time.time())
        while number % 1000 == 0 and state.waiting > 20_000:
            time.sleep(0.01)
    while state.waiting:
        time.sleep(0.01)
    state.close()
    return time.monotonic() - begun


@contextmanager
def listeners(url: str, proxies: int) -> Iterator[list[Connection]]:
    """Proxies that follow the news, in processes of their own."""
    context, pipes, processes = multiprocessing.get_context("spawn"), [], []
    for first in range(0, proxies, PER_PROCESS):
        ours, theirs = context.Pipe()
        process = context.Process(target=listen, args=(url, min(PER_PROCESS, proxies - first), theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        assert pipe.recv() == "ready"
    try:
        yield pipes
    finally:
        for process in processes:
            process.join(30)
            process.kill()


def listen(url: str, proxies: int, pipe: Connection) -> None:
    """Follow the news as so many proxies. A condition says when it was put, on the clock of this machine."""
    from codexpool.state.postgres import PostgresState

    states = [PostgresState(Postgres(url)) for _ in range(proxies)]
    delays: list[float] = []
    is_over = threading.Event()

    def follow(state: PostgresState) -> None:
        state.load()
        while not is_over.is_set():
            for condition in state.changes(1.0).conditions.values():
                delays.append(time.monotonic() - condition.since)

    threads = [threading.Thread(target=follow, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    before = cpu()
    pipe.send("ready")
    pipe.recv()
    used = cpu() - before
    is_over.set()
    for thread in threads:
        thread.join()
    pipe.send({"delays": delays, "cpu": used})
    for state in states:
        state.close()


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def server_cpu(server: Server) -> float:
    """Return the seconds of processor time that the processes of the server have used."""
    ticks = 0
    for pid in server.pids():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    found = sorted(seconds)
    return {name: round(1000 * found[int(at * (len(found) - 1))], 2) for name, at in WANTED.items()}


WANTED: Final = {"median": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}


def start_up(checkouts: Sequence[Path], rounds: int) -> dict[str, Any]:
    times: dict[Path, list[tuple[float, ...]]] = {checkout: [] for checkout in checkouts}
    for number in range(rounds):
        for checkout in checkouts if number % 2 else reversed(checkouts):
            times[checkout].append(started(checkout))
    names = ("listens", "answers", "has opened the state", "cpu")
    found: dict[str, Any] = {}
    for checkout, rows in times.items():
        columns = {name: sorted(1000 * row[number] for row in rows) for number, name in enumerate(names)}
        found[str(checkout)] = {
            f"ms {name} (least, median)": (round(all_[0]), round(statistics.median(all_)))
            for name, all_ in columns.items()
        }
    return {"rounds": rounds, **found}


def started(checkout: Path) -> tuple[float, ...]:
    """Return the seconds until a proxy listens, answers, and has opened its state, and its processor time then."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        free.close()
        pool, state = Path(folder, "pool.toml"), Path(folder, "state.sqlite3")
        pool.write_text(f'[[identity]]\nname = "work"\ntoken = "at-{"x" * 40}"\n')
        pool.chmod(0o600)
        ours = {"PYTHONPATH": checkout, "CODEXPOOL_STATE": state, "CODEXPOOL_CONFIG": pool}
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1"}  # Nothing is asked of the real service.
        environ = {**os.environ, **{name: str(path) for name, path in ours.items()}, **nowhere}
        command = [str(Path(sys.executable).with_name("mitmdump")), "-q", "-s", str(checkout / "addon")]
        begun = time.monotonic()
        proxy = subprocess.Popen(
            [*command, "-p", str(port), "--set", f"confdir={folder}"],
            env=environ,
            cwd=checkout,
            stdout=subprocess.DEVNULL,
        )
        try:
            listens = until(lambda: is_open(port)) - begun
            answers = until(lambda: status(port)) - begun
            opened = until(lambda: state.exists() and state.stat().st_size > 0) - begun
            time.sleep(1)
            fields = Path(f"/proc/{proxy.pid}/stat").read_text().rpartition(")")[2].split()
            return listens, answers, opened, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        finally:
            proxy.terminate()
            proxy.wait(30)


def until(holds: Any) -> float:
    end = time.monotonic() + 30
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.002)
    return time.monotonic()


def is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def status(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{port}"}))
    try:
        with opener.open("http://codex.pool/api/status", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
