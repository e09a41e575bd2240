"""The commit that a codexpool is of: its version alone does not tell which code runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parent.parent
FILE: Final = "entry/commit"  # In a built package: hatch_build.py writes it.
LONGEST: Final = 5.0  # seconds that git may take


def commit(package: Path = PACKAGE) -> str:
    """Return the commit of a package, of its checkout or of the one it was built from; empty if it is not known."""
    if found := commit_of(package.parent):
        return found
    try:
        return (package / FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def commit_of(root: Path) -> str:
    """Return the commit of a checkout, with ``-dirty`` if files differ; empty for anything else."""
    # An installed package may be in a folder of another repository: then the commit would be that one's.
    if not (root / ".git").exists() or not (root / "addon").is_file():
        return ""
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
