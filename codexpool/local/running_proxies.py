"""How commands find the proxies that run: each one leaves a note of where it listens, beside the state.

A note is a file ``proxies/PID.json``. While the proxy lives it holds a lock on ``PID.lock``, which the system lets go
of however the proxy ends: so a note that was left behind is known from one that holds, and a process id that is given
to another process deceives nobody.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from codexpool import __version__

if TYPE_CHECKING:
    from filelock import BaseFileLock

FOLDER: Final = "proxies"
"""Of the notes, beside the state database."""

VERSION: Final = 1
"""Of the form of a note."""

LONGEST: Final = 65_536
"""Bytes of a note: one that is longer is none of ours."""

PATIENCE: Final = 2.0
"""Seconds to wait for a command that is looking at a note this very moment."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One proxy that runs. ``listens`` are addresses such as ``127.0.0.1:8080``, ``started_at`` is a unix second.

    ``confdir`` is the folder of its certificate authority; None where the note does not say.
    """

    pid: int
    listens: tuple[str, ...]
    started_at: float
    mitmproxy: str
    addon: str
    confdir: Path | None = None


_held: dict[Path, BaseFileLock] = {}
"""The locks of this process, by note. (It has one proxy, which may announce itself anew.)"""


def announce(state_folder: Path, listens: Sequence[str], confdir: str = "") -> Path:
    """Leave a note that this process is a proxy, and where it listens; `withdraw` takes it back.

    ``confdir`` is mitmproxy's option of that name.

    Reads and writes files: not for an event loop. Raises OSError where no note can be left now: then commands have to
    be told where the proxy is.
    """
    folder = state_folder / FOLDER
    note = folder / f"{os.getpid()}.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _hold(note)
        _write(note, _document(listens, confdir))
    except NotImplementedError:
        raise OSError(errno.ENOLCK, "this file system has no locks") from None
    return note


def withdraw(note: Path) -> None:
    """Take back what `announce` has left. Raises nothing."""
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)
    lock = _held.pop(note, None)
    if lock is not None:
        with contextlib.suppress(OSError):
            lock.release()
        with contextlib.suppress(OSError):  # after the release: Windows removes no file that is open
            _lock_of(note).unlink(missing_ok=True)


def announced(state_folder: Path) -> list[Announcement]:
    """The proxies that run, the newest first. Notes of those that have ended are put away. Raises nothing."""
    folder = state_folder / FOLDER
    try:
        notes = [path for path in folder.iterdir() if path.suffix == ".json" and path.stem.isdecimal()]
        if not _is_ours(folder):
            return []
    except OSError:
        return []
    running = (made for note in notes if not _was_left_behind(note) and (made := _read(note)) is not None)
    return sorted(running, key=lambda made: made.started_at, reverse=True)


def addresses(announcement: Announcement) -> Iterator[tuple[str, int]]:
    """Host and port under which a proxy can be asked on its own machine."""
    for text in announcement.listens:
        host, _, port = text.rpartition(":")
        host = host.strip("[]")
        if not port.isdecimal() or not 0 < int(port) < 65_536:
            continue
        yield _to_connect_to(host), int(port)


def _to_connect_to(host: str) -> str:
    """Where to connect to, for somebody who listens at ``host``: on all addresses, it may be."""
    if host in ("", "*"):
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _document(listens: Sequence[str], confdir: str) -> dict[str, Any]:
    from mitmproxy import version  # Commands that only look need not wait for it.

    # In full: whoever reads it is in another folder, and has another home, it may be.
    said = {"confdir": str(_in_full(confdir))} if confdir else {}
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "listens": list(listens),
        "started_at": time.time(),
        "mitmproxy": version.VERSION,
        "addon": __version__,
        **said,
    }


def _in_full(confdir: str) -> Path:
    path = Path(confdir)
    with contextlib.suppress(RuntimeError):  # There is no such user: then mitmproxy has a folder of that very name.
        path = path.expanduser()
    return path.absolute()


def _write(note: Path, document: dict[str, Any]) -> None:
    new = note.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(document).encode())
        new.replace(note)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _read(note: Path) -> Announcement | None:
    """What a note says; None for one that is broken, or not in a form that is known here."""
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


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put notes there: in a folder that many write to, somebody might."""
    if os.name != "posix":
        return True
    return os.geteuid() in (0, folder.stat().st_uid)


def _lock_of(note: Path) -> Path:
    return note.with_suffix(".lock")


def _lock(note: Path) -> BaseFileLock:
    import filelock  # only where notes are looked at

    # The addon announces in a thread, and withdraws in another one.
    return filelock.FileLock(_lock_of(note), mode=0o600, thread_local=False)


def _hold(note: Path) -> None:
    """Hold the lock of a note for as long as this process lives. Raises OSError and NotImplementedError."""
    if note in _held:
        return
    lock = _lock(note)
    lock.acquire(timeout=PATIENCE)  # filelock's Timeout is an OSError
    _held[note] = lock


def _was_left_behind(note: Path) -> bool:
    """Whether the proxy that has left a note is gone; then the note is put away."""
    if note in _held:
        return False
    lock = _lock(note)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    except (OSError, NotImplementedError):  # a file system without locks, or another user's proxy
        return not _may_run(int(note.stem))
    try:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            _lock_of(note).unlink(missing_ok=True)
    return True


def _may_run(pid: int) -> bool:
    """Whether there is a process of that id. (Windows has no way to ask that does no harm.)"""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # It is another user's.
        return True
    return True
