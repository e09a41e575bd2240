"""A flag is written when pool.toml can be written, and no request waits for the file, or for a thread, until then."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from codexpool.config import editing
from codexpool.pool.identity import Status
from codexpool.state.location import SqliteFile
from codexpool.state.opening import read_state
from codexpool.state.sqlite import SqliteState
from codexpool.tokens.bearer import fingerprint
from codexpool.upkeep import flags as pending_flags
from tests.config.unwritable import unwritable
from tests.state.memory import MemoryState
from tests.upkeep.keepers import condemn, flags, keeper_of, said, token_of, until, until_ready, write_pool

NAMES = [f"i{number}" for number in range(30)]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program edits pool.toml."""
    with filelock.FileLock(path.with_name(".pool.toml.lock")):
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_flags, "PAUSES", (0.05, 0.2))
    monkeypatch.setattr(editing, "LOCK_TIMEOUT", 0.2)


async def test_flags_of_many_wait_for_a_lock_and_nobody_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing, "LOCK_TIMEOUT", 5.0)
    path = write_pool(tmp_path, *NAMES)
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)
        with locked(path):
            for name in NAMES[:26]:
                condemn(keeper, name)
            await asyncio.sleep(0.3)

            # then: what host names are resolved in is free, and the others serve
            begun = time.monotonic()
            await asyncio.gather(*(asyncio.to_thread(time.sleep, 0) for _ in range(64)))
            assert time.monotonic() - begun < 3
            assert [name for name, one in keeper.pool.identities.items() if one.status is Status.READY] == NAMES[26:]
            assert flags(path) == {}

        await until(lambda: flags(path).keys() == set(NAMES[:26]))


@pytest.mark.parametrize("trouble", [locked, errno.ENOSPC])
async def test_unwritable_flags_are_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: object
) -> None:
    caplog.set_level("INFO")
    path, state = write_pool(tmp_path, "a", "b", "c"), tmp_path / "state.sqlite3"
    with keeper_of(path, lambda: SqliteState(state)) as keeper:
        await until_ready(keeper)
        with unwritable(trouble) if isinstance(trouble, int) else locked(path):
            condemn(keeper, "a")
            await until(lambda: said(caplog.records, "Retrying; flags not written yet"))
            condemn(keeper, "b")
            await asyncio.sleep(1)

            # then: others can see the conditions meanwhile, though not in the file
            assert flags(path) == {}
            known = read_state(SqliteFile(state))
            assert known is not None
            for name in ("a", "b"):
                assert known.conditions[fingerprint(token_of(name))].status is Status.NEEDS_REPLACEMENT

        await until(lambda: flags(path).keys() == {"a", "b"})
        await until(lambda: said(caplog.records, "the flags are written"))
        assert {flag.token for flag in flags(path).values()} == {f"sha256:{fingerprint(token_of(n))}" for n in "ab"}
        assert len(said(caplog.records, "Retrying; flags not written yet")) == 1
        assert len(said(caplog.records, "the flags are written")) == 1


async def test_no_flag_is_written_for_a_replaced_token(tmp_path: Path) -> None:
    path = write_pool(tmp_path, "a", "b")
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)
        with locked(path):
            condemn(keeper, "a")
            condemn(keeper, "b")
            await asyncio.sleep(0.3)
            # when: a person replaces one token, and the lock is free before the proxy has looked at the file
            text = path.read_text().replace(token_of("a"), token_of("a", 2))
            path.write_text(text)
        await until(lambda: "b" in flags(path))
        assert "a" not in flags(path)
        await until(lambda: keeper.pool.identities["a"].status is Status.READY)
        await asyncio.sleep(0.5)
        assert flags(path).keys() == {"b"}


async def test_the_flag_of_a_removed_identity_delays_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_pool(tmp_path, "a", "b", "c")
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)
        with locked(path):
            condemn(keeper, "a")
            condemn(keeper, "b")
            write_pool(tmp_path, "b", "c")
            await until(lambda: "a" not in keeper.pool.identities)
        await until(lambda: flags(path).keys() == {"b"})
        assert said(caplog.records, "there is no identity") == []


