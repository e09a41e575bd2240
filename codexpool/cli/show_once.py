"""A secret that is shown once: kept if it was shown, and else not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from codexpool.cli.common import Failure, edit_pool


def give(path: Path, name: str, key: str, change: Callable[[str], str]) -> None:
    """Write the hash of a key to pool.toml, and the key to standard output: or neither. Raises Failure."""
    before = after = ""

    def changed(text: str) -> str:
        nonlocal before, after
        before, after = text, change(text)
        return after

    def changed_back(text: str) -> str:
        if text != after:
            raise Failure("somebody else has changed it")
        return before

    edit_pool(path, changed)
    try:
        _print(key)
    except OSError as error:
        what = f"the key could not be written to standard output: {error.strerror or error}"
        try:
            edit_pool(path, changed_back)
        except Failure:
            raise Failure(f"{what}. It is lost; for another one: codexpool member rotate {name}") from None
        raise Failure(f"{what}. Nothing was changed") from None


def _print(key: str) -> None:
    """Write a key to standard output, now. Raises OSError."""
    if sys.stdout is None:
        raise OSError("it is closed")
    try:
        sys.stdout.write(f"{key}\n")
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # Else the interpreter writes it again at its end, in vain, and says so.
        raise
