"""Commands that run until they are ended, as processes: with a pipe to read from, or at a terminal of their own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from codexpool.cli.entry import CODEXPOOL
from tests.running import ROOT, until

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def argv(command: str, *arguments: str) -> list[str]:
    """A command line that runs one of the commands, installed or not."""
    return [*CODEXPOOL, command, *arguments]


def environ(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of this machine is seen."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CODEXPOOL_STATE": str(folder / "state.sqlite3"),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        **more,
    }


def plain(text: str) -> str:
    """What a terminal shows, without colours and movements."""
    return _CONTROL.sub("", text).replace("\r\n", "\n")


class Piped:
    """A command whose output is read through pipes, line by line; or that has something else for ``stdout``."""

    def __init__(
        self,
        folder: Path,
        command: str,
        *arguments: str,
        stdout: int = subprocess.PIPE,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            argv(command, *arguments),
            env={**environ(folder), **(more or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.said: list[str] = []
        """Lines on standard error."""
        pairs = [(self.process.stdout, self.lines), (self.process.stderr, self.said)]
        self._pipes = [(pipe, lines) for pipe, lines in pairs if pipe is not None]
        self._threads = [threading.Thread(target=_read, args=pair, daemon=True) for pair in self._pipes]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Piped:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for output, _lines in self._pipes:
            output.close()

    def prints(self, text: str, seconds: float = 20) -> None:
        """Wait until it has printed something."""
        until(lambda: text in "".join(self.lines), seconds, f"{text!r}; it printed {self.lines}, {self.said}")

    def says(self, text: str, seconds: float = 20) -> None:
        """Wait until it has said something on standard error."""
        until(lambda: text in "".join(self.said), seconds, f"{text!r}; it said {self.said}")

    def end(self, number: int) -> int:
        """Send it a signal, and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(10)
        for thread in self._threads:
            thread.join(10)
        return code


def after_one_line(folder: Path, command: str, *arguments: str) -> tuple[int, str]:
    """The exit code, and what standard error says, where the reader goes after the first line (``| head -1``)."""
    with subprocess.Popen(
        argv(command, *arguments),
        env=environ(folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        try:
            return process.wait(30), process.stderr.read()
        finally:
            process.kill()


def _read(pipe: IO[str], lines: list[str]) -> None:
    for line in pipe:
        lines.append(line)


class Terminal:
    """A command at a terminal of its own, which is so many columns wide."""

    def __init__(self, folder: Path, command: str, *arguments: str, columns: int = 80, **more: str) -> None:
        self._near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.before = termios.tcgetattr(far)
        self._far = far

        def own_it() -> None:
            fcntl.ioctl(far, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            argv(command, *arguments),
            env=environ(folder, TERM="xterm", **more),
            cwd=folder,
            stdin=far,
            stdout=far,
            stderr=far,
            start_new_session=True,
            preexec_fn=own_it,
        )
        self._bytes = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._near)
        os.close(self._far)

    @property
    def output(self) -> str:
        """All that it has written so far, control sequences and all."""
        while select.select([self._near], [], [], 0.01)[0]:
            self._bytes += os.read(self._near, 65_536)
        return self._bytes.decode(errors="replace")

    @property
    def settings(self) -> Mapping[int, object]:
        """What the terminal is set to now."""
        return dict(enumerate(termios.tcgetattr(self._far)))

    def shows(self, text: str, seconds: float = 20) -> None:
        """Wait until it has shown something."""
        until(lambda: text in plain(self.output), seconds, f"{text!r}; it showed {self.output!r}")

    def press(self, keys: str) -> None:
        """As if somebody had pressed them: ``\\x03`` is Ctrl-C."""
        os.write(self._near, keys.encode())

    def wait(self, seconds: float = 10) -> int:
        """Until it has ended; its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            assert isinstance(self.output, str)  # Somebody has to read, or it would wait for that.
        return self.process.wait(0.1)
