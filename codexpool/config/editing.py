"""pool.toml changed in place: all of the change or nothing of it, and nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import tomlkit
from tomlkit.exceptions import TOMLKitError

from codexpool.config.flags import UneditableError, flagged, unflagged
from codexpool.config.model import ConfigError, Flag, one_line
from codexpool.config.read import parse

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that edits the same file."""

TRIES = 5
"""How often an edit is begun anew because the file changed under it."""

PAUSE = 0.05
"""Seconds between two tries."""

BOM = "\ufeff"


class EditError(Exception):
    """An edit that could not be made; the file is as it was."""

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        super().__init__(one_line(f"{path}: {what}; {remedy}"))
        self.path = path
        self.what = what
        self.remedy = remedy


def edit(path: Path, change: Callable[[tomlkit.TOMLDocument], None]) -> None:
    """Change a pool.toml through tomlkit; comments and order of what ``change`` leaves alone stay.

    ``change`` may be called more than once, each time with the file as it is by then; what it raises goes through.
    It waits for other editors: not to be called on an event loop. Raises EditError if the file cannot be locked,
    read or written, keeps changing, or would not hold any more.
    """

    def changed(text: str) -> str:
        document = tomlkit.parse(text)
        if document.as_string() != text:
            raise UneditableError("is written in a way that would not survive the edit")
        change(document)
        result = document.as_string()
        if result != text and "\r\n" in text and not re.search(r"(?<!\r)\n", text):
            result = re.sub(r"(?<!\r)\n", "\r\n", result)
        parse(result, path)
        return result

    _rewrite(path, changed)


def flag(path: Path, name: str, flag: Flag) -> None:
    """Write ``needs_replacement`` into the table of identity ``name``, and change no other byte.

    Waits for other editors: not to be called on an event loop. Raises EditError as ``edit`` does, and if there is
    no such identity.
    """
    _rewrite(path, lambda text: flagged(text, name, flag))


def unflag(path: Path, name: str) -> None:
    """Take the flag of identity ``name`` out again; the file is then what it was before, byte for byte.

    Waits and raises as ``flag`` does; an identity without a flag is left as it is.
    """
    _rewrite(path, lambda text: unflagged(text, name))


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    with _told(path):
        real = path.resolve(strict=True)
    with _locked(path, real):
        for _ in range(TRIES):
            with _told(path):
                before = real.read_bytes()
            after = _changed(path, before, change)
            with _told(path):
                if after == before or _replaced(real, before, after):
                    return
            time.sleep(PAUSE)
    raise EditError(path, "was changed by another program each time it was to be written", "try again")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the file system refuses becomes an EditError."""
    try:
        yield
    except (OSError, RuntimeError, NotImplementedError) as error:  # a loop of symlinks; no locks on this file system
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        remedy = f"let the user the proxy runs as write to it and to {path.parent}, or edit it by hand"
        raise EditError(path, f"cannot be edited: {reason}", remedy) from error


def _changed(path: Path, before: bytes, change: Callable[[str], str]) -> bytes:
    try:
        text = before.decode()
        bom = BOM if text.startswith(BOM) else ""
        return (bom + change(text.removeprefix(BOM))).encode()
    except UnicodeError:
        raise EditError(path, "is not UTF-8 text", "save it as UTF-8") from None
    except (UneditableError, TOMLKitError) as error:
        raise EditError(path, str(error), "edit the file by hand") from None
    except ConfigError as error:
        raise EditError(path, f"would not hold after the edit: {error.problems[0]}", "correct this first") from None


@contextlib.contextmanager
def _locked(path: Path, real: Path) -> Iterator[None]:
    """None of us edits the file meanwhile. The lock stands beside it: who may replace the file can write there."""
    lock_path = real.with_name(f".{real.name}.lock")
    lock = filelock.FileLock(lock_path, timeout=LOCK_TIMEOUT, mode=0o600)
    with _told(path):
        try:
            lock.acquire()
        except filelock.Timeout:
            raise EditError(path, "is being edited by another process", "try again") from None
    try:
        with contextlib.suppress(OSError):  # root's lock file must not keep the owner out
            _give_owner(lock_path, real.stat())
        yield
    finally:
        lock.release()


def _replaced(real: Path, before: bytes, after: bytes) -> bool:
    """Put ``after`` in the place of the file unless it is no longer ``before``; whether it was done."""
    status = real.stat()
    # One fixed name, used under the lock: what a killed process left behind is overwritten, never heaped up.
    new = real.with_name(f".{real.name}.new")
    new.unlink(missing_ok=True)
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(after)
            file.flush()
            os.fsync(descriptor)
        _give_owner(new, status)
        new.chmod(stat.S_IMODE(status.st_mode))
        if real.read_bytes() != before:
            return False
        new.replace(real)
    finally:
        new.unlink(missing_ok=True)
    _sync_folder(real.parent)
    return True


def _give_owner(path: Path, status: os.stat_result) -> None:
    now = path.stat()
    if os.name == "posix" and (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        os.chown(path, status.st_uid, status.st_gid)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable, where a folder can be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
