"""Finds the addon's entry file, and mitmproxy's commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

CODEXPOOL: Final = (sys.executable, "-c", "from codexpool.cli import main; main(prog_name='codexpool')")
"""Starts the `codexpool` of this installation in a process of its own."""


def entry() -> Path:
    """Return the file for `mitmdump -s`: the checkout's, or the wheel's. Raises FileNotFoundError."""
    package = Path(__file__).resolve().parent.parent
    for path in (package.parent / "addon", package / "entry" / "addon"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no addon file next to {package}; reinstall codexpool")


def tool(name: str) -> str:
    """Return the path of mitmproxy's command ``name`` in this installation, or the name if it is not there."""
    path = Path(sys.executable).with_name(name + (".exe" if os.name == "nt" else ""))
    return str(path) if path.is_file() else name
