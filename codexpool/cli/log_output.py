"""Standard output for the log of a proxy, which outlives a full disk."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any


class Log(io.FileIO):
    """Where the log goes. mitmproxy ends at once if it cannot be written, in the middle of turns.

    A full disk costs lines of the log only. When the reader of a pipe is gone, the proxy ends as on SIGTERM.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)
        except OSError:
            pass
        return len(data)


def log_output() -> io.TextIOWrapper:
    """Return standard output for a log: written line by line, as a log in a file is read while it grows."""
    log = io.BufferedWriter(Log(sys.stdout.fileno(), "w", closefd=False))
    return io.TextIOWrapper(log, sys.stdout.encoding, "backslashreplace", line_buffering=True)
