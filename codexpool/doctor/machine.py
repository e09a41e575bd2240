"""Checks this machine: the modes of files with secrets, the clocks, and the installed Codex client."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from codexpool.common.private_files import OPEN_TO_OTHERS, closing, forbidden
from codexpool.config.sources import environ_of_programs
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.local import ca_files
from codexpool.views.formatting import span

FILES: Final = "files"
CLOCK: Final = "clock"
VERSION: Final = "version"
TOLERATED: Final = 60.0  # seconds that clocks may differ

CLOCK_REMEDIES: Final = {
    "linux": "sudo timedatectl set-ntp true (then: timedatectl timesync-status)",
    "darwin": "sudo sntp -sS time.apple.com, and the automatic date and time in System Settings",
    "win32": "w32tm /resync (as administrator)",
}

TRIED: Final = ((0, 169, 0), (0, 171, 0))  # the client's versions codexpool is tested with, oldest first
UPDATE: Final = "npm install -g @openai/codex@latest"
SECONDS: Final = 20.0  # for the client to print its version


class Kept(NamedTuple):
    """A file or folder that only its owner may open, and what it contains."""

    path: Path
    what: str


def secret_files(
    pool: Sequence[Path], logins: Path, confdir: Path, state: Path | None, client_login: Path
) -> list[Kept]:
    """Return what must be private: pool.toml and the files it names, saved logins, the CA's key, the state."""
    return [
        *(Kept(path, "the token in it" if number else "pool.toml") for number, path in enumerate(pool)),
        Kept(logins, "the folder of logins"),
        *(Kept(path, "the login in it") for path in sorted(logins.glob("*/auth.json"))),
        Kept(confdir, "mitmproxy's folder"),
        *(Kept(confdir / name, "the key of the certificate authority") for name in ca_files.SECRETS),
        *([Kept(state, "the state")] if state is not None else []),
        Kept(client_login, "the client's login"),
    ]


def check_files(kept: Iterable[Kept]) -> Iterator[Finding]:
    if os.name != "posix":
        return
    found = [(one, one.path.stat()) for one in dict.fromkeys(kept) if os.access(one.path, os.F_OK)]
    too_open = [finding for one, status in found if (finding := check_mode(one, status)) is not None]
    yield from too_open
    if found and not too_open:
        yield ok(FILES, f"none of {len(found)} files and folders with secrets is open to others")


def check_mode(one: Kept, status: os.stat_result) -> Finding | None:
    """Return what is wrong with the mode of a file or folder; None if nothing is."""
    mode = status.st_mode
    is_folder, is_writable = stat.S_ISDIR(mode), mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not mode & (OPEN_TO_OTHERS if is_folder else forbidden(status)) and not (is_folder and mode & 0o011):
        return None
    place = f"{one.path} (mode {stat.S_IMODE(mode):04o})"
    remedy = closing(one.path, 0o700 if is_folder else 0o600)
    if is_folder and not is_writable:
        return note(FILES, f"{place}: others can list {one.what}", remedy)
    verb = "add files to" if is_folder else "change" if is_writable else "read"
    return wrong(FILES, f"{place}: others can {verb} {one.what}", remedy)


def check_clocks(document: Mapping[str, Any], before: float, after: float) -> Iterator[Finding]:
    """Check the clocks by a status document requested at ``before`` and received at ``after``, in unix seconds."""
    at, offset = document.get("at"), (document.get("clock") or {}).get("offset")
    if not isinstance(at, int | float):
        return
    remedy = CLOCK_REMEDIES.get(sys.platform, "synchronize the machine's clock with NTP")
    ahead = before - at if at < before else min(0.0, after - at)
    if abs(ahead) > TOLERATED:
        yield wrong(CLOCK, f"this machine's clock is {_difference(ahead)} the proxy's", f"on the wrong one: {remedy}")
    if isinstance(offset, int | float) and abs(offset) > TOLERATED:
        text = f"the clock of the proxy's machine is {_difference(offset)} the backend's, which sets all expiry"
        yield wrong(CLOCK, text, f"on the proxy's machine: {remedy}")
    elif abs(ahead) <= TOLERATED:
        yield ok(CLOCK, "correct" if offset is not None else "agrees with the proxy's; no answer of the backend yet")


def _difference(ahead: float) -> str:
    return f"{span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"


def find_program(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the client that is named, or in ``CODEXPOOL_CODEX``, or on the PATH; None if there is none."""
    wanted = str(named) if named is not None else environ.get("CODEXPOOL_CODEX") or "codex"
    found = shutil.which(wanted, path=environ.get("PATH"))
    return Path(found) if found else None


def check_client(program: Path | None, token: str) -> Iterator[Finding]:
    """Run the client for its version. ``token`` is the access token it would send, if any."""
    if program is None:
        yield note(VERSION, "there is no codex on the PATH", "name it with --client PATH or CODEXPOOL_CODEX")
        return
    version = version_of(_output(program, "--version"))
    if version is None:
        yield note(VERSION, f"{program} --version prints no version", UPDATE)
        return
    name = f"codex {'.'.join(map(str, version))}"
    if token and "--with-access-token" not in _output(program, "login", "--help"):
        yield wrong(VERSION, f"{name} does not support access tokens (at-…)", UPDATE)
    elif version < TRIED[0]:
        yield note(VERSION, f"{name} is older than the versions codexpool is tested with", UPDATE)
    else:
        tested = " and ".join(".".join(map(str, tried)) for tried in TRIED)
        yield ok(VERSION, f"{name} ({program}); codexpool is tested with {tested}")


def version_of(text: str) -> tuple[int, ...] | None:
    """Return the version in ``codex-cli 0.169.0``; a pre-release counts as its release."""
    found = re.search(r"\b(\d{1,5})\.(\d{1,5})\.(\d{1,5})", text)
    return tuple(map(int, found.groups())) if found else None


def _output(program: Path, *arguments: str) -> str:
    command, silent = [str(program), *arguments], subprocess.DEVNULL
    environ = environ_of_programs(os.environ, frozenset())
    try:
        return subprocess.check_output(
            command, env=environ, stdin=silent, stderr=silent, timeout=SECONDS, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return ""
