"""The version of codexpool that is installed now: an upgrade replaces the files under a running process."""

from __future__ import annotations

import re
from pathlib import Path

import codexpool

_VERSION = re.compile(r'^__version__ = "([^"\s]{1,64})"$', re.MULTILINE)


def installed_version() -> str:
    """Return the version in the package's files; that of this process while they cannot be read. Reads a file."""
    try:
        found = _VERSION.search(Path(codexpool.__file__).read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        found = None
    return found[1] if found is not None else codexpool.__version__
