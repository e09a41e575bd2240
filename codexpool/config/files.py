"""Finds pool.toml, and notices changes of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

OPTION = "codexpool_config"
VARIABLE = "CODEXPOOL_CONFIG"


@dataclass(frozen=True, slots=True)
class Places:
    """Where pool.toml is looked for: the first of ``paths`` that exists is used.

    If none is a file, the first that is something else, or cannot be looked at, is used: so that reading it fails.
    If a person has named it, ``named_by`` is the option or variable, and no other file is used in its place.
    """

    paths: tuple[Path, ...]
    named_by: str = ""

    @property
    def new(self) -> Path:
        """The pool.toml to create if there is none: the user's own."""
        return self.paths[-1]

    def find(self, in_use: Path | None = None) -> Path | None:
        """Return the pool.toml to use; None if there is none. Raises nothing.

        One that is ``in_use`` counts unless it is certain that it does not exist.
        """
        for path in self.paths:
            if os.path.isfile(path) or (path == in_use and may_exist(path)):  # noqa: PTH113 (it raises nothing)
                return path
        return next(filter(may_exist, self.paths), None)

    def __str__(self) -> str:
        """Return all places, in order, to show to a person."""
        if self.named_by:
            return f"{self.new} ({self.named_by})"
        return ", ".join((f"--set {OPTION}=PATH", VARIABLE, *map(str, self.paths)))


def places(option: str | None, environ: Mapping[str, str], entry: Path | None) -> Places:
    """Return where to look for pool.toml.

    That is ``option``, or else the environment variable. If neither is set: ``config/pool.toml`` beside ``entry``
    (mitmproxy's script file, if there is one), then ``codexpool/pool.toml`` in the user's configuration folder.
    """
    for key, value in ((OPTION, option), (VARIABLE, environ.get(VARIABLE))):
        if value:  # abspath accepts an unknown "~user"
            return Places((Path(os.path.abspath(os.path.expanduser(value))),), key)  # noqa: PTH100, PTH111
    beside = (entry.parent / "config" / "pool.toml",) if entry else ()
    import platformdirs  # Slow to import, and not needed for a named file.

    return Places((*beside, platformdirs.user_config_path("codexpool", appauthor=False) / "pool.toml"))


def may_exist(path: Path) -> bool:
    """Return False if there certainly is no such file; reading it reports whatever else is wrong with it."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def is_read_only(path: Path) -> bool:
    """Return whether a file cannot be replaced: it is mounted read-only, or its folder is another user's."""
    return not os.access(path.resolve().parent, os.W_OK | os.X_OK)


def remedy_of_read_only(path: Path) -> str:
    return f"change it where it comes from (a mounted secret), or let this user write to {path.parent}"


class Watcher:
    """Reports that one of some files was changed, created, removed or given other permissions.

    Polling, once a second or so, works on every file system and through symlinks.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._marks: dict[Path, tuple[int, ...]] = {path: _mark(path) for path in paths}

    def watch(self, paths: Iterable[Path]) -> None:
        """Watch these files from now on. Those already watched keep their last mark, so that no change is missed."""
        self._marks = {path: self._marks[path] if path in self._marks else _mark(path) for path in paths}

    def __contains__(self, path: Path) -> bool:
        return path in self._marks

    def changed(self) -> bool:
        """Return whether a file has changed since the last call, or since it is watched. Raises nothing."""
        before, self._marks = self._marks, {path: _mark(path) for path in self._marks}
        return self._marks != before


def _mark(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ()
    # The change time also tells a chmod, which may fix a file that was refused.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
