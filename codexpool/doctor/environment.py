"""What a Codex client started from this shell would read: variables, ``.env`` and ``config.toml`` of its home.

Its own rules hold, not ours: ``arg0/src/lib.rs`` of openai/codex reads ``$CODEX_HOME/.env`` over the environment, and
leaves out every name that begins with ``CODEX_``. Python must not read these files for itself; nothing is changed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

DOTENV: Final = ".env"
CONFIG: Final = "config.toml"

RESERVED: Final = "CODEX_"
"""Names that begin so are ignored in ``.env`` (``ILLEGAL_ENV_VAR_PREFIX``, arg0/src/lib.rs)."""

LONGEST: Final = 1 << 20
"""Bytes of a file that are looked at."""

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*?)\s*")
_COMMENT = re.compile(r"\s+#.*$|^#.*$")


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """What the client sees.

    ``variables`` are those in effect, ``from_dotenv`` the names that ``.env`` gave, ``ignored`` those in it that the
    client does not take. ``config`` is what ``config.toml`` says, empty where there is none; ``broken`` says why it
    cannot be read. Values may be secrets.
    """

    home: Path
    variables: Mapping[str, str] = field(repr=False)
    from_dotenv: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    broken: str = ""

    def first(self, *names: str) -> tuple[str, str]:
        """The first variable that is set, were it to nothing, and its value: so do reqwest and hyper-util look
        (``get_first_env``). Two empty strings where none is."""
        return next(((name, self.variables[name]) for name in names if name in self.variables), ("", ""))

    def where(self, name: str) -> str:
        """A variable with where it was set, if that is not the environment."""
        return f"{name} (in {self.home / DOTENV})" if name in self.from_dotenv else name


def codex_home(environ: Mapping[str, str]) -> Path:
    """The folder that the client keeps its things in."""
    if named := environ.get("CODEX_HOME"):
        return Path(named).expanduser().absolute()
    return (Path(environ["HOME"]) if environ.get("HOME") else Path.home()) / ".codex"


def client_environment(environ: Mapping[str, str]) -> ClientEnvironment:
    """Read what a client would read. Raises nothing."""
    home = codex_home(environ)
    given = dotenv(_text(home / DOTENV))
    taken = {name: value for name, value in given.items() if not name.upper().startswith(RESERVED)}
    config, broken = _config(home / CONFIG)
    return ClientEnvironment(
        home, {**environ, **taken}, frozenset(taken), frozenset(given) - frozenset(taken), config, broken
    )


def dotenv(text: str) -> dict[str, str]:
    """The variables of a ``.env``: ``NAME=value``, quoted or not, with comments; references are left as they are."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        name, value = match[1], match[2]
        if len(value) > 1 and value[0] in "'\"" and value.find(value[0], 1) > 0:
            found[name] = value[1 : value.find(value[0], 1)]
        else:
            found[name] = _COMMENT.sub("", value)
    return found


def _config(path: Path) -> tuple[Mapping[str, Any], str]:
    try:
        return tomllib.loads(_text(path)), ""
    except (ValueError, RecursionError) as error:
        return {}, str(error).splitlines()[0]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST).decode(errors="replace")
    except OSError:
        return ""
