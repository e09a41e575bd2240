from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

WritePrivate = Callable[[str, str | bytes], Path]

needs_a_plain_user = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="no permission keeps root out"
)


@pytest.fixture
def write(tmp_path: Path) -> WritePrivate:
    """Writes a file only its owner can read, without touching its line ends."""

    def write_private(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o600)
        return path

    return write_private
