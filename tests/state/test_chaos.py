"""Killed, cut, full, taken away: the state comes back whole, and nobody who uses it notices more than a log line."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codexpool.members.ledger import Ledger
from codexpool.pool.identity import IdentityKey
from codexpool.state import UnavailableError
from codexpool.state import writer as writing
from codexpool.state.location import SqliteFile
from codexpool.state.opening import read_spent
from codexpool.state.sqlite import SqliteState
from tests.running import ROOT
from tests.state.flushed import flushed, stored_sessions

WORK = IdentityKey("acct-work", "user-1")

PRELUDE = """
import sys, time
from pathlib import Path
from codexpool.pool.identity import IdentityKey
from codexpool.state.location import SqliteFile
from codexpool.state.sqlite import SqliteState
from tests.state.flushed import flushed, stored_sessions
path, name = Path(sys.argv[1]), sys.argv[2]
state = SqliteState(path)
def put(n):
    state.put_session(f"{name}-{n}", IdentityKey(name, str(n)), time.time())
"""

WRITES_FOREVER = (
    PRELUDE
    + """
for n in range(1_000_000):
    put(n)
    if n % 50 == 49 and flushed(state, 10):
        print(n, flush=True)
"""
)

WRITES_2000 = (
    PRELUDE
    + """
for n in range(2000):
    put(n)
    if n % 100 == 99:
        assert flushed(state, 30)
state.close()
"""
)

COUNTS_FOREVER = """
import sys
from pathlib import Path
from codexpool.members.ledger import Ledger
from codexpool.state.location import SqliteFile
from codexpool.state.sqlite import SqliteState
from tests.state.flushed import flushed, stored_sessions
state, now = SqliteState(Path(sys.argv[1])), float(sys.argv[2])
ledger = Ledger(state.put_spent)
ledger.merge(state.load().spent)
for n in range(1, 1_000_000):
    ledger.count_begun("ann", now)
    ledger.count_served("ann", "work", "m", None, now)
    if n % 50 == 0 and flushed(state, 10):
        print(ledger.turns_today("ann", now), flush=True)
"""

FILLS_THE_DISK = (
    PRELUDE
    + """
