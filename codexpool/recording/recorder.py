"""Records what passes through a proxy, off the path of its requests.

A flow that is over is taken, in memory, within some microseconds. A thread goes through all of them every so often
and writes the file as a whole: a value that is only recognised later must not be left in what was written before, so
nothing is ever appended. A write takes a twentieth of the time at most. A process that is killed loses what came
since the last one; the file is whole at any time, and never has anything raw in it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mitmproxy import http, websocket

from codexpool.recording import files
from codexpool.recording.files import RecordingError
from codexpool.recording.recording import LeftInError, Recording
from codexpool.recording.taking import NOTE, is_wanted, sizes_of, taken, weight

logger = logging.getLogger("codexpool")

MOST_BYTES: Final = 64 * 1024 * 1024
"""What is kept in memory at most: some 4 000 requests without bodies. What comes then is not recorded, and that is
said."""

EVERY: Final = 30.0
"""Seconds between two writes, if there is anything new."""

SHARE: Final = 20
"""A write is followed by so many times as long without one."""

MANY: Final = 500
"""Requests from which on writing them takes seconds, at some 4 ms each."""

ASK: Final = 1.0
"""Seconds until the tokens of the pool are asked for once more: they may be renewed meanwhile."""

BREATH: Final = 0.001
"""Seconds that the thread leaves to the proxy after each flow."""

LAST_TRIES: Final = 5.0
"""Seconds for which a file that cannot be written is tried again at the end."""

REPORT: Final = "CODEXPOOL_RECORD_REPORT"
"""The variable with the file in which `codexpool record` wants to be told how it ended."""


def _nothing() -> Iterable[str]:
    return ()


@dataclass(slots=True)
class _Talk:
    """The messages of an open WebSocket: mitmproxy's own list is cut short, to bound memory."""

    flow: http.HTTPFlow
    messages: list[websocket.WebSocketMessage] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: sizes_of([]))


