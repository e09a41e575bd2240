"""How environment variables are set: in the words of each shell, and in files of NAME=value lines."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Final

Changes = Mapping[str, str | None]
"""New values of environment variables, None for one that is taken away."""


class UnsayableError(ValueError):
    """A value that has no form there: the text says which one, and why."""


def bash(changes: Changes) -> Iterator[str]:
    """For bash, zsh, and any other POSIX shell: ``eval "$(…)"``."""
    for name, value in changes.items():
        yield f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"


def fish(changes: Changes) -> Iterator[str]:
    """For fish: ``… | source``."""
    for name, value in changes.items():
        if value is None:
            yield f"set -e {name}"
        else:
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            yield f"set -gx {name} '{quoted}'"


def powershell(changes: Changes) -> Iterator[str]:
    """For PowerShell: ``… | Out-String | Invoke-Expression``."""
    for name, value in changes.items():
        if value is None:
            yield f"Remove-Item Env:{name}"
        else:
            # It takes typographic quotes for quotes, too.
            quoted = re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", value)
            yield f"$env:{name} = '{quoted}'"


def github(changes: Changes) -> Iterator[str]:
    """For the file that ``$GITHUB_ENV`` names. Raises UnsayableError."""
    for name, value in changes.items():
        yield f"{name}={_one_line(name, value or '')}"


def dotenv(changes: Changes) -> Iterator[str]:
    """For ``~/.codex/.env``, which the client takes no further than a line that it cannot read.

    A value stands in quotes only where it must. Raises UnsayableError.
    """
    for name, value in changes.items():
        said = _one_line(name, value or "")
        if re.fullmatch(r"[\w./:@%+,*\[\]-]*", said, re.ASCII):
            yield f"{name}={said}"
        elif "'" not in said:
            yield f"{name}='{said}'"
        else:
            escaped = re.sub(r"""([\\"$])""", r"\\\1", said)
            yield f'{name}="{escaped}"'


def _one_line(name: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        raise UnsayableError(f"the value of {name} has a line break in it, which such a file cannot hold: {value!r}")
    return value


SHELLS: Final[Mapping[str, Callable[[Changes], Iterator[str]]]] = {
    "bash": bash,
    "zsh": bash,
    "fish": fish,
    "powershell": powershell,
}
"""How each shell is told."""

HOW_TO_READ: Final = {
    "bash": 'eval "$(codexpool env)"',
    "zsh": 'eval "$(codexpool env)"',
    "fish": "codexpool env | source",
    "powershell": "codexpool env | Out-String | Invoke-Expression",
}
"""How each shell takes over what is printed."""


def shell_of(environ: Mapping[str, str]) -> str:
    """Which of `SHELLS` somebody uses: what ``SHELL`` says, which every POSIX login sets.

    A shell that is not known is taken for one that speaks like bash, as nearly all do.
    """
    name = PurePath(environ.get("SHELL", "")).stem
    if name in ("pwsh", "powershell") or (not name and os.name == "nt" and "PSModulePath" in map(_spelt, environ)):
        return "powershell"
    return name if name in SHELLS else "bash"


def _spelt(name: str) -> str:
    return "PSModulePath" if name.upper() == "PSMODULEPATH" else name
