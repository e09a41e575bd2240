"""Which Codex client is installed, and what trouble its version is known to have with proxies.

Each entry of the table names its source. A version that is in none of them has only not been heard of.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, Level, note, ok, wrong
from codexpool.doctor.trust import bundle_of

ABOUT: Final = "version"

SECONDS: Final = 20.0
"""For a client to say its version."""

UPDATE: Final = "npm install -g @openai/codex@latest"

Version = tuple[int, int, int]

TRIED: Final[Version] = (0, 169, 0)
"""What codexpool itself is tried with."""

_VERSION: Final = re.compile(r"\b(\d{1,5})\.(\d{1,5})\.(\d{1,5})(-[0-9A-Za-z.-]+)?")


class Trouble(NamedTuple):
    """What is known of the versions from ``since`` up to, but without, ``until``; ``source`` is where it is said."""

    since: Version
    until: Version
    level: Level
    what: str
    remedy: str
    source: str
    variable: str = ""
    """It only matters where the client takes its authorities from this variable."""


TROUBLES: Final = (
    Trouble(
        (0, 0, 0),
        (0, 112, 0),
        Level.WRONG,
        "WebSockets do not look at CODEX_CA_CERTIFICATE or SSL_CERT_FILE: that came in March 2026",
        UPDATE,
        "openai/codex #14239",
    ),
    Trouble(
        (0, 155, 0),
        (0, 169, 0),
        Level.NOTE,
        "WebSockets were reported not to look at SSL_CERT_FILE: UnknownIssuer, and then a slow fall back to HTTP",
        f"use CODEX_CA_CERTIFICATE, or update: {UPDATE}",
        "openai/codex #46489",
        "SSL_CERT_FILE",
    ),
    Trouble(
        (0, 155, 0),
        (0, 155, 1),
        Level.NOTE,
        'some accounts were reported to fail with "duplicate workspace in routing discovery"',
        UPDATE,
        "openai/codex #47034",
    ),
    Trouble(
        (0, 156, 0),
        (0, 156, 1),
        Level.NOTE,
        'some accounts were reported to fail with "selected workspace missing from routing discovery"',
        UPDATE,
        "openai/codex #47374",
    ),
)
"""What is known. Where a report names no version that is free of it, it is held to end before the one tried here."""


def program_of(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The client: the one that was named, else that of ``CODEXPOOL_CODEX``, else that on the PATH; None for none."""
    wanted = str(named) if named is not None else environ.get("CODEXPOOL_CODEX") or "codex"
    found = shutil.which(wanted, path=environ.get("PATH"))
    return Path(found) if found else None


def findings(program: Path | None, client: ClientEnvironment, token: str) -> Iterator[Finding]:
    """About the client that is installed; runs it. ``token`` is the one it would send. Raises nothing."""
    if program is None:
        yield note(ABOUT, "there is no codex on the PATH", "--client PATH (or CODEXPOOL_CODEX) says where it is")
        return
    said = _said(program, "--version")
    version = version_of(said)
    if version is None:
        yield note(ABOUT, f"{program} does not say its version", f"{program} --version should; else: {UPDATE}")
        return
    troubles = list(of_version(version, bundle_of(client).variable))
    if token and "--with-access-token" not in _said(program, "login", "--help"):
        troubles.append(wrong(ABOUT, f"codex {_shown(version)} does not know access tokens (at-…)", UPDATE))
    yield from troubles
    if not troubles:
        tried = "tried with codexpool" if version == TRIED else f"no trouble known; tried is {_shown(TRIED)}"
        yield ok(ABOUT, f"codex {_shown(version)} ({program}): {tried}")


def of_version(version: Version, variable: str) -> Iterator[Finding]:
    """What is known of a version. ``variable`` is where the client takes its authorities from."""
    for one in troubles_of(version, variable):
        yield Finding(one.level, ABOUT, f"codex {_shown(version)}: {one.what} ({one.source})", one.remedy)


def troubles_of(version: Version, variable: str) -> Sequence[Trouble]:
    """The entries of the table that are for a version."""
    return [t for t in TROUBLES if t.since <= version < t.until and t.variable in ("", variable)]


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