async def test_a_file_that_is_half_saved_is_flagged_when_it_is_whole(tmp_path: Path) -> None:
    path = write_pool(tmp_path, "a", "b")
    whole = path.read_text()
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)
        path.write_text(whole[:-20])
        condemn(keeper, "a")
        await asyncio.sleep(0.3)
        assert path.read_text() == whole[:-20]
        path.write_text(whole)
        await until(lambda: flags(path).keys() == {"a"})


async def test_a_flag_that_is_to_go_goes_when_the_file_can_be_written(tmp_path: Path) -> None:
    path = write_pool(tmp_path, "a", "b")
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)
        condemn(keeper, "a")
        await until(lambda: "a" in flags(path))
        with locked(path):
            path.write_text(path.read_text().replace(token_of("a"), token_of("a", 2)))
            await until(lambda: keeper.pool.identities["a"].status is Status.READY)
            await asyncio.sleep(0.5)
            assert "a" in flags(path)
        await until(lambda: flags(path) == {})
        assert token_of("a", 2) in path.read_text()


async def test_queued_flags_are_tried_once_more_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_flags, "PAUSES", (60.0, 60.0))
    path = write_pool(tmp_path, "a", "b")
    for name, is_free in (("a", True), ("b", False)):
        with keeper_of(path, MemoryState) as keeper:
            await until(lambda k=keeper, n=name: k.pool.identities[n].status is Status.READY)  # type: ignore[misc]
            with locked(path):
                condemn(keeper, name)
                await until(lambda: said(caplog.records, "Retrying; flags not written yet"))
                if not is_free:
                    keeper.stop()
        caplog.clear() if is_free else None
    assert flags(path).keys() == {"a"}
    assert said(caplog.records, "flags not written before the end: b")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EBUSY])
async def test_flags_of_a_read_only_file_stay_in_the_state_until_it_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    caplog.set_level("INFO")
    path, state = write_pool(tmp_path, "a", "b", "c"), tmp_path / "state.sqlite3"
    with keeper_of(path, lambda: SqliteState(state)) as keeper:
        await until_ready(keeper)
        with unwritable(code):
            condemn(keeper, "a")
            await until(lambda: said(caplog.records, "cannot be written"))
            condemn(keeper, "b")
            await asyncio.sleep(1)

            # then: one line that is no complaint, and the state has both
            (record,) = [record for record in caplog.records if "cannot be written" in record.getMessage()]
            assert record.levelname == "INFO"
            assert "flags are kept in the state" in record.getMessage()
            known = read_state(SqliteFile(state))
            assert known is not None
            for name in ("a", "b"):
                assert known.conditions[fingerprint(token_of(name))].status is Status.NEEDS_REPLACEMENT

        await until(lambda: flags(path).keys() == {"a", "b"})


async def test_a_restart_knows_the_flags_of_a_read_only_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = write_pool(tmp_path, "a", "b", "c"), tmp_path / "state.sqlite3"
    with unwritable(errno.EROFS):
        with keeper_of(path, lambda: SqliteState(state)) as keeper:
            await until_ready(keeper)
            condemn(keeper, "a")
            condemn(keeper, "b")
            await until(lambda: keeper.pool.identities["b"].status is Status.NEEDS_REPLACEMENT)
        # when: another proxy starts, and whoami has forgotten why
        with keeper_of(path, lambda: SqliteState(state)) as keeper:
            await until(lambda: keeper.pool.identities["c"].status is Status.READY)
            statuses = {name: identity.status for name, identity in keeper.pool.identities.items()}
            assert statuses == {"a": Status.NEEDS_REPLACEMENT, "b": Status.NEEDS_REPLACEMENT, "c": Status.READY}
            assert "401 token_revoked" in str(keeper.pool.identities["a"].condition.evidence)

            # when: a new token is in the secret
            write_pool(tmp_path, "a", version=2)
            await until(lambda: keeper.pool.identities["a"].status is Status.READY)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_restart_verifies_a_token_whose_flag_a_person_has_removed(tmp_path: Path) -> None:
    path, state = write_pool(tmp_path, "a", "b"), tmp_path / "state.sqlite3"
    with keeper_of(path, lambda: SqliteState(state)) as keeper:
        await until_ready(keeper)
        condemn(keeper, "a")
        await until(lambda: "a" in flags(path))
    write_pool(tmp_path, "a", "b")
    with keeper_of(path, lambda: SqliteState(state)) as keeper:
        await until_ready(keeper)
