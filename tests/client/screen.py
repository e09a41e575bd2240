"""The real client's own screen: Codex in a terminal of tmux's, as a person sees it."""

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
    """The terminal, where there is one."""
    return shutil.which("tmux")


class Screen:
    """Codex in a terminal, until the end of a `with` block. Nothing that it has started outlives that."""

    def __init__(self, client: Codex, folder: Path) -> None:
        self._client = client
        self._socket = folder / "tmux"
        self._command = f"{codex()}; echo ended with $?; exec sleep 600"

    def __enter__(self) -> Screen:
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "160", "-y", "50", self._command)
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")
        until(self._is_gone, 10, "what the client has started to end")

    def _is_gone(self) -> bool:
        """Whether nothing runs any more; what does is ended."""
        processes = _processes_of(self._client.home)
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not processes

    @property
    def text(self) -> str:
        """What has been shown so far, with what has left the screen at the top."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-500")

    def shows(self, pattern: str, seconds: float = 20) -> None:
        """Wait until it shows something (a regular expression)."""
        until(lambda: re.search(pattern, self.text), seconds, f"{pattern!r} on the screen:\n{self.text}")

    def types(self, text: str) -> None:
        """Write a line, and send it off once it is there."""
        self._tmux("send-keys", "-l", text)
        self.shows(re.escape(text))
        self.press("Enter")

    def press(self, key: str) -> None:
        """Press a key, as tmux calls it."""
        self._tmux("send-keys", key)

    def closes(self, key: str, pattern: str) -> None:
        """Press a key until something is gone. (A panel that has only just opened may not take it yet.)"""
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
    """The processes that run with this home: the TUI leaves a server behind that keeps its first environment."""
    mine = f"CODEX_HOME={home}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mine in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue  # It has ended, or is somebody else's.
    return found
