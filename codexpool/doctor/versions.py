"""Which Codex client is installed."""

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
"""For a client to say its version."""

UPDATE: Final = "npm install -g @openai/codex@latest"

Version = tuple[int, int, int]

TRIED: Final[tuple[Version, ...]] = ((0, 169, 0), (0, 171, 0))
"""The versions codexpool is tested with, oldest first."""

_VERSION: Final = re.compile(r"\b(\d{1,5})\.(\d{1,5})\.(\d{1,5})(-[0-9A-Za-z.-]+)?")


def program_of(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The client: the one that was named, else that of ``CODEXPOOL_CODEX``, else that on the PATH; None for none."""
    wanted = str(named) if named is not None else environ.get("CODEXPOOL_CODEX") or "codex"
    found = shutil.which(wanted, path=environ.get("PATH"))
    return Path(found) if found else None


def findings(program: Path | None, token: str) -> Iterator[Finding]:
    """About the client that is installed; runs it. ``token`` is the one it would send. Raises nothing."""
    if program is None:
        yield note(ABOUT, "there is no codex on the PATH", "--client PATH (or CODEXPOOL_CODEX) says where it is")
        return
    said = _said(program, "--version")
    version = version_of(said)
    if version is None:
        yield note(ABOUT, f"{program} does not say its version", f"{program} --version should; else: {UPDATE}")
        return
    if token and "--with-access-token" not in _said(program, "login", "--help"):
        yield wrong(ABOUT, f"codex {_shown(version)} does not know access tokens (at-…)", UPDATE)
    elif version < TRIED[0]:
        yield note(ABOUT, f"codex {_shown(version)} is older than what codexpool is tested with", UPDATE)
    else:
        tested = " and ".join(map(_shown, TRIED))
        yield ok(ABOUT, f"codex {_shown(version)} ({program}); codexpool is tested with {tested}")


def version_of(text: str) -> Version | None:
    """The version in what ``codex --version`` says (``codex-cli 0.169.0``); one before a release counts as that."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _said(program: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _shown(version: Version) -> str:
    return ".".join(map(str, version))
