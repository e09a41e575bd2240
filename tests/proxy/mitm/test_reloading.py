"""mitmproxy never unloads the addon, and reloads only that of a checkout, once its entry file has changed."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import options
from mitmproxy.addons import script
from mitmproxy.master import Master

from codexpool.proxy.mitm import reloading

SCRIPT = """
from pathlib import Path
from codexpool.proxy.mitm import reloading

class Addon:
    def load(self, loader):
        reloading.take_over(Path(__file__).resolve())

addons = [Addon()]
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "ReloadInterval", 0.01)
    monkeypatch.setattr(reloading, "INTERVAL", 0.01)


class Loaded:
    """A master with one script."""

    def __init__(self, loader: script.ScriptLoader) -> None:
        self._loader = loader

    @property
    def addon(self) -> Any:
        """The addon of the script; None if it is not loaded."""
        scripts = self._loader.addons
        return getattr(scripts[0].ns, "addons", [None])[0] if scripts else None


@asynccontextmanager
async def loaded(entry: Path) -> AsyncIterator[Loaded]:
    master = Master(options.Options())
    loader = script.ScriptLoader()
    master.addons.add(loader)
    master.options.update(scripts=[str(entry)])
    it = Loaded(loader)
    await until(lambda: it.addon is not None)
    try:
        yield it
    finally:
        master.addons.clear()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def written(entry: Path) -> Path:
    entry.parent.mkdir(exist_ok=True)
    entry.write_text(SCRIPT)
    return entry


def installed(folder: Path) -> Path:
    (folder / "codexpool").mkdir()
    (folder / "codexpool" / "addon.py").touch()
    return written(folder / "codexpool" / "entry" / "addon")


async def looked_often() -> None:
    await asyncio.sleep(0.2)


def changed(entry: Path, text: str = SCRIPT) -> None:
    entry.write_text(text)
    later = time.time() + 10
    os.utime(entry, (later, later))


async def test_an_installed_addon_stays_as_it_was_started_while_its_files_are_replaced(tmp_path: Path) -> None:
    entry = installed(tmp_path)
    async with loaded(entry) as it:
        started = it.addon
        entry.unlink()
        await looked_often()
        assert it.addon is started
        changed(entry)
        await looked_often()
        assert it.addon is started
        shutil.rmtree(tmp_path / "codexpool")
        await looked_often()
        assert it.addon is started


async def test_a_checkout_is_reloaded_when_its_entry_changes_and_never_unloaded(tmp_path: Path) -> None:
    entry = written(tmp_path / "addon")
    async with loaded(entry) as it:
        started = it.addon
        entry.unlink()
        await looked_often()
        assert it.addon is started
        changed(entry)
        await until(lambda: it.addon not in (None, started))

        # a version that cannot be loaded is replaced by the next one
        changed(entry, "raise RuntimeError('not yet')")
        await until(lambda: it.addon is None)
        changed(entry, SCRIPT + "# again")
        await until(lambda: it.addon is not None)

        # and there is one watch, not one for each version
        again = it.addon
        changed(entry, SCRIPT + "# and again")
        await until(lambda: it.addon is not again)
        again = it.addon
        await looked_often()
        assert it.addon is again
