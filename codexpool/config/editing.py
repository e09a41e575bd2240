"""Edits a pool.toml in place: the whole change or nothing, also while others write to the file."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from codexpool.common.atomic_replace import Replacement, locked
from codexpool.common.private_files import private_folder
from codexpool.config.files import is_read_only, remedy_of_read_only
from codexpool.config.model import ConfigError, Flag, Table, Unflagged, one_line
from codexpool.config.read import FLAG, parse
from codexpool.config.tables import UneditableError, named, read, with_key, without_key
from codexpool.tokens.bearer import Bearer

LOCK_TIMEOUT = 5.0  # Seconds to wait for another process that edits the same file.
TRIES = 5  # Edits are repeated if the file changes meanwhile,
PAUSE = 0.05  # after so many seconds.
BOM = "\ufeff"
# A read-only file system, a folder or file of another user, a file that is mounted on its own.
UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY})

HEADER = """\
# The identities codexpool may use. Add only those you are entitled to use.
# All settings: codexpool config example
"""

Change = Callable[[str], str]  # Maps the current text to the new text.


class EditError(Exception):
    """An edit that failed; the file is unchanged. ``is_unwritable``: this process may not write to it at all."""

    def __init__(self, path: Path, what: str, remedy: str, is_unwritable: bool = False) -> None:
        super().__init__(one_line(f"{path}: {what}; {remedy}"))
        self.what = what
        self.is_unwritable = is_unwritable


def edit(path: Path, change: Change) -> None:
    """Change the text of a pool.toml, which has to be valid afterwards.

    ``change`` may be called several times, each time with the current text. What it raises is passed on, except for
    `UneditableError`, which becomes an EditError. Waits for other editors: do not call it on an event loop.
    Raises EditError if the file cannot be locked, read or written, keeps changing, or would become invalid.
    """

    def checked(text: str) -> str:
        result = change(text)
        parse(result, path)
        return result

    _rewrite(path, checked)


def create(path: Path) -> bool:
    """Create an empty pool.toml for its owner only, unless there is one; return whether it did. Raises OSError."""
    if os.path.lexists(path):
        return False
    private_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # Another command has just created it.
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(HEADER)
    return True


def remove_unused(path: Path) -> None:
    """Remove what `create` created, if nothing has been added to it."""
    with contextlib.suppress(OSError, UnicodeError):
        if path.read_text(encoding="utf-8") == HEADER:
            path.unlink()


def flagged(text: str, name: str, flag: Flag) -> str:
    """Return ``text`` with ``needs_replacement`` in the table of identity ``name``. Raises UneditableError."""
    return with_key(text, name, FLAG, {"since": flag.since, "reason": flag.reason, "token": flag.token})


def unflagged(text: str, name: str) -> str:
    """Return ``text`` without the flag of identity ``name``, if it has one. Raises UneditableError."""
    return without_key(text, name, FLAG)


def put_flags(
    path: Path, flags: Mapping[str, Flag | Unflagged | None], lock_timeout: float | None = None
) -> Mapping[str, UneditableError]:
    """Write the flags of several identities in one edit. Return those that cannot be written.

    None removes a flag of another token than the present one. Skips identities that are no longer in the file, or
    have another token there by now. Waits ``lock_timeout``
    seconds for other editors (by default `LOCK_TIMEOUT`): do not call it on an event loop. Raises EditError if the
    file cannot be locked, read or written.
    """
    refused: dict[str, UneditableError] = {}

    def change(text: str) -> str:
        refused.clear()
        for name, (_, table) in named(read(text), Table.IDENTITY).items():
            if name in flags and _is_relevant(table, flag := flags[name]):
                try:
                    text = flagged(text, name, flag) if isinstance(flag, Flag) else unflagged(text, name)
                except UneditableError as error:
                    refused[name] = error
        return text

    _rewrite(path, change, lock_timeout)
    return refused


def _is_relevant(table: Mapping[str, Any], flag: Flag | Unflagged | None) -> bool:
    """Return whether a flag matches the token in a table; True if the token is stored elsewhere."""
    token, present = table.get("token"), table.get(FLAG)
    if isinstance(flag, Unflagged):
        return isinstance(present, dict) and present.get("token") == flag.token
    if not isinstance(token, str):
        return True
    about = flag.token if flag is not None else present.get("token") if isinstance(present, dict) else None
    return (about == str(Bearer.of(token))) is (flag is not None)


def _rewrite(path: Path, change: Change, lock_timeout: float | None = None) -> None:
    with ExitStack() as stack:
        with _edit_errors(path):
            real = path.resolve(strict=True)
            before = real.read_bytes()
        if is_read_only(real) and _changed(path, before, change) == before:
            return  # A file lock could not be taken there.
        with _edit_errors(path):
            stack.enter_context(locked(real, LOCK_TIMEOUT if lock_timeout is None else lock_timeout))
        for _ in range(TRIES):
            with _edit_errors(path):
                before = real.read_bytes()
            after = _changed(path, before, change)
            if after == before:
                return
            with _edit_errors(path), Replacement(real) as new:
                if new.put(after, instead_of=before):
                    return
            time.sleep(PAUSE)
    raise EditError(path, "was changed by another program at each attempt to write it", "try again")


@contextlib.contextmanager
def _edit_errors(path: Path) -> Iterator[None]:
    """Turn what the file system raises into an EditError."""
    try:
        yield
    except TimeoutError as error:
        raise EditError(path, str(error), "try again") from None
    except (OSError, RuntimeError, NotImplementedError) as error:  # a loop of symlinks; no locks on this file system
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if getattr(error, "errno", None) in UNWRITABLE:
            what, remedy = f"cannot be written ({reason})", remedy_of_read_only(path)
            raise EditError(path, what, remedy, is_unwritable=True) from error
        raise EditError(path, f"cannot be edited: {reason}", "fix this, or edit it by hand") from error


def _changed(path: Path, before: bytes, change: Change) -> bytes:
    try:
        text = before.decode()
        bom = BOM if text.startswith(BOM) else ""
        return (bom + change(text.removeprefix(BOM))).encode()
    except UnicodeError:
        raise EditError(path, "is not UTF-8 text", "save it as UTF-8") from None
    except UneditableError as error:
        raise EditError(path, str(error), "edit the file by hand") from None
    except ConfigError as error:
        raise EditError(path, f"would be invalid after the edit: {error.problems[0]}", "fix this first") from None
