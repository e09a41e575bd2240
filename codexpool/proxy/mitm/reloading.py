"""Reloads the addon in place of mitmproxy, which unloads a script whose file is missing for a moment.

An upgrade replaces the files of an installed package one by one: what was started runs until it is restarted. In a
checkout, a change of the entry file reloads the package, once the file has been still for a moment (`git pull`).
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

from mitmproxy import ctx

logger = logging.getLogger("codexpool")

Mark = tuple[int, int] | None

INTERVAL: Final = 0.5  # Seconds between two looks at the entry file.


def is_installed(entry: Path) -> bool:
    """Return whether an entry file belongs to an installed package, and not to a checkout."""
    return (entry.parent.parent / "addon.py").is_file()


def take_over(entry: Path) -> None:
    """End mitmproxy's watch of the entry file, and reload the addon of a checkout instead."""
    for script in getattr(ctx.master.addons.get("scriptloader"), "addons", ()):
        task: asyncio.Task[None] | None = getattr(script, "reloadtask", None)
        if task is not None and Path(script.fullpath).resolve() == entry:
            task.cancel()  # It may be the present task, which then ends where it waits next.
            if not is_installed(entry):
                script.reloadtask = asyncio.get_running_loop().create_task(_watch(script, entry, _mark(entry)))


async def _watch(script: Any, entry: Path, loaded: Mark) -> None:
    """Reload a script when its file has changed. The addon that it loads takes over, unless loading it fails."""
    before = loaded
    while True:
        await asyncio.sleep(INTERVAL)
        now = _mark(entry)
        if now is not None and now == before != loaded:
            loaded = now
            try:
                script.loadscript()
            except Exception:  # As mitmproxy does: the next change may load.
                logger.exception("reloading the addon failed")
        before = now


def _mark(path: Path) -> Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
