"""Child processes that never outlive the command that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the polite end, and a terminal that is closed."""

GRACE: Final = 5.0
"""Seconds a process gets to end by itself, before it is made to."""


class InterruptedBySignal(BaseException):
    """A signal ended the work. No `Exception`, so that nothing on the way takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Turns the first of the `ENDING` signals into `InterruptedBySignal`, and holds the others back.

    It does so in the main thread, at any point of the block except where it is `held`. After that first one the
    clean-up is under way, and is not to be interrupted: an impatient second Ctrl-C would leave processes behind.
    """

    def __init__(self) -> None:
        self._held = 0
        self._came: int | None = None
        self._over = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._on_signal) for number in ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No interruption in here: it comes at the end of the block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._came is not None and not self._held:
                self._raise(self._came)

    def ignore(self) -> None:
        """From now on everything is being put away, which no signal is to cut short."""
        self._over = True

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._held:
            self._came = self._came or number
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        if not self._over:
            self._over = True
            raise InterruptedBySignal(number)


class Children:
    """The processes of one command, each in a group of its own together with whatever it starts.

    The group also keeps a Ctrl-C of the terminal from them: they are ended by us, in order.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], *, environ: Mapping[str, str], folder: Path, out: IO[bytes], err: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start one, without input. Raises OSError where that cannot be done."""
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
        """End a process and its group, politely first. It may have ended already."""
        with self._signals.held():
            if child.poll() is None:
                _to_group(child, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(GRACE)
            _to_group(child, signal.SIGKILL)
            child.wait(GRACE)
            self._running.remove(child)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.ignore()
        for child in reversed(self._running.copy()):
            self.end(child)


def _to_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # PermissionError: macOS says so of a group of which only the dead are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
