"""The commit of a checkout: its version alone does not tell which code runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parent.parent
LONGEST: Final = 5.0  # seconds that git may take


def commit(root: Path = PACKAGE.parent) -> str:
    """Return the commit of the checkout that this package is in, with ``-dirty`` if files differ; empty elsewhere."""
    # An installed package may be in a folder of another repository: then the commit would be that one's.
    if not (root / ".git").exists() or not (root / "addon").is_file():
        return ""
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
