"""Checks the installed Codex client: whether codexpool is tested with it, and whether it supports access tokens."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from codexpool.doctor.findings import Finding, note, ok, wrong

ABOUT: Final = "version"

SECONDS: Final = 20.0
"""Seconds for the client to print its version."""

UPDATE: Final = "npm install -g @openai/codex@latest"

Version = tuple[int, int, int]

TRIED: Final[tuple[Version, ...]] = ((0, 169, 0), (0, 171, 0))
"""The versions codexpool is tested with, oldest first."""

_VERSION: Final = re.compile(r"\b(\d{1,5})\.(\d{1,5})\.(\d{1,5})(-[0-9A-Za-z.-]+)?")


def find_program(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the client that is named, or in ``CODEXPOOL_CODEX``, or on the PATH; None if there is none."""
    wanted = str(named) if named is not None else environ.get("CODEXPOOL_CODEX") or "codex"
    found = shutil.which(wanted, path=environ.get("PATH"))
    return Path(found) if found else None


def findings(program: Path | None, token: str) -> Iterator[Finding]:
    """Run the client for its version. ``token`` is the access token it would send, if any."""
    if program is None:
        yield note(ABOUT, "there is no codex on the PATH", "name it with --client PATH or CODEXPOOL_CODEX")
        return
    version = version_of(_output(program, "--version"))
    if version is None:
        yield note(ABOUT, f"{program} --version prints no version", UPDATE)
        return
    if token and "--with-access-token" not in _output(program, "login", "--help"):
        yield wrong(ABOUT, f"codex {_shown(version)} does not support access tokens (at-…)", UPDATE)
    elif version < TRIED[0]:
        yield note(ABOUT, f"codex {_shown(version)} is older than the versions codexpool is tested with", UPDATE)
    else:
        tested = " and ".join(map(_shown, TRIED))
        yield ok(ABOUT, f"codex {_shown(version)} ({program}); codexpool is tested with {tested}")


def version_of(text: str) -> Version | None:
    """Return the version in ``codex-cli 0.169.0``; a pre-release counts as its release."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _output(program: Path, *arguments: str) -> str:
    try:
        command, silent = [str(program), *arguments], subprocess.DEVNULL
        return subprocess.check_output(command, stdin=silent, stderr=silent, timeout=SECONDS, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ""


def _shown(version: Version) -> str:
    return ".".join(map(str, version))
