"""Records what passes through a proxy.

A flow that has ended is copied in memory, without its bodies, within microseconds. The file is written at the end: a
value that is only recognized in a later flow is replaced in earlier ones, too. Nothing raw is ever on the disk.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from mitmproxy import http

from codexpool.recording import files
from codexpool.recording.files import RecordingError
from codexpool.recording.recording import LeakError, Recording, is_wanted
from codexpool.recording.strip import strip, weight

logger = logging.getLogger("codexpool")

MOST_BYTES: Final = 64 * 1024 * 1024
"""Memory that a recording may take: some 4 000 requests. Later ones are not recorded, and a warning says so."""

ASK: Final = 1.0  # Seconds after which the pool is asked for its tokens again: they may have been renewed

REPORT: Final = "CODEXPOOL_RECORD_REPORT"
"""The variable with the file in which `codexpool record` wants the reason if there is no recording."""


class Recorder:
    """A recording of what passes, until `finish` writes it. Raises RecordingError if it could not be written.

    Args:
        path: the file; ``.har`` makes a HAR file, anything else a flow file of mitmproxy.
        all_hosts: record requests to any host, and not only to the backend's.
        secrets: returns the tokens that the pool has now.
        names: returns the names of its identities.
    """

    def __init__(
        self,
        path: Path,
        *,
        all_hosts: bool = False,
        secrets: Callable[[], Iterable[str]] = tuple,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        files.check_place(path)
        self.path = path
        self._all_hosts = all_hosts
        self._secrets, self._names = secrets, names
        self._ask_at = 0.0
        self._recording = Recording(files.is_har(path))
        self._open: dict[str, http.HTTPFlow] = {}
        self._bytes, self._others = 0, 0
        self._is_full = self._is_over = False

    def add(self, flow: http.HTTPFlow) -> None:
        """Record a flow that has an answer or an error, or a WebSocket that was opened or closed."""
        is_open = flow.websocket is not None and flow.websocket.timestamp_end is None
        if self._open.pop(flow.id, None) is None and not self._accepts(flow):
            return
        if is_open:
            self._open[flow.id] = flow  # It is recorded when it is closed.
        else:
            self._keep(flow)
        self._ask()

    def finish(self) -> None:
        """Write everything, including WebSockets that are still open, and stop recording."""
        if self._is_over:
            return
        self._is_over = True
        for flow in self._open.values():
            self._keep(flow)
        self._ask(at_once=True)
        count, failure = len(self._recording.flows), ""
        try:
            files.put(self.path, self._recording.content())
        except LeakError as error:
            failure = f"{self.path}: not written, because {error}"
        except RecordingError as error:
            failure = str(error)
        except Exception as error:  # Its text may quote a secret.
            failure = f"{self.path}: not written, because of a bug in codexpool ({type(error).__name__})"
        if failure:
            logger.error("%s", failure)
        else:
            others = f"; left out {self._others} to other hosts" if self._others else ""
            replaced = self._recording.replaced()
            logger.info("%s: %d requests recorded%s; %d values replaced", self.path, count, others, replaced)
        _report(failure)

    def _keep(self, flow: http.HTTPFlow) -> None:
        stripped = strip(flow)
        self._bytes += weight(stripped)
        self._recording.flows.append(stripped)

    def _ask(self, at_once: bool = False) -> None:
        """Collect the pool's tokens and names: when the proxy ends, the pool may be gone."""
        if at_once or time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK
            self._recording.learn(self._secrets(), self._names())

    def _accepts(self, flow: http.HTTPFlow) -> bool:
        if not self._all_hosts and not is_wanted(flow):
            self._others += 1
            return False
        if not self._is_full and self._bytes > MOST_BYTES:
            self._is_full = True
            logger.warning(
                "%s: full after %d requests (%d MB); later ones are not recorded. To continue, start the proxy again "
                "with another file",
                self.path,
                len(self._recording.flows),
                self._bytes // 1_000_000,
            )
        return not self._is_full


def _report(failure: str) -> None:
    """Tell `codexpool record` whether there is a recording, if it has started this proxy."""
    if path := os.environ.get(REPORT):
        try:
            Path(path).write_text(failure, encoding="utf-8")
        except OSError as error:
            logger.error("%s: cannot write the outcome of the recording (%s)", path, error.strerror)
