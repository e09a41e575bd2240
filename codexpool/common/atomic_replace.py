"""Replace a file atomically: whenever the process is killed, the old or the new file is there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

SPARE = 4096  # Bytes to reserve beyond the size of the old file.
KEPT_IN_A_SECOND = 10  # Backups of one file within a second.

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NOT_HERE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)  # Errors of a file system that cannot reserve space.


class Replacement:
    """The new file, made beside the old one before its content is known.

    So a folder without write permission, or a full disk, is noticed before anything is at stake. Leaving the block
    without `put` removes it. Use it under `locked`. ``real`` is not a symlink; its owner and mode are kept.
    """

    def __init__(self, real: Path) -> None:
        self._real = real
        # One fixed name: what a killed process left behind is overwritten.
        self._new = real.with_name(f".{real.name}.new")
        self._descriptor = -1

    def __enter__(self) -> Replacement:
        """Raises OSError if the file could not be written."""
        status = self._real.stat()
        self._new.unlink(missing_ok=True)
        self._descriptor = os.open(self._new, _CREATE, 0o600)
        try:
            give_owner(self._new, status)
            self._new.chmod(stat.S_IMODE(status.st_mode))
            _reserve(self._descriptor, status.st_size + SPARE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def put(self, content: bytes, instead_of: bytes | None = None) -> bool:
        """Write the content and replace the old file; return whether that was done. Raises OSError.

        With ``instead_of``, only if the old file still has that content.
        """
        _write(self._descriptor, content)
        self._close()  # Windows replaces no open file.
        if instead_of is not None and self._real.read_bytes() != instead_of:
            return False
        self._new.replace(self._real)
        sync_folder(self._real.parent)
        return True

    def __exit__(self, *_: object) -> None:
        self._close()
        self._new.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def create_whole(path: Path, content: bytes) -> None:
    """Create a file for its owner only: with all of its content, or not at all. Raises OSError if it exists."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(new, _CREATE, 0o600)
    try:
        try:
            _write(descriptor, content)
        finally:
            os.close(descriptor)
        if not linked(new, path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def linked(new: Path, path: Path) -> bool:
    """Give a file a second name unless that is taken: renaming would replace another one. Raises OSError."""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        return False
    except OSError:  # A file system without links.
        if path.exists():
            return False
        new.rename(path)
    return True


def keep_beside(real: Path, content: bytes, what: str = "before") -> Path:
    """Write a backup, or another version, beside a file, for its owner only; return its path. Raises OSError."""
    stem = f"{real.name}.{what}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in range(KEPT_IN_A_SECOND):
        path = real.with_name(f"{stem}-{number}" if number else stem)
        try:
            descriptor = os.open(path, _CREATE, 0o600)
        except FileExistsError:
            continue
        try:
            _write(descriptor, content)
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            give_owner(path, real.stat())
        sync_folder(real.parent)
        return path
    raise FileExistsError(errno.EEXIST, "too many files of that name", str(real.with_name(stem)))


@contextlib.contextmanager
def locked(real: Path, timeout: float) -> Iterator[None]:
    """Keep other codexpool processes from replacing a file.

    The lock is a file beside it. Waits up to ``timeout`` seconds: not for an event loop. Raises TimeoutError,
    OSError, and NotImplementedError on a file system without locks.
    """
    import filelock  # Slow, and seldom needed.

    path = real.with_name(f".{real.name}.lock")
    lock = filelock.FileLock(path, timeout=timeout, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise TimeoutError("is being edited by another process") from None
    try:
        with contextlib.suppress(OSError):  # A lock file of root must not lock the owner out.
            give_owner(path, real.stat())
        yield
    finally:
        lock.release()


def give_owner(path: Path, status: os.stat_result) -> None:
    """Give a file the owner in ``status``. Raises OSError."""
    now = path.stat()
    if os.name == "posix" and (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        os.chown(path, status.st_uid, status.st_gid)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    with contextlib.suppress(AttributeError):  # macOS and Windows do not have it.
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise


def sync_folder(folder: Path) -> None:
    """Make a rename durable, if the system can sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
