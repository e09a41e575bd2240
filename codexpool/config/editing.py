"""pool.toml changed in place: all of the change or nothing of it, and nothing else."""

from __future__ import annotations

import contextlib
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from codexpool.common.atomic_replace import Replacement, locked
from codexpool.config.flags import flagged, unflagged
from codexpool.config.model import ConfigError, Flag, one_line
from codexpool.config.read import parse
from codexpool.config.tables import UneditableError
from codexpool.tokens.bearer import Bearer

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that edits the same file."""

TRIES = 5
"""How often an edit is begun anew because the file changed under it."""

PAUSE = 0.05
"""Seconds between two tries."""

BOM = "\ufeff"

Change = Callable[[str], str]
"""The text as it is in, the text as it shall be out."""


class EditError(Exception):
    """An edit that could not be made; the file is as it was."""

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        super().__init__(one_line(f"{path}: {what}; {remedy}"))
        self.path = path
        self.what = what
        self.remedy = remedy


def edit(path: Path, change: Change) -> None:
    """Change the text of a pool.toml, which has to hold afterwards.

    ``change`` may be called more than once, each time with the text as it is by then; what it raises goes through
    (but `UneditableError` becomes an EditError). It waits for other editors: not to be called on an event loop.
    Raises EditError if the file cannot be locked, read or written, keeps changing, or would not hold any more.
    """

    def changed(text: str) -> str:
        result = change(text)
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


def put_flags(
    path: Path, flags: Mapping[str, Flag | None], lock_timeout: float | None = None
) -> Mapping[str, UneditableError]:
    """Write the flags of several identities in one edit; None takes a flag out. Return what could not be placed.

    A flag is skipped where the identity has left the file, or has another token in it by now. Waits ``lock_timeout``
    seconds for other editors (by default `LOCK_TIMEOUT`): not to be called on an event loop. Raises EditError if the
    file cannot be locked, read or written now.
    """
    refused: dict[str, UneditableError] = {}

    def change(text: str) -> str:
        refused.clear()
        for name, flag in _relevant(text, flags).items():
            try:
                text = unflagged(text, name) if flag is None else flagged(text, name, flag)
            except UneditableError as error:
                refused[name] = error
        return text

    _rewrite(path, change, lock_timeout)
    return refused


def _relevant(text: str, flags: Mapping[str, Flag | None]) -> dict[str, Flag | None]:
    """Those of the flags that the text is still to be changed for."""
    try:
        tables = tomllib.loads(text).get("identity", [])
    except tomllib.TOMLDecodeError as error:
        raise UneditableError(f"is not TOML ({error})") from None
    by_name = {t.get("name"): t for t in tables if isinstance(t, dict)} if isinstance(tables, list) else {}
    return {name: flag for name, flag in flags.items() if name in by_name and _is_relevant(by_name[name], flag)}


def _is_relevant(table: Mapping[str, Any], flag: Flag | None) -> bool:
    """Whether a table is to be changed: a flag goes with the token it is about, where the table has that itself."""
    token = table.get("token")
    if not isinstance(token, str):
        return True
    present = str(Bearer.of(token))
    if flag is not None:
        return flag.token == present
    match table.get("needs_replacement"):
        case {"token": about}:
            return bool(about != present)
        case _:
            return True


def _rewrite(path: Path, change: Change, lock_timeout: float | None = None) -> None:
    with ExitStack() as stack:
        with _told(path):
            real = path.resolve(strict=True)
            stack.enter_context(locked(real, LOCK_TIMEOUT if lock_timeout is None else lock_timeout))
        for _ in range(TRIES):
            with _told(path):
                before = real.read_bytes()
            after = _changed(path, before, change)
            with _told(path):
                if after == before or _replaced(real, before, after):
                    return
            time.sleep(PAUSE)
    raise EditError(path, "was changed by another program each time it was to be written", "try again")


def _replaced(real: Path, before: bytes, after: bytes) -> bool:
    with Replacement(real) as new:
        return new.put(after, instead_of=before)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the file system refuses becomes an EditError."""
    try:
        yield
    except TimeoutError as error:
        raise EditError(path, str(error), "try again") from None
    except (OSError, RuntimeError, NotImplementedError) as error:  # a loop of symlinks; no locks on this file system
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        remedy = f"let the user the proxy runs as write to it and to {path.parent}, or edit it by hand"
        raise EditError(path, f"cannot be edited: {reason}", remedy) from error


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
        raise EditError(path, f"would not hold after the edit: {error.problems[0]}", "correct this first") from None
