"""Finds pool.toml, and notices changes of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from codexpool.config.model import ConfigError, Problem

OPTION = "codexpool_config"
VARIABLE = "CODEXPOOL_CONFIG"


def find(option: str | None, environ: Mapping[str, str], entry: Path | None) -> Path | None:
    """Return the pool.toml to use, or None if there is none.

    The first of: ``option``, the environment variable, ``config/pool.toml`` beside ``entry`` (mitmproxy's script
    file, if there is one), ``codexpool/pool.toml`` in the user's configuration folder. Raises ConfigError if one
    of the first two names a file that does not exist, rather than use another file.
    """
    for key, value in ((OPTION, option), (VARIABLE, environ.get(VARIABLE))):
        if value:
            return _named(key, value)
    return next((path for path in default_paths(entry) if os.path.isfile(path)), None)  # noqa: PTH113 - never raises


def default_paths(entry: Path | None) -> tuple[Path, ...]:
    """Return the files of which the first that exists is used if none is named."""
    beside = (entry.parent / "config" / "pool.toml",) if entry else ()
    import platformdirs  # Slow to import, and not needed for a named file.

    return (*beside, platformdirs.user_config_path("codexpool", appauthor=False) / "pool.toml")


def places(entry: Path | None) -> tuple[str, ...]:
    """Return all places that `find` looks at, in order, to show to a person."""
    return (f"--set {OPTION}=PATH", VARIABLE, *map(str, default_paths(entry)))


def _named(key: str, value: str) -> Path:
    path = Path(os.path.abspath(os.path.expanduser(value)))  # noqa: PTH100, PTH111 - accepts an unknown "~user"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        problem = Problem(path, None, key, "there is no such file", f"create it, or correct {key}")
        raise ConfigError([problem]) from None
    except OSError:
        pass  # It exists; reading it reports what is wrong with it.
    return path


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
