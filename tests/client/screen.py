"""The real client's TUI, in tmux."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.running import Codex, codex, until


def tmux() -> str | None:
    """Return the path of tmux, if it is installed."""
    return shutil.which("tmux")


class Screen:
    """Codex in a terminal, until the end of a `with` block, which ends every process that Codex has started."""

    def __init__(self, client: Codex, folder: Path) -> None:
        self._client = client
        self._socket = folder / "tmux"
        self._command = f"{codex()}; echo ended with $?; exec sleep 600"

    def __enter__(self) -> Screen:
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "160", "-y", "50", self._command)
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")
        until(self._is_gone, 10, "the client's processes to end")

    def _is_gone(self) -> bool:
        """Kill the client's processes. Return whether there were none."""
        processes = _processes_of(self._client.home)
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not processes

    @property
    def text(self) -> str:
        """Everything shown so far, including what has scrolled off."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-500")

    def shows(self, pattern: str, seconds: float = 20) -> None:
        """Wait until the screen matches a regular expression."""
        until(lambda: re.search(pattern, self.text), seconds, f"{pattern!r} on the screen:\n{self.text}")

    def types(self, text: str) -> None:
        """Type a line, wait until it is shown, and press Enter."""
        self._tmux("send-keys", "-l", text)
        self.shows(re.escape(text))
        self.press("Enter")

    def press(self, key: str) -> None:
        """Press a key, in tmux' notation."""
        self._tmux("send-keys", key)

    def closes(self, key: str, pattern: str) -> None:
        """Press a key until a pattern is gone. (A panel that has just opened may ignore the first key.)"""
        for _ in range(10):
            self.press(key)
            with suppress(TimeoutError):
                until(lambda: not re.search(pattern, self.text), 2, f"{pattern!r} to go")
                return
        raise TimeoutError(f"{pattern!r} stays on the screen:\n{self.text}")

    def _tmux(self, *arguments: str) -> str:
        command = [str(tmux()), "-S", str(self._socket), *arguments]
        environ = {**self._client.environ, "TERM": "xterm-256color"}
        run = subprocess.run(
            command, env=environ, cwd=self._client.home, capture_output=True, text=True, timeout=30, check=False
        )
        return run.stdout


def _processes_of(home: Path) -> list[int]:
    """Return the processes with this CODEX_HOME. (The TUI leaves a server in the background.)"""
    mine = f"CODEX_HOME={home}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mine in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue  # It has ended, or belongs to another user.
    return found
