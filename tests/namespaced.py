"""Run test modules in a network namespace, where the backend's host names can point to this machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from filelock import FileLock

from tests.running import ROOT
from tests.standin import HOSTS

UNSHARE: Final = ("unshare", "-n", "-m")
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


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
"""For tests that add addresses to the namespace."""


def run_in_namespace(module: str, *arguments: str, seconds: float) -> dict[str, Any]:
    """Run a module in a namespace, for at most ``seconds``. Return the JSON object in its last line."""
    command = [*UNSHARE, sys.executable, "-m", module, *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def run_in_namespace_once(module: str, factory: pytest.TempPathFactory, seconds: float) -> dict[str, Any]:
    """As `run_in_namespace`, but once for all workers of pytest-xdist. The module's argument is a new folder."""
    folder = factory.mktemp(module.rpartition(".")[2])
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run_in_namespace(module, str(folder), seconds=seconds)
    shared = factory.getbasetemp().parent / f"{module}.json"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            shared.write_text(json.dumps(run_in_namespace(module, str(folder), seconds=seconds)))
        result: dict[str, Any] = json.loads(shared.read_text())
        return result


def enter(folder: Path, backend: str = "127.0.0.1") -> None:
    """Inside the namespace: start loopback, and point the backend's host names to an address."""
    with socket.socket() as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14s", b"lo", IFF_UP, b""))
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{backend} {' '.join(HOSTS)}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
