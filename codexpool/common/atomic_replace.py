"""A file put in the place of another one: all of it or nothing, whenever the process is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

SPARE = 4096
"""Bytes reserved beyond the length of the old file."""

KEPT_IN_A_SECOND = 10
"""Files that are kept beside another one within a second at most."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

_NOT_HERE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""How a file system says that it cannot reserve."""


class Replacement:
    """The new file, made beside the old one before there is anything to write into it.

    What would keep it from being written (a folder that may not be written to, a full disk) is so found out while
    nothing is at stake. Leaving the block removes what was not `put`. Only ever used under `locked`.

    Args:
        real: the file itself, no symlink to it. Its owner and its mode are kept.
    """

    def __init__(self, real: Path) -> None:
        self._real = real
        # One fixed name, used under the lock: what a killed process left behind is overwritten, never heaped up.
        self._new = real.with_name(f".{real.name}.new")
        self._descriptor = -1

    def __enter__(self) -> Replacement:
        """Raises OSError where the file could not be written."""
        status = self._real.stat()
        self._new.unlink(missing_ok=True)
        self._descriptor = os.open(self._new, _CREATE, 0o600)
        try:
            give_owner(self._new, status)
            self._new.chmod(stat.S_IMODE(status.st_mode))
            _reserve(self._descriptor, status.st_size + SPARE)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def put(self, content: bytes, instead_of: bytes | None = None) -> bool:
        """Write the content, and let it take the old file's place. Raises OSError.

        With ``instead_of`` only if the old file still has that content; whether it was done.
        """
        _write(self._descriptor, content)
        self._close()  # Windows replaces no file that is open.
        if instead_of is not None and self._real.read_bytes() != instead_of:
            return False
        self._new.replace(self._real)
        sync_folder(self._real.parent)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._new.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def keep_beside(real: Path, content: bytes) -> Path:
    """Write what a file has held into a new file beside it, for its owner only, and return that one's path.

    No file that is there is overwritten. Raises OSError.
    """
    stem = f"{real.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
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
    """No other process of ours replaces the file meanwhile.

    The lock stands beside it: who may replace the file can write there. Waits ``timeout`` seconds at most: not for
    an event loop. Raises TimeoutError, OSError, and NotImplementedError on a file system without locks.
    """
    import filelock  # only where something is written

    path = real.with_name(f".{real.name}.lock")
    lock = filelock.FileLock(path, timeout=timeout, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise TimeoutError("is being edited by another process") from None
    try:
        with contextlib.suppress(OSError):  # root's lock file must not keep the owner out
            give_owner(path, real.stat())
        yield
    finally:
        lock.release()


def give_owner(path: Path, status: os.stat_result) -> None:
    """Let a file be owned by whom ``status`` names. Raises OSError where that is not ours to give."""
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
    with contextlib.suppress(AttributeError):  # macOS and Windows have no such call
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise


def sync_folder(folder: Path) -> None:
    """Make the renaming itself durable, where a folder can be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