import logging, resource
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(levelname)s %(message)s")
from codexpool.state import writer
writer.RETRY = (0.05, 0.1)
put(0)
assert flushed(state, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for n in range(1, 5000):
    put(n)
assert not flushed(state, 1)
state.load(), state.changes()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert flushed(state, 20)
assert len(stored_sessions(state)) == 5000
state.close()
"""
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


def run(program: str, path: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(path), name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.23])
def test_a_killed_process_leaves_a_complete_database(path: Path, delay: float) -> None:
    process = run(WRITES_FOREVER, path, "p")
    assert process.stdout
    first = process.stdout.readline()
    time.sleep(delay)
    process.kill()
    acknowledged = [first, *process.stdout.read().splitlines()]
    process.wait(10)
    process.stdout.close()

    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with contextlib.closing(SqliteState(path)) as state:
        assert isinstance(state, SqliteState)
        sessions = stored_sessions(state)
    last = int(acknowledged[-1])
    assert {f"p-{n}" for n in range(last + 1)} <= sessions.keys()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_counting_processes_leave_exact_totals(path: Path) -> None:
    now, told = time.time(), [0]
    for _ in range(2):
        process = run(COUNTS_FOREVER, path, str(now))
        assert process.stdout
        first = process.stdout.readline()
        process.kill()
        told.append(int([first, *process.stdout.read().splitlines()][-1]))
        process.wait(10)
        process.stdout.close()
    assert 0 < told[1] < told[2]

    (kept,) = read_spent(SqliteFile(path), ["member"], "2000-01-01").values()
    with contextlib.closing(SqliteState(path)) as state:
        ledger = Ledger(state.put_spent)
        ledger.merge(state.load().spent)
    # Each may have been killed between the beginning of a turn and its end.
    assert told[2] <= kept.turns <= ledger.turns_today("ann", now) <= min(kept.turns + 2, told[2] + 50)


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    processes = [run(WRITES_2000, path, name) for name in ("a", "b", "c")]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        assert process.stdout
        process.stdout.close()
    with contextlib.closing(SqliteState(path)) as state:
        assert len(stored_sessions(state)) == 6000


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_a_full_disk_is_logged_once_and_retried(path: Path) -> None:
    process = run(FILLS_THE_DISK, path, "p")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    levels = [line.split()[0] for line in said.splitlines()]
    assert levels.count("WARNING") == 1, said
    assert said.splitlines()[-1].endswith("is written again")


def filled(path: Path) -> bytes:
    with contextlib.closing(SqliteState(path)) as state:
        for n in range(2000):
            state.put_session(f"s{n}", WORK, time.time())
    return path.read_bytes()


def broken(how: str, whole: bytes) -> bytes:
    chance = random.Random(how)
    match how:
        case "noise":
            return chance.randbytes(len(whole))
        case "text":
            return b"this is no database\n" * 500
        case "cut":
            return whole[: len(whole) // 2 + 100]
        case "a page":
            return whole[:4096] + chance.randbytes(8192) + whole[12288:]
        case _:
            return b"SQLite format 3\0" + chance.randbytes(len(whole))


@pytest.mark.parametrize("how", ["noise", "text", "cut", "a page", "header"])
def test_a_broken_database_is_kept_aside_and_a_new_one_begun(
    path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    remains = broken(how, filled(path))
    path.write_bytes(remains)

    with contextlib.closing(SqliteState(path)) as state:
        assert isinstance(state, SqliteState)
        assert stored_sessions(state) == {}
        state.put_session("new", WORK, time.time())
        assert flushed(state, 10)
        assert stored_sessions(state) == {"new": WORK}

    (aside,) = path.parent.glob("*.corrupt-*")
    assert aside.read_bytes() == remains
    assert str(aside) in caplog.text


def test_one_of_several_processes_moves_a_broken_database(path: Path) -> None:
    remains = broken("noise", filled(path))
    for _ in range(5):
        path.write_bytes(remains)
        together = threading.Barrier(4)

        def start(name: str, together: threading.Barrier = together) -> None:
            together.wait(10)
            with contextlib.closing(SqliteState(path)) as state:
                state.put_session(name, WORK, time.time())

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(start, "abcd"))

        (aside,) = path.parent.glob("*.corrupt-*")
        aside.unlink()
        with contextlib.closing(SqliteState(path)) as state:
            assert stored_sessions(state).keys() == set("abcd")


def test_an_empty_file_and_a_cut_journal_are_no_trouble(path: Path) -> None:
    path.touch()
    whole = filled(path)
    assert whole.startswith(b"SQLite")
    path.with_name(path.name + "-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(500))
    with contextlib.closing(SqliteState(path)) as state:
        assert len(stored_sessions(state)) == 2000


def test_a_database_that_is_taken_away_is_made_anew(path: Path) -> None:
    folder = path.parent / "folder"
    path = folder / path.name
    with contextlib.closing(SqliteState(path)) as mine, contextlib.closing(SqliteState(path)) as other:
        mine.put_session("before", WORK, time.time())
        assert flushed(mine, 10)
        shutil.rmtree(folder)

        for state, name in ((mine, "mine"), (other, "other")):
            state.put_session(name, WORK, time.time())
            assert flushed(state, 10)

        assert stored_sessions(other) == {"mine": WORK, "other": WORK}


def test_a_lost_disk_is_logged_once_per_direction(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "RETRY", (0.02, 0.02))
    folder = path.parent / "folder"
    state: SqliteState = SqliteState(folder / path.name)
    assert isinstance(state, SqliteState)
    shutil.rmtree(folder)
    folder.touch()

    for n in range(10):
        state.put_session(f"s{n}", WORK, time.time())
        assert state.changes().sessions == {}
        assert not flushed(state, 0.05)
    assert sum("cannot be written" in said for said in caplog.messages) == 1
    assert sum("cannot be read" in said for said in caplog.messages) == 1

    folder.unlink()
    assert flushed(state, 10)
    assert len(stored_sessions(state)) == 10
    state.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="no permission keeps root out")
def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UnavailableError, match="cannot be used"):
            SqliteState(tmp_path / "s.sqlite3")
    finally:
        tmp_path.chmod(0o700)
