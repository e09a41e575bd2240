"""Files that hold secrets: can anybody else read them, or put something in their place. Reads modes, no contents."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from codexpool.common.private_files import OPEN_TO_OTHERS
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.local import ca_files

ABOUT: Final = "files"

WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


class Kept(NamedTuple):
    """A file or folder that is to be its owner's alone, and what it is."""

    path: Path
    what: str


def of_pool(files: Iterable[Path]) -> list[Kept]:
    """pool.toml, and the files of its tokens and logins."""
    first, *rest = files
    return [Kept(first, "pool.toml"), *(Kept(path, "the token in it") for path in rest)]


def of_logins(folder: Path) -> list[Kept]:
    """Where `codexpool login` keeps its logins."""
    return [
        Kept(folder, "the folder of logins"),
        *(Kept(path, "the login in it") for path in _in(folder, "*/auth.json")),
    ]


def of_confdir(folder: Path) -> list[Kept]:
    """mitmproxy's folder, and the key with which everything is signed that clients are made to believe."""
    keys = (Kept(folder / name, "the key of the authority") for name in ca_files.SECRETS)
    return [Kept(folder, "mitmproxy's folder"), *keys]


def of_state(database: Path, is_named: bool) -> list[Kept]:
    """The state. A folder that somebody has named (``CODEXPOOL_STATE``) may be for other things as well."""
    kept = [Kept(database, "the state")]
    return kept if is_named else [Kept(database.parent, "the folder of the state"), *kept]


def findings(kept: Iterable[Kept]) -> Iterator[Finding]:
    """What is too open, of what is there; one line if nothing is."""
    if os.name != "posix":
        return
    found = [(one, mode) for one in dict.fromkeys(kept) if (mode := _mode(one.path)) is not None]
    open_ones = [finding for one, mode in found if (finding := judged(one, mode)) is not None]
    yield from open_ones
    if found and not open_ones:
        yield ok(ABOUT, f"none of {len(found)} files and folders with secrets is open to others")


def judged(one: Kept, mode: int) -> Finding | None:
    """What is wrong with a mode (``st_mode``); None if nothing is."""
    is_folder = stat.S_ISDIR(mode)
    if not mode & OPEN_TO_OTHERS and not (is_folder and mode & 0o011):
        return None
    shown, remedy = f"{stat.S_IMODE(mode):04o}", f"chmod {700 if is_folder else 600} {shlex.quote(str(one.path))}"
    if is_folder and not mode & WRITABLE:
        return note(ABOUT, f"{one.path} (mode {shown}): others can see what is in {one.what}", remedy)
    verb = "put files into" if is_folder else "change" if mode & WRITABLE else "read"
    return wrong(ABOUT, f"{one.path} (mode {shown}): others can {verb} {one.what}", remedy)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _in(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
