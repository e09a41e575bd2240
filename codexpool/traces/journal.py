"""Events as JSON lines in a file, written in the background: no request waits for a disk.

The file is opened, appended to and closed for each batch: it may be renamed or removed at any time, and the next
batch creates a new one. A batch is written as a whole or not at all, and proxies that share a file take turns. Only a
kill during a write leaves part of a line, which the next writer ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import threading
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Final

from codexpool.traces.events import Event, Kind

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("codexpool")

OPTION: Final = "codexpool_events"  # the mitmproxy option that names the file

KEPT: Final = 10_000
"""Events that may wait for the disk, about 1 kB each. Further ones are dropped and counted."""

BATCH: Final = 1_000  # events in one write
LINGER = 0.1  # seconds that an event waits for others, to be written in one batch
RETRY = (1.0, 60.0)  # seconds until a failed write is retried: at first, and at most (doubling in between)
ENDS_WITHIN: Final = 2.0  # seconds that `Journal.stop` waits for the disk

BEGINNING: Final = b'{"version":'
"""How a file of events begins: no other file is appended to, so a typo in the option ruins none."""

# Never follow a link that was put there since, and never wait for a named pipe.
_FLAGS: Final = ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | sum(getattr(os, name, 0) for name in _FLAGS)


class Journal:
    """The file that events go into.

    `write` and `stop` are for the event loop's thread, and do no I/O; a thread writes. A full or missing disk costs
    one line in the log: events are kept, up to a bound, until it is back.
    """

    def __init__(self, path: Path) -> None:
        self.path = _real(path)
        self.lost = 0
        """Events that were dropped."""
        self._reported = 0
        """How many of them are recorded in the file."""
        self._waiting: deque[Event] = deque()
        self._lock = threading.Lock()
        self._news, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="codexpool-events", daemon=True)
        self._thread.start()

    def write(self, event: Event) -> None:
        """Queue an event. Returns at once, raises nothing; does nothing after `stop`."""
        if self._stopped.is_set():
            return
        with self._lock:
            if len(self._waiting) >= KEPT:
                self.lost += 1
                return
            self._report_losses()
            self._waiting.append(event)
        self._news.set()

    def stop(self, timeout: float = ENDS_WITHIN) -> None:
        """Write what is queued, for at most that many seconds, and end."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._news.set()
        self._thread.join(timeout)
        if self._waiting:
            logger.warning("events: the last %d could not be written to %s", len(self._waiting), self.path)

    @staticmethod
    def check(path: Path) -> None:
        """Raise ValueError, with what is wrong and how to fix it, if events could not be written there.

        Creates the file.
        """
        real = _real(path)
        try:
            with os.fdopen(_opened(real), "rb") as file:
                begins = file.read(len(BEGINNING))
        except OSError as error:
            raise ValueError(f"{OPTION}: {_trouble(real, error)}") from None
        if not BEGINNING.startswith(begins):  # A file that is empty, or was cut off right there, will do.
            raise ValueError(f"{OPTION}: {real} contains something other than events; name a new file")

    def _report_losses(self) -> None:
        """Queue a line in place of the events that were dropped; the lock is held."""
        if (count := self.lost - self._reported) > 0:
            text = f"{count} events were lost: they came while {KEPT} others could not be written"
            self._waiting.append(Event(Kind.LOST, time.time(), text=text, number=None))
            self._reported = self.lost

    # -- in the thread

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._news.wait()
            is_last = self._stopped.wait(pause or LINGER)
            self._news.clear()
            while batch := self._next():
                try:
                    append(self.path, b"".join(map(_line, batch)))
                except OSError as error:
                    if not pause:
                        logger.warning("events: %s. New ones are kept in memory", _trouble(self.path, error))
                    pause = min(max(RETRY[0], 2 * pause), RETRY[1])
                    self._news.set()
                    break
                if pause:
                    logger.info("events: %s is written again", self.path)
                    pause = 0.0
                with self._lock:
                    for _ in batch:
                        self._waiting.popleft()
                    if not self._waiting:
                        self._report_losses()
            if is_last:
                return

    def _next(self) -> list[Event]:
        with self._lock:
            return list(islice(self._waiting, BATCH))


def _line(event: Event) -> bytes:
    try:
        return event.json + b"\n"
    except Exception as error:  # A bug of codexpool; other events must still be written.
        logger.error("events: one cannot be written and is left out (%s)", error)
        return b""


def append(path: Path, lines: bytes) -> None:
    """Append whole lines to a file, or create it. On OSError nothing is appended."""
    descriptor = _opened(path)
    try:
        is_alone = _locked(descriptor)
        size = os.fstat(descriptor).st_size
        left = memoryview(lines if _ends_with_a_line(descriptor, size) else b"\n" + lines)
        written = 0
        try:
            while left:
                count = os.write(descriptor, left)
                left, written = left[count:], written + count
        except OSError:
            if is_alone and os.fstat(descriptor).st_size == size + written:
                with contextlib.suppress(OSError):  # Then the next batch begins on a line of its own.
                    os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _real(path: Path) -> Path:
    """Resolve links now: later none is followed."""
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111 - "~nobody" is then no error


def _opened(path: Path) -> int:
    """Open a file to read and append; a new file is accessible to its owner only."""
    descriptor = os.open(path, _OPEN, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file")
    return descriptor


def _locked(descriptor: int) -> bool:
    """Lock the file until it is closed; return False on a file system without locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _ends_with_a_line(descriptor: int, size: int) -> bool:
    if size == 0:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)  # Writes still append.
    return os.read(descriptor, 1) == b"\n"


def _trouble(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"there is no folder {path.parent}; create it, or name a file elsewhere"
    if error.errno in (errno.EINVAL, errno.ENXIO, errno.ELOOP, errno.EISDIR):
        return f"{path} is not a regular file; name another one"
    return f"{path} cannot be written: {error.strerror}; make it writable for the proxy's user, or name another file"