class Recorder:
    """A recording of what passes, from now until it is told to `finish`.

    ``add`` and ``message`` are for the thread of the proxy, and do no I/O. Raises RecordingError where the file could
    not be written.

    Args:
        path: the file; ``.har`` makes a HAR file, anything else a flow file of mitmproxy's.
        with_bodies: bodies and messages too, and not only their sizes.
        all_hosts: requests to any host, and not only to those of the backend.
        secrets: gives the tokens of the pool, as they are when it is asked; only in the thread of the proxy.
        names: gives the names of its identities, likewise.
    """

    def __init__(
        self,
        path: Path,
        *,
        with_bodies: bool = False,
        all_hosts: bool = False,
        secrets: Callable[[], Iterable[str]] = _nothing,
        names: Callable[[], Iterable[str]] = _nothing,
    ) -> None:
        files.check_place(path)
        self.path = path
        self._with_bodies, self._all_hosts = with_bodies, all_hosts
        self._secrets, self._names = secrets, names
        self._known: tuple[set[str], set[str]] = (set(), set())
        self._ask_at = 0.0
        self._recording = Recording(files.is_har(path))
        self._fresh: deque[http.HTTPFlow] = deque()
        self._open: dict[str, _Talk] = {}
        self._count, self._bytes, self._others = 0, 0, 0
        self._is_full = self._has_news = False
        self._said = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="codexpool-recorder", daemon=True)
        self._thread.start()

    # -- on the path of requests

    def add(self, flow: http.HTTPFlow) -> None:
        """A flow has an answer or has ended in an error, or its WebSocket is closed."""
        if flow.websocket is not None and flow.websocket.timestamp_end is None:
            return  # It is over when the socket is.
        talk = self._open.pop(flow.id, None)
        if not self._is_for_us(flow):
            return
        self._count += 1
        one = self._taken(talk or _Talk(flow), flow)
        self._bytes += weight(one) if talk is None else weight(one) - _size(talk)
        self._fresh.append(one)
        self._has_news = True
        self._ask()

    def message(self, flow: http.HTTPFlow) -> None:
        """The last message of a WebSocket has just come."""
        if flow.websocket is None or not flow.websocket.messages:
            return
        talk = self._open.get(flow.id)
        if talk is None:
            if not self._is_for_us(flow):
                return
            talk = self._open[flow.id] = _Talk(flow)
        message = flow.websocket.messages[-1]
        for name, number in sizes_of([message]).items():
            talk.sizes[name] += number
        if self._with_bodies and not self._has_no_room():
            talk.messages.append(websocket.WebSocketMessage(*message.get_state()))
            self._bytes += len(message.content) + 200
        self._has_news = True

    def _ask(self, at_once: bool = False) -> None:
        """Find out which tokens and names the pool has: at its end nobody knows any more."""
        if at_once or time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK
            secrets, names = self._known
            self._known = (secrets.union(self._secrets()), names.union(self._names()))

    def _is_for_us(self, flow: http.HTTPFlow) -> bool:
        if not self._all_hosts and not is_wanted(flow):
            self._others += 1
            return False
        return not self._has_no_room()

    def _has_no_room(self) -> bool:
        if not self._is_full and self._bytes > MOST_BYTES:
            self._is_full = True
            logger.warning(
                "%s: %d requests (%d MB) are recorded, and no more are taken: what comes from now on is not in it. "
                "To go on, start the proxy again with another file",
                self.path,
                self._count,
                self._bytes // 1_000_000,
            )
        return self._is_full

    def _taken(self, talk: _Talk, flow: http.HTTPFlow) -> http.HTTPFlow:
        if flow.websocket is None:
            return taken(flow, self._with_bodies)
        one = taken(flow, self._with_bodies, list(talk.messages))
        one.metadata[NOTE] |= dict(talk.sizes)
        return one

    # -- the thread

    def finish(self) -> None:
        """Write what there is, sockets that are still open included, and take no more."""
        if self._over.is_set():
            return
        self._ask(at_once=True)
        if self._count > MANY:
            logger.info("%s: it is written; with %d requests that takes some seconds", self.path, self._count)
        self._over.set()
        self._thread.join()
        said, ends = self._write(0.0), time.monotonic() + LAST_TRIES
        while said and self._has_news and time.monotonic() < ends:
            time.sleep(LAST_TRIES / 10)
            said = self._write(0.0)
        if not said:
            others = f"; {self._others} to other hosts were left out" if self._others else ""
            logger.info(
                "%s: %d requests recorded%s. It has stand-ins for %s",
                self.path,
                self._count + len(self._open),
                others,
                self._recording.told(),
            )
        _report({"requests": self._count + len(self._open), "others": self._others, "refused": said})

    def _run(self) -> None:
        pause = EVERY
        while not self._over.wait(pause):
            if self._has_news:
                began = time.monotonic()
                self._write(BREATH)
                pause = max(EVERY, SHARE * (time.monotonic() - began))

    def _write(self, breath: float) -> str:
        """Write the file; returns why it was not."""
        self._has_news = False
        while self._fresh:
            self._recording.flows.append(self._fresh.popleft())
        said = ""
        try:
            unfinished = [self._taken(talk, talk.flow) for talk in list(self._open.values())]
            self._recording.knows(*self._known)
            files.put(self.path, self._recording.content(unfinished, breath))
        except LeftInError as error:
            said = f"{self.path}: nothing is written, because {error}"
        except RecordingError as error:  # What the disk does not take now it may take the next time.
            said, self._has_news = str(error), True
        except Exception as error:  # Its text may quote what it was about.
            said = f"{self.path}: nothing is written, because of an error of codexpool's own ({type(error).__name__})"
        if said and said != self._said:
            logger.error("%s", said)
        elif self._said and not said:
            logger.info("%s: it is written again", self.path)
        self._said = said
        return said


def _size(talk: _Talk) -> int:
    return sum(len(message.content) + 200 for message in talk.messages)


def _report(document: dict[str, object]) -> None:
    """Tell `codexpool record`, where it is what started this proxy."""
    if path := os.environ.get(REPORT):
        try:
            Path(path).write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            logger.error("%s: how the recording has ended cannot be written there (%s)", path, error.strerror)
