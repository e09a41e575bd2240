"""The text of a systemd user unit, and of a launchd agent."""

from __future__ import annotations

import os
import plistlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "Made by: codexpool service install"  # in each file of ours; others are left alone
UMASK: Final = 0o077
ENDS_WITHIN: Final = 40  # seconds a proxy may take to end: it lets turns finish for 30 (`mitm.shutdown.BOUND`)
FILES: Final = 8192  # open files: two for each connection. launchd gives 256

# A shell that reads the variables, if there are any, and is then replaced by the proxy.
WITH_VARIABLES: Final = 'set -a; [ ! -r "$0" ] || . "$0"; exec "$@"'


@dataclass(frozen=True, slots=True)
class Plan:
    """What a service starts, in the folder ``home``. ``variables`` is a file of NAME=value, which need not exist."""

    command: Sequence[str]
    environ: Mapping[str, str]
    variables: Path
    home: Path


def unit(plan: Plan) -> str:
    """Return the text of a systemd user unit."""
    command = " ".join(_quoted(word, "$%") for word in plan.command)
    environ = "\n".join(f"Environment={_quoted(f'{name}={value}', '%')}" for name, value in plan.environ.items())
    return f"""\
# {MARK}. To change it: install it again.
[Unit]
Description=codexpool: Codex clients and a pool of identities

[Service]
Type=exec
ExecStart={command}
WorkingDirectory=%h
{environ}
EnvironmentFile=-{str(plan.variables).replace("%", "%%")}
KillSignal=SIGTERM
TimeoutStopSec={ENDS_WITHIN}
Restart=on-failure
RestartSec=5
UMask={UMASK:04o}
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


def agent(plan: Plan, label: str, log: Path) -> str:
    """Return the text of a launchd agent that writes its log to a file."""
    document = {
        "Label": label,
        "ProgramArguments": ["/bin/sh", "-c", WITH_VARIABLES, str(plan.variables), *plan.command],
        "WorkingDirectory": str(plan.home),
        "EnvironmentVariables": dict(plan.environ),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        "ExitTimeOut": ENDS_WITHIN,
        "Umask": UMASK,
        "SoftResourceLimits": {"NumberOfFiles": FILES},
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    text = plistlib.dumps(document, sort_keys=False).decode()
    return text.replace("<plist", f"<!-- {MARK}. To change it: install it again. -->\n<plist", 1)


def _quoted(word: str, doubled: Iterable[str]) -> str:
    """Return a word as systemd reads it back: in quotes if need be, with ``doubled`` characters twice."""
    for character in doubled:
        word = word.replace(character, character * 2)
    if re.fullmatch(r"[\w./:@%$=,+-]+", word, re.ASCII):
        return word
    return '"' + "".join(map(_escaped, word)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
