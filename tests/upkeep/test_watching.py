"""pool.toml comes, changes, is emptied and goes while a proxy runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from codexpool.config.files import Places, Watcher
from codexpool.config.model import PoolConfig
from codexpool.config.read import load_or_empty
from codexpool.upkeep import pool_finder, watching
from codexpool.upkeep.keeper import Keeper
from codexpool.upkeep.pool_finder import PoolFinder
from codexpool.upkeep.watching import Reloader
from tests.config.test_sources import sources
from tests.e2e.logins import write_private
from tests.state.memory import MemoryState
from tests.upkeep.keepers import keeper_of, said, until, until_ready, write_pool


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL", 0.02)
    monkeypatch.setattr(watching, "SETTLE", 0.02)
    monkeypatch.setattr(watching, "DOUBT", 0.02)
    monkeypatch.setattr(pool_finder, "POLL", 0.02)


def names_in(config: PoolConfig) -> tuple[str, ...]:
    return tuple(spec.name for spec in config.identities)


def names(keeper: Keeper) -> list[str]:
    return list(keeper.pool.identities)


async def looked_again() -> None:
    """Wait until a change would have been noticed."""
    await asyncio.sleep(0.3)


async def test_a_pool_that_is_named_before_it_exists_serves_as_soon_as_it_does(tmp_path: Path) -> None:
    with keeper_of(tmp_path / "pool.toml", MemoryState) as keeper:
        assert names(keeper) == []
        assert keeper.pool.lists_none
        assert keeper.file.is_missing
        write_pool(tmp_path, "work")
        await until_ready(keeper)
        assert not keeper.file.is_missing


@pytest.mark.parametrize("how", ["removed", "emptied", "deleted"])
async def test_a_pool_that_lost_its_identities_serves_nobody_until_they_are_back(tmp_path: Path, how: str) -> None:
    path = write_pool(tmp_path, "work")
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)

        if how == "deleted":
            path.unlink()
        else:
            path.write_text("# comments only\n" if how == "removed" else "")
        await until(lambda: names(keeper) == [])
        assert keeper.pool.lists_none
        assert keeper.config.path == path

        write_pool(tmp_path, "work")
        await until(lambda: names(keeper) == ["work"])
        await until_ready(keeper)


async def test_members_stay_known_while_the_file_is_gone(tmp_path: Path) -> None:
    path = write_pool(tmp_path, "work")
    member = f'[[member]]\nname = "ann"\nkey = "sha256:{"0" * 64}"\n'
    path.write_text(f'[pool]\naccess = "members"\n{path.read_text()}{member}')
    with keeper_of(path, MemoryState) as keeper:
        path.unlink()
        await until(lambda: keeper.config.is_missing)
        assert keeper.config.member("ann") is not None
        assert keeper.config.access == "members"


@pytest.mark.parametrize("first", ["emptied", "deleted", "moved away"])
@pytest.mark.parametrize("steps_between", range(4))
async def test_an_editor_that_empties_or_deletes_the_file_while_it_saves_is_no_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, steps_between: int
) -> None:
    # given an editor that takes a step whenever the watching pauses
    path = write_pool(tmp_path, "work")
    text, followed = path.read_text(), list[tuple[str, ...]]()
    begin: dict[str, Callable[[], object]] = {
        "emptied": lambda: path.write_text(""),
        "deleted": path.unlink,
        "moved away": lambda: path.rename(tmp_path / "pool.toml~"),
    }
    written = [*["", "# half\n", "[pool]\n"][:steps_between], f"# saved\n{text}"]
    steps: Iterator[Callable[[], object]] = iter([begin[first], *(partial(write_private, path, w) for w in written)])
    pause, has_saved = asyncio.sleep, asyncio.Event()

    async def step(seconds: float) -> None:
        await pause(0)
        next(steps, has_saved.set)()

    monkeypatch.setattr("codexpool.upkeep.watching.asyncio.sleep", step)
    reloader = Reloader(load_or_empty(path), sources(), lambda config, _: followed.append(names_in(config)))

    # when it saves while the file is watched
    task = asyncio.get_running_loop().create_task(reloader.watch_files(Watcher([path])))
    async with asyncio.timeout(20):
        await has_saved.wait()
        while not followed:
            await pause(0.01)
    task.cancel()

    # then the pool never lost its identities
    assert set(followed) == {("work",)}


async def test_a_file_that_is_gone_does_not_make_the_state_forget_its_identities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pool(tmp_path, "work", "spare")
    dropped: list[str] = []
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)
        monkeypatch.setattr(keeper._persistence, "drop_identity", dropped.append)
        path.unlink()
        await until(lambda: names(keeper) == [])
        assert dropped == []
        write_pool(tmp_path, "work")
        await until(lambda: names(keeper) == ["work"])
        write_pool(tmp_path)
        await until(lambda: names(keeper) == [])
        assert dropped == ["work"]


async def test_an_invalid_edit_is_reported_until_it_is_fixed(tmp_path: Path) -> None:
    path = write_pool(tmp_path, "work")
    with keeper_of(path, MemoryState) as keeper:
        await until_ready(keeper)
        read_at = keeper.file.read_at
        path.write_text(f'{path.read_text()}[[identity]]\nname = "third"\n')
        await until(lambda: keeper.file.problem)
        assert "has no token" in keeper.file.problem
        assert keeper.file.read_at == read_at
        assert names(keeper) == ["work"]
        write_pool(tmp_path, "work")
        await until(lambda: not keeper.file.problem)


# -- other places


class Uses:
    """What a finder has a proxy use."""

    def __init__(self, *paths: Path) -> None:
        self.places = Places(paths)
        self.path: Path | None = None
        self.used: list[Path] = []
        self.refusal = ""
        self.finder = PoolFinder(lambda: self.places, lambda: self.path, self.use)

    def use(self, config: PoolConfig, watcher: Watcher) -> None:
        assert config.path in watcher
        if self.refusal:
            raise ValueError(self.refusal)
        self.path = config.path
        self.used.append(config.path)

    @contextmanager
    def looking(self) -> Iterator[None]:
        task = asyncio.get_running_loop().create_task(self.finder.run())
        try:
            yield
        finally:
            task.cancel()


def pool_in(folder: Path, *identities: str) -> Path:
    folder.mkdir(exist_ok=True)
    return write_pool(folder, *identities)


async def test_the_first_pool_toml_is_used_when_it_appears(tmp_path: Path) -> None:
    uses = Uses(tmp_path / "beside" / "pool.toml", tmp_path / "home" / "pool.toml")
    with uses.looking():
        path = pool_in(tmp_path / "home", "work")
        await until(lambda: uses.used == [path])


async def test_a_pool_toml_in_a_place_that_comes_first_replaces_the_other(tmp_path: Path) -> None:
    uses = Uses(tmp_path / "beside" / "pool.toml", tmp_path / "home" / "pool.toml")
    uses.path = pool_in(tmp_path / "home", "work")
    with uses.looking():
        beside = pool_in(tmp_path / "beside", "spare")
        await until(lambda: uses.path == beside)
        # and without it, the other one is used again, as after a restart
        beside.unlink()
        await until(lambda: uses.path == tmp_path / "home" / "pool.toml")
        # but if that is gone, too, there is none to change to
        uses.used.clear()
        (tmp_path / "home" / "pool.toml").unlink()
        await looked_again()
        assert uses.used == []


async def test_a_pool_toml_that_cannot_be_used_is_reported_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uses = Uses(tmp_path / "beside" / "pool.toml", tmp_path / "home" / "pool.toml")
    home = uses.path = pool_in(tmp_path / "home", "work")
    with uses.looking():
        beside = pool_in(tmp_path / "beside")
        beside.write_text("[pool")
        await until(lambda: uses.finder.problem)
        await looked_again()
        assert uses.used == []
        assert len(said(caplog.records, f"{beside} cannot be used, so {home} stays in use: ")) == 1
        assert uses.finder.rejected == beside

        uses.refusal = "access = anyone"
        pool_in(tmp_path / "beside", "spare")
        await until(lambda: "access = anyone" in uses.finder.problem)
        uses.refusal = ""
        pool_in(tmp_path / "beside", "other")
        await until(lambda: uses.used == [beside])
        await until(lambda: uses.finder.problem == "")
        assert uses.finder.rejected is None


def test_a_file_that_is_in_use_counts_unless_it_is_certainly_gone(tmp_path: Path) -> None:
    loop = tmp_path / "pool.toml"
    loop.symlink_to(loop)  # It cannot be looked at, as on a network drive that is away.
    other = write_private(tmp_path / "other.toml", "")
    places = Places((loop, other))
    assert places.find() == other
    assert places.find(loop) == loop
    assert load_or_empty(tmp_path / "none.toml").is_missing
