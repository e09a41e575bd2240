"""Whether files have changed, at the price of one stat call for each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Mark = tuple[int, int, int, int, int]


class Watcher:
    """Tells that one of some files was changed, made, removed or given other permissions.

    It is polled (once a second is often enough), so it works on every file system, and through symlinks. A file
    that is not there is watched all the same.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._marks: dict[Path, Mark | None] = {path: _mark(path) for path in paths}

    def watch(self, paths: Iterable[Path]) -> None:
        """Watch these files from now on. Those already watched keep their last mark: no change gets lost."""
        self._marks = {path: self._marks[path] if path in self._marks else _mark(path) for path in paths}

    def changed(self) -> bool:
        """Whether there was a change since this was last asked, or since the watching began. Raises nothing."""
        now = {path: _mark(path) for path in self._marks}
        before, self._marks = self._marks, now
        return now != before


def _mark(path: Path) -> Mark | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    # The change time moves with a chmod too, which is what a refused file is waiting for.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
