"""Checks the modes of files with secrets: whether others can read them, or replace them."""

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
    """A file or folder that only its owner may open, and what it contains."""

    path: Path
    what: str


def of_pool(files: Iterable[Path]) -> list[Kept]:
    """Return pool.toml, which comes first, and the files of its tokens and logins."""
    first, *rest = files
    return [Kept(first, "pool.toml"), *(Kept(path, "the token in it") for path in rest)]


def of_logins(folder: Path) -> list[Kept]:
    """Return the folder of `codexpool login`, and the logins in it."""
    logins = (Kept(path, "the login in it") for path in sorted(folder.glob("*/auth.json")))
    return [Kept(folder, "the folder of logins"), *logins]


def of_confdir(folder: Path) -> list[Kept]:
    """Return mitmproxy's folder, and the keys of the certificate authority that clients trust."""
    keys = (Kept(folder / name, "the key of the certificate authority") for name in ca_files.SECRETS)
    return [Kept(folder, "mitmproxy's folder"), *keys]


def of_state(database: Path, is_named: bool) -> list[Kept]:
    """Return the state and its folder. A folder named by ``CODEXPOOL_STATE`` may have other uses: it is left out."""
    kept = [Kept(database, "the state")]
    return kept if is_named else [Kept(database.parent, "the folder of the state"), *kept]


def findings(kept: Iterable[Kept]) -> Iterator[Finding]:
    """Check the modes of those that exist."""
    if os.name != "posix":
        return
    found = [(one, mode) for one in dict.fromkeys(kept) if (mode := _mode(one.path)) is not None]
    too_open = [finding for one, mode in found if (finding := evaluate(one, mode)) is not None]
    yield from too_open
    if found and not too_open:
        yield ok(ABOUT, f"none of {len(found)} files and folders with secrets is open to others")


def evaluate(one: Kept, mode: int) -> Finding | None:
    """Return what is wrong with a mode (``st_mode``); None if nothing is."""
    is_folder = stat.S_ISDIR(mode)
    if not mode & OPEN_TO_OTHERS and not (is_folder and mode & 0o011):
        return None
    place = f"{one.path} (mode {stat.S_IMODE(mode):04o})"
    remedy = f"chmod {700 if is_folder else 600} {shlex.quote(str(one.path))}"
    if is_folder and not mode & WRITABLE:
        return note(ABOUT, f"{place}: others can list {one.what}", remedy)
    verb = "add files to" if is_folder else "change" if mode & WRITABLE else "read"
    return wrong(ABOUT, f"{place}: others can {verb} {one.what}", remedy)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None
