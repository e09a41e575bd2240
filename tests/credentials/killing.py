"""Kills what renews a login, at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.running import ROOT
from tests.standin import StandIn


class Killer:
    """Renews a login in another process, and kills that: see `tests.credentials.renewing`."""

    def __init__(self, standin: StandIn, *path: str, **environ: str) -> None:
        arguments = (f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file), *path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.credentials.renewing", *arguments],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._said() == "ready"

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def after(self, seconds: float) -> int:
        """Have it begin with a renewal, and kill it after so long; its exit code, or -9."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return int(self._said())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def undisturbed(killer: Killer) -> float:
    """The seconds of a renewal that nobody kills, the fork included."""
    begun = time.monotonic()
    assert killer.after(20.0) == 0
    return time.monotonic() - begun
