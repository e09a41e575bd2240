"""PostgreSQL stopped, hung, full, crowded, connections killed: nothing that was put is lost, and nothing hangs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from codexpool.pool.identity import Condition, IdentityKey, Status
from codexpool.state import UnavailableError, postgres_server
from codexpool.state import writer as writing
from codexpool.state.location import Postgres
from codexpool.state.news import next_revision
from codexpool.state.postgres import PostgresState
from tests import postgres
from tests.state.flushed import flushed, stored_sessions

WORK = IdentityKey("acct-work", "user-1")
LIMITED = Condition(Status.LIMITED, 1.0, 2.0)

pytestmark = pytest.mark.skipif(postgres.binaries() is None, reason="needs PostgreSQL: apt-get install postgresql")


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    with postgres.Server() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "RETRY", (0.1, 0.5))
    monkeypatch.setattr(postgres_server, "ANSWER", 1.5)


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def writing_all_the_time(state: PostgresState) -> Iterator[set[str]]:
    """Put sessions, some of which move, until the end; a proxy polls meanwhile. Gives the names of the sessions."""
    put: set[str] = set()
    is_over = threading.Event()

    def write() -> None:
        while not is_over.wait(0.002):
            name = f"s{len(put)}"
            state.put_session(name, WORK, time.time(), moves=len(put) % 2)
            put.add(name)

    def poll() -> None:
        while not is_over.wait(0.01):
            state.changes(0.2)

    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(write), threads.submit(poll)]
        try:
            yield put
        finally:
            is_over.set()
            for one in done:
                one.result(30)


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.mark.parametrize("how", ["stopped", "crashed", "hung"])
def test_what_is_put_without_the_server_is_written_when_it_is_back(
    server: postgres.Server, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with closing(PostgresState(Postgres(server.url()))) as state:
        with writing_all_the_time(state) as put:
            until(lambda: len(put) > 20)
            if how == "hung":
                server.freeze()
            else:
                server.stop() if how == "stopped" else server.stop(signal.SIGQUIT)
            until(lambda: not state.is_connected)
            with pytest.raises(UnavailableError):
                state.look_up(["s1"])
            before = len(put)
            until(lambda: len(put) > before + 100)  # Nothing that puts waits.
            assert state.waiting > 100

            server.thaw() if how == "hung" else server.start()

            until(lambda: state.is_connected)
            until(lambda: "is written again" in caplog.text)
        assert flushed(state, 30)
        assert stored_sessions(state).keys() == put
    # Once for reading, once for writing, and the same again if it broke while it came back.
    assert len(logged(caplog, logging.WARNING)) <= 4, caplog.text


def test_other_proxies_learn_of_what_was_put_without_the_server(server: postgres.Server) -> None:
    url = Postgres(server.url())
    with closing(PostgresState(url)) as one, closing(PostgresState(url)) as other:
        other.load()
        server.stop()
        one.put_condition("f1", LIMITED)
        other.put_condition("f2", LIMITED)
        assert other.changes(0.1).conditions == {}
        server.start()

        until(lambda: "f1" in other.changes(1).conditions)
        assert flushed(other, 10)
        assert one.load().conditions.keys() == {"f1", "f2"}


def test_killed_connections_lose_nothing(server: postgres.Server) -> None:
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'codexpool'"
    with closing(PostgresState(Postgres(server.url()))) as state:
        with writing_all_the_time(state) as put:
            for _ in range(25):
                server.sql(kill)
                time.sleep(0.05)
        assert flushed(state, 30)
        assert stored_sessions(state).keys() == put


def test_a_crowded_server_is_told_and_used_when_there_is_room(server: postgres.Server) -> None:
    server.sql("ALTER ROLE codexpool CONNECTION LIMIT 0")
    with pytest.raises(UnavailableError, match=r"too many connections.*; raise max_connections"):
        PostgresState(Postgres(server.url()))
    server.sql("ALTER ROLE codexpool CONNECTION LIMIT -1")

    with closing(PostgresState(Postgres(server.url()))) as state:
        server.sql("ALTER ROLE codexpool CONNECTION LIMIT 1")  # One is used; the one that listens finds no room.
        state.put_session("s", WORK, time.time())
        assert flushed(state, 10)
        state.changes(0.1)
        assert state.look_up(["s"]) == {"s": (WORK, 0)}


def test_a_transaction_that_hangs_holds_up_others_for_seconds_only(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that stops with the counter locked: the server takes the lock away."""
    monkeypatch.setitem(postgres_server.SETTINGS, "idle_in_transaction_session_timeout", "1s")
    url = Postgres(server.url())
    with closing(PostgresState(url)) as stuck, closing(PostgresState(url)) as other:
        has_locked, is_over = threading.Event(), threading.Event()

        def work(connection: Connection) -> None:
            next_revision(connection, "w")
            has_locked.set()
            is_over.wait(30)

        def hang() -> None:
            with pytest.raises(UnavailableError):
                stuck.transact(work)

        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(hang)
            assert has_locked.wait(30)
            other.put_condition("f1", LIMITED)
            assert flushed(other, 20)
            is_over.set()
            done.result(30)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def test_a_full_disk_of_the_server_loses_nothing() -> None:
    server = postgres.Server(max_wal_size="32MB", min_wal_size="32MB", shared_buffers="1MB")
    with small_disk(server.folder, 160), server, closing(PostgresState(Postgres(server.url()))) as state:
        filler = server.folder / "filler"
        state.put_session("before", WORK, time.time())
        assert flushed(state, 10)
        with pytest.raises(OSError, match="space"):
            filler.write_bytes(bytes(160_000_000))

        put = {f"{number}-{'x' * 500}" for number in range(8000)}
        for name in put:
            state.put_session(name, WORK, time.time())
        until(lambda: not state.is_connected or server.has_ended)
        filler.unlink()
        if server.has_ended:  # Without room for its log it stops, and is started by what watches over it.
            server.stop()
            server.start()

        assert flushed(state, 60)
        assert stored_sessions(state).keys() == put | {"before"}
