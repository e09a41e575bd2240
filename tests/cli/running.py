"""The `codexpool` command as a process, in an environment of its own, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from codexpool.cli.entry import CODEXPOOL
from tests.running import ROOT, finished


class World:
    """A home and a folder for temporary files, both empty, for one run."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.home, self.temporary = folder / "home", folder / "tmp"
        self.home.mkdir()
        self.temporary.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "CODEXPOOL_CODEX") if name in os.environ}
        self.environ = {
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environ,
        }

    def run(self, *arguments: str, seconds: float = 90) -> subprocess.CompletedProcess[str]:
        return finished([*CODEXPOOL, *arguments], self.environ, self.home, seconds=seconds)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*CODEXPOOL, *arguments],
            env=self.environ,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def left_behind(self) -> list[str]:
        """Files in either folder, and command lines of processes that work in them."""
        files = [str(path) for folder in (self.home, self.temporary) for path in folder.rglob("*")]
        return files + [line for line in _command_lines() if str(self.temporary) in line]


def _command_lines() -> Iterator[str]:
    if not Path("/proc/self/cmdline").exists():
        listed = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True)
        yield from listed.stdout.splitlines()
        return
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It has ended meanwhile.
