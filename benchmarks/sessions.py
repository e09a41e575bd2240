"""What a turn asks of the state, by its kind, and what a new session costs. `python -m benchmarks.sessions`.

A real proxy in front of the stand-in, once with a state file, and once with PostgreSQL, which logs its statements.
Times are of whole turns of one client, one after the other: the ratio to a known session is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx

from tests.e2e.world import MODEL, World, a_world, served_by, socket_turn
from tests.postgres import Server
from tests.running import key_of, member, pat

TURNS: Final = 200
IDLE: Final = 5.0  # Seconds without a turn: what the proxy asks by itself is deducted.
SETTLES: Final = 1.0  # Seconds after the last turn, within which all of it has been written.
MEMBER: Final = "ann"

STATEMENT: Final = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
KINDS: Final = {  # How a statement begins, and what it is called; the rest are others.
    "look-ups": re.compile(r"SELECT sessions\.session, .*sessions\.moves"),
    "sessions written": re.compile(r"INSERT INTO sessions"),
    "leases": re.compile(r"INSERT INTO leases|SELECT leases|UPDATE leases"),
    "transactions": re.compile(r"COMMIT"),
}
IGNORED: Final = re.compile(r"(BEGIN|ROLLBACK|SET|SHOW)\b")


class Statements:
    """Counts the statements that a server has logged."""

    def __init__(self, server: Server | None) -> None:
        self._server = server
        self._at_rest: Counter[str] = Counter()

    @property
    def are_logged(self) -> bool:
        return self._server is not None

    def all(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for statement in STATEMENT.findall(self._server.log() if self._server is not None else ""):
            if not IGNORED.match(statement):
                found[next((kind for kind, form in KINDS.items() if form.match(statement)), "others")] += 1
        return found

    def rest(self) -> None:
        """Count what is asked without a turn."""
        before = self.all()
        time.sleep(IDLE)
        self._at_rest = self.all() - before

    def since(self, before: Counter[str], seconds: float, turns: int) -> dict[str, float]:
        """Return the statements for each turn since ``before``, without those of a proxy at rest."""
        found = self.all()
        return {
            kind: max(0.0, found[kind] - before[kind] - self._at_rest[kind] * seconds / IDLE) / turns
            for kind in (*KINDS, "others")
        }


class Load:
    """Turns of one client, by kind."""

    def __init__(self, world: World, statements: Statements, turns: int) -> None:
        self._world = world
        self._statements = statements
        self._turns = turns
        self._numbers = count()

    def ratio(self) -> tuple[float, float]:
        """Return the median milliseconds of a turn of a known session, and of a new one; they take turns."""
        known, new = [], []
        with self._world.proxy.client() as client:
            self._turn(client, "known")
            for _ in range(self._turns):
                known.append(_timed(lambda: self._turn(client, "known")))
                new.append(_timed(lambda: self._turn(client, self._new())))
        return 1000 * statistics.median(known), 1000 * statistics.median(new)

    def known(self) -> dict[str, float]:
        return self._counted(self._http(lambda: "known"))

    def new(self) -> dict[str, float]:
        return self._counted(self._http(self._new))

    def of_member(self) -> dict[str, float]:
        return self._counted(self._http(lambda: "members", authorization=f"Bearer {key_of(MEMBER)}"))

    def socket(self) -> dict[str, float]:
        async def turns() -> None:
            async with self._world.socket("known") as socket:
                for _ in range(self._turns):
                    await socket_turn(socket)

        return self._counted(lambda: asyncio.run(turns()))

    def _new(self) -> str:
        return f"new-{next(self._numbers)}"

    def _http(self, session: Callable[[], str], **headers: str) -> Callable[[], None]:
        def turns() -> None:
            with self._world.proxy.client() as client:
                for _ in range(self._turns):
                    self._turn(client, session(), **headers)

        return turns

    @staticmethod
    def _turn(client: httpx.Client, session: str, **headers: str) -> None:
        served_by(
            client.post(MODEL, json={"model": "m", "input": "hello"}, headers={"thread-id": session, **headers})
        )

    def _counted(self, turns: Callable[[], None]) -> dict[str, float]:
        """Return the statements for each turn."""
        turns()  # Once before: a session becomes known, and a lease is taken.
        time.sleep(SETTLES)
        before, begun = self._statements.all(), time.monotonic()
        turns()
        time.sleep(SETTLES)
        return self._statements.since(before, time.monotonic() - begun, self._turns)


def _timed(turn: Callable[[], None]) -> float:
    begun = time.perf_counter()
    turn()
    return time.perf_counter() - begun


def worlds(folder: Path) -> Iterator[tuple[str, World, Statements]]:
    """Yield a proxy with each engine."""
    with Server(log_statement="all") as server:
        for engine, url in (("SQLite", str(folder / "state.sqlite3")), ("PostgreSQL", server.url())):
            (folder / engine).mkdir()
            bounds = {"turns_at_once": 3, "turns_a_day": 100_000}
            more: dict[str, Any] = {
                "tail": member(MEMBER, **bounds),
                "door": False,
                "environ": {"CODEXPOOL_STATE": url},
            }
            with a_world(folder / engine, pat("work"), pat("spare"), **more) as world:
                yield engine, world, Statements(server if engine == "PostgreSQL" else None)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N", help="turns of each kind (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="codexpool-bench-") as folder:
        for engine, world, statements in worlds(Path(folder)):
            load = Load(world, statements, options.turns)
            known, new = load.ratio()
            print(f"{engine}: a known session {known:.2f} ms, a new one {new:.2f} ms, ratio {new / known:.2f}")
            if not statements.are_logged:
                continue
            statements.rest()
            rows = {
                "known session": load.known(),
                "new session": load.new(),
                "member with bounds": load.of_member(),
                "WebSocket message": load.socket(),
            }
            print(f"{'statements for each turn':28}" + "".join(f"{kind:>18}" for kind in (*KINDS, "others")))
            for name, row in rows.items():
                print(f"{name:28}" + "".join(f"{number:18.2f}" for number in row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
