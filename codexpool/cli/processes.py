"""Signals that end a command cleanly, and child processes that never outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE: Final = 5.0  # seconds a process has to end after SIGTERM


class InterruptedBySignal(SystemExit):
    """A signal ends the command, with exit code 128 and its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Signals:
    """Raises `InterruptedBySignal` for the first of the `ENDING` signals, and ignores the others.

    The others would interrupt the clean-up, and leave processes behind. For the main thread.
    """

    def __init__(self) -> None:
        self._held = 0
        self._pending: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._on_signal) for number in ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Delay an interruption until the end of the block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._pending is not None and not self._held:
                self._interrupt(self._pending)

    @contextlib.contextmanager
    def left_to_child(self) -> Iterator[None]:
        """Leave Ctrl-C to a child at the terminal: to an editor it is a key. It counts if the block fails."""
        pressed: list[int] = []
        # (A child would inherit SIG_IGN.)
        before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
        try:
            try:
                yield
            finally:
                signal.signal(signal.SIGINT, before)
        except Exception:
            if pressed:
                self._interrupt(pressed[0])
            raise

    def ignore(self) -> None:
        """Ignore signals from now on: the clean-up has begun."""
        self._pending = None
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._held:
            self._pending = self._pending or number
        else:
            self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        self.ignore()
        raise InterruptedBySignal(number)


class Children:
    """The child processes of a command, each the leader of a process group. Leaving the context ends them.

    A group does not get the terminal's Ctrl-C: the command ends its children, in order.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], *, environ: Mapping[str, str], folder: Path, out: IO[bytes], err: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a process without input. Raises OSError."""
        with self._signals.held():
            child = subprocess.Popen(
                command,
                env=environ,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            self._running.append(child)
        return child

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """End a process and its group, if they still run: SIGTERM first, then SIGKILL."""
        with self._signals.held():
            if child.poll() is None:
                _signal_group(child, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(GRACE)
            _signal_group(child, signal.SIGKILL)
            child.wait(GRACE)
            self._running.remove(child)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.ignore()
        for child in reversed(self._running.copy()):
            self.end(child)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # macOS raises PermissionError for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
