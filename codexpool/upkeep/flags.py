"""The flags of pool.toml, written in the background: later, where the file cannot be written now.

`PendingFlags.put` only notes what is to be written. One task writes all that is noted, in one edit, in a thread of
its own: no request waits for the file or for its lock, however many identities are flagged at once.

States of a flag: noted; being written; written or dropped. What can happen in between:

- The file cannot be written (locked by another program, read-only, full, half saved). The flag stays noted, and is
  tried again after a growing pause. That is logged once, and once more when the flags are written.
- Another flag, or none, is noted for the same identity while one is being written: the newer one is written next.
- The reason is gone (a new token, an identity that was removed): before each attempt ``is_wanted`` is asked, and the
  edit itself compares the token that the file has by then. Such a flag is dropped.
- The process ends: one last attempt, which waits for a lock no longer than `LAST_LOCK_TIMEOUT`. What is lost then is
  found out again after the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from codexpool.common import tasks
from codexpool.config import Flag

logger = logging.getLogger("codexpool")

PAUSES: Final = (0.5, 15.0)
"""Seconds between two attempts to write: at first, and at most (they double in between)."""

LAST_LOCK_TIMEOUT: Final = 0.5
"""Seconds that the last attempt, at the end of the process, waits for another editor."""

IsWanted = Callable[[str, Flag | None], bool]
"""Whether the flag of an identity is still to be written (None: taken out)."""


class PendingFlags:
    """The flags still to be written into a pool.toml. Every method belongs to the thread of the event loop."""

    def __init__(self, owner: tasks.Tasks, is_wanted: IsWanted) -> None:
        self._owner = owner
        self._is_wanted = is_wanted
        self._noted: dict[str, Flag | None] = {}
        self._path = Path()
        self._writing: asyncio.Task[None] | None = None
        self._is_failing = False

    def put(self, path: Path, name: str, flag: Flag | None) -> None:
        """Have the flag of an identity written into the file at ``path``; None takes it out. Return at once."""
        self._path = path
        self._noted[name] = flag
        if self._writing is None or self._writing.done():
            self._writing = self._owner.spawn(self._write())

    def close(self) -> None:
        """Try once more to write what is still to be written. May take a second: for the end of the process."""
        self._drop_unwanted()
        if self._noted:
            self._put(LAST_LOCK_TIMEOUT)
            self._noted.clear()

    async def _write(self) -> None:
        pauses = tasks.growing_pauses(*PAUSES)
        while self._noted:
            flags = dict(self._noted)
            said = await tasks.in_thread(_put, self._path, flags, None)
            if said is None:
                self._written(flags)
            else:
                self._failed(said)
                await asyncio.sleep(next(pauses))
            self._drop_unwanted()

    def _put(self, lock_timeout: float) -> None:
        flags = dict(self._noted)
        said = _put(self._path, flags, lock_timeout)
        if said is None:
            self._written(flags)
        else:
            logger.error("%s; not written before the end: %s", said, ", ".join(flags))

    def _written(self, flags: dict[str, Flag | None]) -> None:
        for name, flag in flags.items():
            if name in self._noted and self._noted[name] is flag:
                del self._noted[name]
        if self._is_failing and not self._noted:
            self._is_failing = False
            logger.info("%s: the flags are written (%s)", self._path, ", ".join(flags))

    def _failed(self, said: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            names = ", ".join(self._noted)
            logger.error("%s. The flags of %s are written when that is possible", said, names)

    def _drop_unwanted(self) -> None:
        for name, flag in list(self._noted.items()):
            if not self._is_wanted(name, flag):
                del self._noted[name]
        if not self._noted:
            self._is_failing = False


def _put(path: Path, flags: dict[str, Flag | None], lock_timeout: float | None) -> str | None:
    """Write the flags. Return what is wrong where the file cannot be written now. For a thread."""
    from codexpool.config import editing  # Not at start-up: it is rarely needed, and takes its time.

    try:
        refused = editing.put_flags(path, flags, lock_timeout)
    except editing.EditError as error:
        return str(error)
    for name, reason in refused.items():
        logger.error("%s: the flag of %s cannot be written: %s; edit the file by hand", path, name, reason)
    return None
