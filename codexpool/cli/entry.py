"""Find the addon's entry file and mitmproxy's own commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def entry() -> Path:
    """The entry file for `mitmdump -s`: of the checkout if this is one, else the one the wheel brings.

    Raises FileNotFoundError where an installation has lost it.
    """
    package = Path(__file__).resolve().parent.parent
    for path in (package.parent / "addon", package / "entry" / "addon"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no entry file beside {package}; install codexpool again")


def tool(name: str) -> str:
    """mitmproxy's command of that name, of the same installation as this one."""
    beside = Path(sys.executable).with_name(name + (".exe" if os.name == "nt" else ""))
    return str(beside) if beside.is_file() else name
