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
import queue
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

OPTION: Final = "codexpool_events"
"""The mitmproxy option that names the file."""

KEPT: Final = 10_000
"""Events that may wait for the disk, some 600 bytes each. Further ones are dropped and counted."""

NEW: Final = 2_000
"""Events that may wait for their line: more come only if the disk hangs."""

BATCH: Final = 1_000
"""Events in one write."""

LINGER = 0.1
"""Seconds that an event waits for others, to be written in one batch."""

RETRY = (1.0, 60.0)
"""Seconds until a failed write is retried: at first, and at most (doubling in between)."""

ENDS_WITHIN: Final = 2.0
"""Seconds that `Journal.stop` waits for the disk."""

PATIENCE: Final = 1.0
"""Seconds that a batch waits for another process to finish writing."""

BEGINNING: Final = b'{"version":'
"""How a file of events begins: no other file is appended to, so a typo in the option ruins none."""

# Never follow a link that was put there since, and never wait for a named pipe.
_OPEN: Final = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_APPEND
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


class Journal:
    """The file that events go into.

    Its methods belong to the event loop's thread and do no I/O; a thread writes. A disk that is full or gone costs
    one line in the log: events are kept, up to a bound, until it is back.
    """

    def __init__(self, path: Path) -> None:
        self.path = _real(path)
        self._new: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lines: deque[bytes] = deque()
        """Lines to write. This and what follows belongs to the writing thread."""
        self._dropped = 0
        """Events dropped before they reached the thread (belongs to the event loop), ..."""
        self._no_room = 0
        """... dropped by the thread, ..."""
        self._told = 0
        """... and how many of both are recorded in the file."""
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="codexpool-events", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Return how many events were dropped."""
        return self._dropped + self._no_room

    def write(self, event: Event) -> None:
        """Queue an event. Returns at once, raises nothing; does nothing after `stop`."""
        if self._is_stopped:
            return
        if self._new.qsize() >= NEW:
            self._dropped += 1
        else:
            self._new.put(event)

    def stop(self, timeout: float = ENDS_WITHIN) -> None:
        """Write what is queued, for at most that many seconds, and end."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._new.put(None)
        self._thread.join(timeout)
        unwritten = len(self._lines) + max(0, self._new.qsize() - 1)
        if unwritten:
            logger.warning("events: %d could not be written to %s any more", unwritten, self.path)

    @staticmethod
    def check(path: Path) -> None:
        """Raise ValueError, with what is wrong and how to fix it, if events could not be written there.

        Creates the file.
        """
        real = _real(path)
        try:
            descriptor = _opened(real)
        except OSError as error:
            raise ValueError(f"{OPTION}: {_trouble(real, error)}") from None
        try:
            begins = os.read(descriptor, len(BEGINNING))
        finally:
            os.close(descriptor)
        if not BEGINNING.startswith(begins):  # A file that is empty, or was cut off right there, will do.
            raise ValueError(f"{OPTION}: {real} has something else in it than events; name a new file")

    # -- in the thread

    def _run(self) -> None:
        pause = retry_at = 0.0
        goes_on = True
        while goes_on:
            goes_on = self._collect(retry_at)
            while self._lines and (not goes_on or time.monotonic() >= retry_at):
                error = self._write_some()
                if error is None and pause:
                    logger.info("events: %s is written again", self.path)
                    pause = 0.0
                elif error is not None:
                    if not goes_on:
                        return
                    if not pause:
                        logger.warning(
                            "events: %s. What is new waits in memory meanwhile", _trouble(self.path, error)
                        )
                    pause = min(max(RETRY[0], 2 * pause), RETRY[1])
                    retry_at = time.monotonic() + pause

    def _collect(self, retry_at: float) -> bool:
        """Collect new events; wait no longer than ``retry_at`` if lines are left. Returns False at the end."""
        seconds = max(0.0, retry_at - time.monotonic()) if self._lines else None
        events: list[Event | None] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._new.get(timeout=seconds))
            if self._new.qsize() < BATCH:
                time.sleep(LINGER)
            while len(events) < BATCH:
                events.append(self._new.get_nowait())
        for event in events:
            if event is None:
                return False
            self._keep(event)
        return True

    def _keep(self, event: Event) -> None:
        """Turn an event into its line early: a line has no secret, and takes little memory."""
        if len(self._lines) >= KEPT:
            self._no_room += 1
            return
        self._tell_of_losses()
        try:
            self._lines.append(event.json + b"\n")
        except Exception as error:  # Our bug; other events must still be written.
            logger.error("events: one cannot be written and is left out (%s)", error)

    def _tell_of_losses(self) -> None:
        """Add a line in place of events that were dropped."""
        if (lost := self.lost) > self._told:
            self._lines.append(_loss(lost - self._told))
            self._told = lost

    def _write_some(self) -> OSError | None:
        """Write the next lines; return the error, if any."""
        some = list(islice(self._lines, BATCH))
        try:
            append(self.path, b"".join(some))
        except OSError as error:
            return error
        for _ in some:
            self._lines.popleft()
        if not self._lines:
            self._tell_of_losses()
        return None


def append(path: Path, lines: bytes) -> None:
    """Append whole lines to a file, or create it. On OSError nothing is appended."""
    descriptor = _opened(path)
    try:
        is_alone = _locked(descriptor)
        size = os.fstat(descriptor).st_size
        begun = b"" if _ends_with_a_line(descriptor, size) else b"\n"
        left = memoryview(begun + lines)
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


def _loss(count: int) -> bytes:
    """Return the line in place of dropped events. It has no number."""
    text = f"{count} events were lost: they came while {KEPT} others could not be written"
    return Event(Kind.LOST, time.time(), text=text, number=None).json + b"\n"


def _real(path: Path) -> Path:
    """Resolve links now: later none is followed."""
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111 - "~nobody" is then no error


def _opened(path: Path) -> int:
    """Open a file to read and append; a new file is accessible to its owner only."""
    descriptor = os.open(path, _OPEN, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file")
    return descriptor


def _locked(descriptor: int) -> bool:
    """Lock the file until it is closed; return False on a file system without locks."""
    if sys.platform == "win32":
        return False
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, "another program keeps it locked") from None
            time.sleep(0.005)
        except OSError:
            return False
        else:
            return True


def _ends_with_a_line(descriptor: int, size: int) -> bool:
    if size == 0:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)  # Writes still append.
    return os.read(descriptor, 1) == b"\n"


def _trouble(path: Path, error: OSError) -> str:
    """Return what is wrong, and how to fix it."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return f"there is no folder {path.parent}; make it, or name a file elsewhere"
        case IsADirectoryError():
            return f"{path} is a folder; name a file in it, as in {path / 'events.jsonl'}"
        case OSError(errno=errno.EINVAL | errno.ENXIO | errno.ELOOP):
            return f"{path} is no regular file; name another one"
        case PermissionError():
            return f"{path} cannot be written: {error.strerror}; let the proxy's user write there, or name another"
        case _:
            return f"{path} cannot be written: {error.strerror}"
