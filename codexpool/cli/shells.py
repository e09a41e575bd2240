"""Setting environment variables in each shell, and in files of NAME=value lines."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Final

Changes = Mapping[str, str | None]
"""New values of environment variables; None to unset."""


def bash(changes: Changes) -> Iterator[str]:
    """For bash, zsh and other POSIX shells."""
    for name, value in changes.items():
        yield f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"


def fish(changes: Changes) -> Iterator[str]:
    for name, value in changes.items():
        quoted = (value or "").replace("\\", "\\\\").replace("'", "\\'")
        yield f"set -e {name}" if value is None else f"set -gx {name} '{quoted}'"


def powershell(changes: Changes) -> Iterator[str]:
    for name, value in changes.items():
        quoted = re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", value or "")  # these are quotes, too
        yield f"Remove-Item Env:{name}" if value is None else f"$env:{name} = '{quoted}'"


def github(changes: Changes) -> Iterator[str]:
    """For the file named in ``$GITHUB_ENV``. Raises Failure."""
    for name, value in changes.items():
        yield f"{name}={_one_line(name, value or '')}"


def dotenv(changes: Changes) -> Iterator[str]:
    """For ``~/.codex/.env``. Raises Failure.

    Quotes only where needed: the client ignores everything after the first line it cannot parse.
    """
    for name, change in changes.items():
        value = _one_line(name, change or "")
        if re.fullmatch(r"[\w./:@%+,*\[\]-]*", value, re.ASCII):
            yield f"{name}={value}"
        elif "'" not in value:
            yield f"{name}='{value}'"
        else:
            escaped = re.sub(r"""([\\"$])""", r"\\\1", value)
            yield f'{name}="{escaped}"'


def _one_line(name: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        from codexpool.cli.common import Failure  # Slow, and `codexpool run` needs this module, too.

        raise Failure(f"the value of {name} contains a line break, which the file cannot hold: {value!r}")
    return value


SHELLS: Final[Mapping[str, Callable[[Changes], Iterator[str]]]] = {
    "bash": bash,
    "zsh": bash,
    "fish": fish,
    "powershell": powershell,
}


def eval_line(environ: Mapping[str, str], then: str, arguments: str = "") -> str:
    """Return a line for the user's shell that applies `codexpool env`, and then runs a command."""
    command = f"codexpool env {arguments}".strip()
    match shell_of(environ):
        case "fish":
            return f"{command} | source; and {then}"
        case "powershell":
            return f"{command} | Out-String | Invoke-Expression; {then}"
        case _:
            return f'eval "$({command})" && {then}'


def shell_of(environ: Mapping[str, str]) -> str:
    """Return the user's shell: the one in ``SHELL``, or bash if it is unknown."""
    name = PurePath(environ.get("SHELL", "")).stem
    if name == "pwsh" or (not name and os.name == "nt" and "PSMODULEPATH" in map(str.upper, environ)):
        return "powershell"
    return name if name in SHELLS else "bash"
