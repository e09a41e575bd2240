"""Imports in time what a running proxy needs only later: an upgrade replaces the files of packages under it."""

from __future__ import annotations

import asyncio
import contextlib
from importlib import import_module
from typing import Final

from codexpool.common import tasks
from codexpool.web.site import read_pages

PAUSE: Final = 3.0  # Seconds until the first import: the start is busy.
BETWEEN: Final = 0.05  # Seconds between two imports, for the requests.

LATER: Final = (
    "filelock",
    "platformdirs",
    "httpx",
    "httpcore",
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.asymmetric.padding",
    "cryptography.hazmat.primitives.asymmetric.rsa",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.hashes",
    "nacl.exceptions",
    "nacl.public",
    "nacl.signing",
    "prometheus_client",
    "prometheus_client.core",
    "prometheus_client.utils",
    "codexpool.config.editing",
    "codexpool.recording.files",
    "codexpool.recording.recorder",
    "codexpool.state.leases",
    "codexpool.state.logins",
    "codexpool.state.presence",
    "codexpool.state.questions",
    "keyring",
)
"""What functions import. (A test finds those that are missing here.) Optional libraries may be missing."""


async def import_later() -> None:
    await asyncio.sleep(PAUSE)
    await tasks.in_thread(read_pages)
    for name in LATER:
        with contextlib.suppress(ImportError):
            await tasks.in_thread(import_module, name)
        await asyncio.sleep(BETWEEN)
