"""Modules of the tests that run in a network namespace of their own, where real host names can be this machine's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any, Final

import pytest

from tests.running import ROOT

UNSHARE: Final = ("unshare", "-n", "-m")


def _can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    )


CAN_UNSHARE: Final = _can_unshare()

needs_namespace = pytest.mark.skipif(not CAN_UNSHARE, reason="needs the right to make a network namespace")
needs_addresses = pytest.mark.skipif(
    not (CAN_UNSHARE and shutil.which("ip")), reason="needs the right to make a network namespace, and ip"
)
"""For what gives the namespace other addresses than the loopback's."""


def seen_within(module: str, *arguments: str, seconds: float) -> dict[str, Any]:
    """Run a module in a namespace, and return what it has seen: the JSON object in its last line."""
    command = [*UNSHARE, sys.executable, "-m", module, *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    assert run.returncode == 0, run.stderr
    saw: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return saw
