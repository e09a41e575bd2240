"""Notices changes of files by polling: one stat call for each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Mark = tuple[int, int, int, int, int]


class Watcher:
    """Reports that one of some files was changed, created, removed or given other permissions.

    Polling, once a second or so, works on every file system and through symlinks.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._marks: dict[Path, Mark | None] = {path: _mark(path) for path in paths}

    def watch(self, paths: Iterable[Path]) -> None:
        """Watch these files from now on. Those already watched keep their last mark, so that no change is missed."""
        self._marks = {path: self._marks[path] if path in self._marks else _mark(path) for path in paths}

    def changed(self) -> bool:
        """Return whether a file has changed since the last call, or since it is watched. Raises nothing."""
        before, self._marks = self._marks, {path: _mark(path) for path in self._marks}
        return self._marks != before


def _mark(path: Path) -> Mark | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    # The change time also tells a chmod, which may fix a file that was refused.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
