"""Find the running proxies: each leaves a note of where it listens, beside the state.

A note is a file ``proxies/PID.json``. While the proxy lives it holds a lock on ``PID.lock``. The system releases the
lock however the proxy ends, so a stale note is recognized even if its process id is in use again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from codexpool import __version__
from codexpool.common.private_files import private_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

FOLDER: Final = "proxies"  # of the notes, beside the state database
VERSION: Final = 1
LONGEST: Final = 65_536  # bytes of a note
PATIENCE: Final = 2.0  # seconds to wait for a command that checks a note at this moment
LOCAL: Final = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # of all addresses


@dataclass(frozen=True, slots=True)
class Announcement:
    """A running proxy. ``listens`` are addresses such as ``127.0.0.1:8080``, ``started_at`` is a unix second.

    ``confdir`` is the folder of its CA; None if unknown.
    """

    pid: int
    listens: tuple[str, ...]
    started_at: float
    mitmproxy: str
    addon: str
    confdir: Path | None = None


_held: dict[Path, BaseFileLock] = {}  # The locks of this process. (Its one proxy may announce itself again.)


def announce(state_folder: Path, listens: Sequence[str], confdir: str = "") -> Path:
    """Write a note that this process is a proxy, and return its path for `withdraw`.

    ``confdir`` is mitmproxy's option of that name. Reads and writes files: not for an event loop. Raises OSError if
    no note can be written now; commands then need to be told where the proxy is.
    """
    folder = state_folder / FOLDER
    note = folder / f"{os.getpid()}.json"
    try:
        private_folder(folder)
        if note not in _held:
            lock = _lock(note)
            lock.acquire(timeout=PATIENCE)  # filelock's Timeout is an OSError.
            _held[note] = lock
        _write(note, listens, confdir)
    except NotImplementedError:
        raise OSError(errno.ENOLCK, "this file system has no locks") from None
    return note


def withdraw(note: Path) -> None:
    """Remove a note. Raises nothing."""
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)
    if (lock := _held.pop(note, None)) is not None:
        with contextlib.suppress(OSError):
            lock.release()
        _remove_lock(note)


def announced(state_folder: Path) -> list[Announcement]:
    """Return the running proxies, the newest first, and remove stale notes. Raises nothing."""
    folder = state_folder / FOLDER
    try:
        notes = [path for path in folder.iterdir() if path.suffix == ".json" and path.stem.isdecimal()]
        # Another user's folder may contain anything.
        if os.name == "posix" and os.geteuid() not in (0, folder.stat().st_uid):
            return []
    except OSError:
        return []
    running = (made for note in notes if not _is_stale(note) and (made := _read(note)) is not None)
    return sorted(running, key=lambda made: made.started_at, reverse=True)


def addresses(announcement: Announcement) -> Iterator[tuple[str, int]]:
    """Yield the hosts and ports at which a proxy can be reached from its own machine."""
    for text in announcement.listens:
        host, _, port = text.rpartition(":")
        if port.isdecimal() and 0 < int(port) < 65_536:
            host = host.strip("[]")
            yield LOCAL.get(host, host), int(port)


def _write(note: Path, listens: Sequence[str], confdir: str) -> None:
    from mitmproxy import version  # Slow, and not needed to find proxies.

    document = {
        "version": VERSION,
        "pid": os.getpid(),
        "listens": list(listens),
        "started_at": time.time(),
        "mitmproxy": version.VERSION,
        "addon": __version__,
    }
    if confdir:
        document["confdir"] = os.path.abspath(os.path.expanduser(confdir))  # noqa: PTH100, PTH111 (no error for ~unknown)
    new = note.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        new.touch(mode=0o600, exist_ok=False)
        new.write_text(json.dumps(document))
        new.replace(note)
    finally:
        new.unlink(missing_ok=True)


def _read(note: Path) -> Announcement | None:
    """Read a note; None if it is damaged, or of an unknown version."""
    try:
        with note.open("rb") as file:
            document = json.loads(file.read(LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    match document:
        case {
            "version": 1,
            "pid": int(pid),
            "listens": [*listens],
            "started_at": int() | float() as started_at,
            "mitmproxy": str(mitmproxy),
            "addon": str(addon),
        } if all(isinstance(text, str) for text in listens):
            confdir = document.get("confdir")
            folder = Path(confdir) if isinstance(confdir, str) and confdir else None
            return Announcement(pid, tuple(listens), float(started_at), mitmproxy, addon, folder)
        case _:
            return None


def _lock(note: Path) -> BaseFileLock:
    import filelock  # Slow, and not needed at start-up.

    # The addon acquires it in one thread, and releases it in another.
    return filelock.FileLock(note.with_suffix(".lock"), mode=0o600, thread_local=False)


def _is_stale(note: Path) -> bool:
    """Return whether the proxy of a note has ended; if so, remove the note."""
    if note in _held:
        return False
    lock = _lock(note)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    except (OSError, NotImplementedError):  # A file system without locks, or another user's proxy.
        return not may_run(int(note.stem))
    try:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
    finally:
        lock.release()
        _remove_lock(note)
    return True


def _remove_lock(note: Path) -> None:
    with contextlib.suppress(OSError):  # After its release: Windows removes no open file.
        note.with_suffix(".lock").unlink(missing_ok=True)


def may_run(pid: int) -> bool:
    """Return whether a process of this machine has a pid, as far as is known."""
    if os.name == "posix":  # Windows has no harmless way to ask.
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:  # Another user's process.
            return True
    return True
