"""Records what passes through a proxy, off the path of its requests.

A flow that has ended is copied in memory, within microseconds. A thread anonymizes all of them every so often and
writes the file as a whole: a value that is only recognized later must not remain in what was written earlier, so
nothing is ever appended. The file is whole at any time and never contains anything raw. A process that is killed
loses what came since the last write.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from mitmproxy import http

from codexpool.recording import files
from codexpool.recording.files import RecordingError
from codexpool.recording.recording import LeakError, Recording, is_wanted
from codexpool.recording.strip import message_sizes, strip, weight

logger = logging.getLogger("codexpool")

MOST_BYTES: Final = 64 * 1024 * 1024
"""Memory that a recording may take: some 4 000 requests. Later ones are not recorded, and a warning says so."""

EVERY: Final = 30.0
"""Seconds between two writes, if there is anything new."""

SHARE: Final = 20
"""A write is followed by a pause that many times as long."""

MANY: Final = 500
"""Requests from which on the last write takes seconds."""

ASK: Final = 1.0
"""Seconds after which the pool is asked for its tokens again: they may have been renewed."""

BREATH: Final = 0.001
"""Seconds that the thread leaves to the proxy after each flow."""

LAST_TRIES: Final = 5.0
"""Seconds for which the last write is retried."""

REPORT: Final = "CODEXPOOL_RECORD_REPORT"
"""The variable with the file in which `codexpool record` wants the outcome."""


class _OpenSocket(NamedTuple):
    """An open WebSocket, and the sizes of its messages: mitmproxy drops old messages, to bound memory."""

    flow: http.HTTPFlow
    sizes: dict[str, int]


class Recorder:
    """A recording of what passes, until `finish`.

    ``add`` and ``message`` are for the proxy's thread, and do no I/O. Raises RecordingError if the file cannot be
    written.

    Args:
        path: the file; ``.har`` makes a HAR file, anything else a flow file of mitmproxy.
        all_hosts: record requests to any host, and not only to the backend's.
        secrets: returns the tokens the pool has now; called in the proxy's thread.
        names: returns the names of its identities, likewise.
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
        self._known: tuple[set[str], set[str]] = (set(), set())
        self._ask_at = 0.0
        self._recording = Recording(files.is_har(path))
        self._fresh: deque[http.HTTPFlow] = deque()
        self._open: dict[str, _OpenSocket] = {}
        self._count, self._bytes, self._others = 0, 0, 0
        self._is_full = self._has_news = False
        self._failure = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="codexpool-recorder", daemon=True)
        self._thread.start()

    # -- in the proxy's thread

    def add(self, flow: http.HTTPFlow) -> None:
        """Record a flow that has an answer or an error, or a WebSocket that was closed."""
        if flow.websocket is not None and flow.websocket.timestamp_end is None:
            return  # It is recorded when it is closed.
        socket = self._open.pop(flow.id, None)
        if not self._accepts(flow):
            return
        self._count += 1
        stripped = strip(flow, socket.sizes if socket else None)
        self._bytes += weight(stripped)
        self._fresh.append(stripped)
        self._has_news = True
        self._ask()

    def message(self, flow: http.HTTPFlow) -> None:
        """Count the newest message of a WebSocket."""
        if flow.websocket is None or not flow.websocket.messages:
            return
        if flow.id not in self._open:
            if not self._accepts(flow):
                return
            self._open[flow.id] = _OpenSocket(flow, message_sizes([]))
        sizes = self._open[flow.id].sizes
        for name, number in message_sizes(flow.websocket.messages[-1:]).items():
            sizes[name] += number
        self._has_news = True

    def _ask(self, at_once: bool = False) -> None:
        """Collect the pool's tokens and names: when the proxy ends, the pool may be gone."""
        if at_once or time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK
            secrets, names = self._known
            self._known = (secrets.union(self._secrets()), names.union(self._names()))

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
                self._count,
                self._bytes // 1_000_000,
            )
        return not self._is_full

    # -- the thread

    def finish(self) -> None:
        """Write everything, WebSockets that are still open included, and stop recording."""
        if self._over.is_set():
            return
        self._ask(at_once=True)
        if self._count > MANY:
            logger.info("%s: writing %d requests; this takes some seconds", self.path, self._count)
        self._over.set()
        self._thread.join()
        failure, ends = self._write(0.0), time.monotonic() + LAST_TRIES
        while failure and self._has_news and time.monotonic() < ends:
            time.sleep(LAST_TRIES / 10)
            failure = self._write(0.0)
        count = self._count + len(self._open)
        if not failure:
            others = f"; left out {self._others} to other hosts" if self._others else ""
            replaced = self._recording.replaced()
            logger.info("%s: %d requests recorded%s; %d values replaced", self.path, count, others, replaced)
        _report({"requests": count, "others": self._others, "refused": failure})

    def _run(self) -> None:
        pause = EVERY
        while not self._over.wait(pause):
            if self._has_news:
                began = time.monotonic()
                self._write(BREATH)
                pause = max(EVERY, SHARE * (time.monotonic() - began))

    def _write(self, breath: float) -> str:
        """Write the file; return why it failed."""
        self._has_news = False
        while self._fresh:
            self._recording.flows.append(self._fresh.popleft())
        failure = ""
        try:
            unfinished = [strip(socket.flow, dict(socket.sizes)) for socket in list(self._open.values())]
            self._recording.learn(*self._known)
            files.put(self.path, self._recording.content(unfinished, breath))
        except LeakError as error:
            failure = f"{self.path}: not written, because {error}"
        except RecordingError as error:  # The disk may have room the next time.
            failure, self._has_news = str(error), True
        except Exception as error:  # Its text may quote a secret.
            failure = f"{self.path}: not written, because of a bug in codexpool ({type(error).__name__})"
        if failure and failure != self._failure:
            logger.error("%s", failure)
        elif self._failure and not failure:
            logger.info("%s: written again", self.path)
        self._failure = failure
        return failure


def _report(outcome: dict[str, object]) -> None:
    """Tell `codexpool record` the outcome, if it has started this proxy."""
    if path := os.environ.get(REPORT):
        try:
            Path(path).write_text(json.dumps(outcome), encoding="utf-8")
        except OSError as error:
            logger.error("%s: cannot write the outcome of the recording (%s)", path, error.strerror)
