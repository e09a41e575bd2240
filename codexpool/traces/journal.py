"""Events as JSON lines in a file, written behind: nobody who has an event to tell waits for a disk.

For each batch the file is opened, appended to and closed again: it may be renamed or removed at any time, and the
next batch makes a new one. A batch is there as a whole or not at all; two proxies that share a file write one after
the other. Only a kill in the middle of a write leaves a piece of a line, and whoever writes next ends it.
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
"""Events that wait for the disk at most, some 600 bytes each. Those that come meanwhile are lost, and counted."""

NEW: Final = 2_000
"""Events at most of which the line is not made yet: more of them come only where the disk hangs."""

BATCH: Final = 1_000
"""Events in one write."""

LINGER = 0.1
"""Seconds that a first event waits for others to be written with it."""

RETRY = (1.0, 60.0)
"""Seconds until a batch that could not be written is tried again: at first, and at most (it doubles in between)."""

ENDS_WITHIN: Final = 2.0
"""Seconds that `Journal.stop` waits for the disk."""

PATIENCE: Final = 1.0
"""Seconds that a batch waits for another process to have written its own."""

BEGINNING: Final = b'{"version":'
"""What a file of events begins with: nothing is appended to any other file, a slip in the option ruins none."""

# What it is now, and not what a link leads to that somebody has put there since; a named pipe is not waited for.
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

    Every method belongs to the thread of the event loop, and none does I/O there; a thread of its own writes. A disk
    that is full or gone costs one line in the log: events are kept up to a bound until it is there again.
    """

    def __init__(self, path: Path) -> None:
        self.path = _real(path)
        self._new: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lines: deque[bytes] = deque()
        """What is to be written. This and what follows is the thread's own."""
        self._dropped = 0
        """Events that have not come as far as the thread (the loop's own), ..."""
        self._no_room = 0
        """... those that the thread had no room for, ..."""
        self._told = 0
        """... and how many of both the file tells of."""
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="codexpool-events", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Events that there was no room for, so far."""
        return self._dropped + self._no_room

    def write(self, event: Event) -> None:
        """Have an event written. Returns at once, raises nothing; does nothing after `stop`."""
        if self._is_stopped:
            return
        if self._new.qsize() >= NEW:
            self._dropped += 1
        else:
            self._new.put(event)

    def stop(self, timeout: float = ENDS_WITHIN) -> None:
        """Write what there is, as far as that takes no longer than so many seconds, and end."""
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
        """Raise ValueError, with what is wrong and what mends it, if events could not be written there.

        The file is there afterwards.
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
        """Wait for an event, while something is to be tried again not beyond that time. False at the end."""
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
        """Make the line of an event, as soon as may be: from then on it holds no secret, and little memory."""
        if len(self._lines) >= KEPT:
            self._no_room += 1
            return
        self._tell_of_losses()
        try:
            self._lines.append(event.json + b"\n")
        except Exception as error:  # A bug of ours; the others are to be read all the same.
            logger.error("events: one cannot be written and is left out (%s)", error)

    def _tell_of_losses(self) -> None:
        """A line stands in the place of those that were lost."""
        if (lost := self.lost) > self._told:
            self._lines.append(_loss(lost - self._told))
            self._told = lost

    def _write_some(self) -> OSError | None:
        """Write the next of the lines; what has kept it from that."""
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
    """Append whole lines to a file, which is made if it is not there. Raises OSError, and then none of them is."""
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
    """The line that stands in the place of those that were lost. (It is none of the proxy's, and has no number.)"""
    text = f"{count} events were lost: they came while {KEPT} others could not be written"
    return Event(Kind.LOST, time.time(), text=text, number=None).json + b"\n"


def _real(path: Path) -> Path:
    """The file itself, if a link leads there now: later on none is followed."""
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111 - "~nobody" is then no error


def _opened(path: Path) -> int:
    """A descriptor to read and to append. A file that is made is its owner's alone."""
    descriptor = os.open(path, _OPEN, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file")
    return descriptor


def _locked(descriptor: int) -> bool:
    """Whether no other process of ours writes until the file is closed; some file systems have no locks."""
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
    os.lseek(descriptor, size - 1, os.SEEK_SET)  # It is appended all the same.
    return os.read(descriptor, 1) == b"\n"


def _trouble(path: Path, error: OSError) -> str:
    """What is wrong, and what mends it."""
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
