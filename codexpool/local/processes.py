"""A process of this machine: ask it to end, and wait until it has."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from codexpool.local.running_proxies import may_run

NAMES: Final = (b"codexpool", b"mitm")  # One of them is in a word of each proxy's command line, folders aside.
LOOK: Final = 0.1  # seconds between two looks at a process, where the system does not tell that it has ended


class Process:
    """A process. On Linux never another one that got its id; it has ended even if its parent does not wait for it."""

    def __init__(self, pid: int, descriptor: int | None) -> None:
        self._pid, self._descriptor = pid, descriptor

    def terminate(self) -> None:
        """Send SIGTERM. Raises ProcessLookupError, PermissionError."""
        if self._descriptor is None:
            os.kill(self._pid, signal.SIGTERM)
        else:
            signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)

    def ends_within(self, seconds: float) -> bool:
        """Wait until it has ended, and return whether it has."""
        if self._descriptor is not None:
            return bool(select.select([self._descriptor], [], [], seconds)[0])
        deadline = time.monotonic() + seconds
        while (runs := may_run(self._pid)) and time.monotonic() < deadline:
            time.sleep(LOOK)
        return not runs


def is_proxy(pid: int) -> bool:
    """Return whether a process looks like a proxy; True if that cannot be seen.

    A note in a folder that a container shares has an id of the container, which is another process here.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True
    return any(name in word.rpartition(b"/")[2] for word in words for name in NAMES)


@contextlib.contextmanager
def process(pid: int) -> Iterator[Process]:
    """Find a process. Raises ProcessLookupError if there is none."""
    descriptor = None
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError:
            pass  # Some containers forbid it.
    try:
        yield Process(pid, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)
