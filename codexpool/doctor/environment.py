"""What a Codex client started from this shell reads: variables, and ``.env`` and ``config.toml`` in its home.

The rules are the client's: ``$CODEX_HOME/.env`` overrides the environment, except names that begin with ``CODEX_``
(openai/codex, ``arg0/src/lib.rs``). Proxies are chosen as in hyper-util (``client/proxy/matcher.rs``), which reqwest
uses from 0.12.16 on.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from codexpool.protocol.endpoints import AUTHAPI, HOST

DOTENV: Final = ".env"
CONFIG: Final = "config.toml"
RESERVED: Final = "CODEX_"  # the prefix of names ignored in ``.env`` (``ILLEGAL_ENV_VAR_PREFIX``)
LONGEST: Final = 1 << 20  # bytes read of a file

HOSTS: Final = (HOST, urlsplit(AUTHAPI).hostname or "")
"""What a client must reach through the proxy: the backend, and the host that answers for a member's key."""

WORKLOAD: Final = (
    "OPENAI_FEDERATION_RULE_ID",
    "OPENAI_IDENTITY_TOKEN_FILE",
    "OPENAI_IDENTITY_TOKEN_SOURCE",
    "OPENAI_SPIFFE_AUDIENCE",
    "OPENAI_SPIFFE_ID",
)
"""Any of these, even empty, makes a client use a workload identity before all other credentials (0.171.0)."""

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*?)\s*")
_COMMENT = re.compile(r"\s+#.*$|^#.*$")


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """What the client reads; values may be secrets.

    ``variables`` are those in effect. ``.env`` set the names ``from_dotenv``, and the client ignores ``ignored`` in
    it. ``config`` is the content of ``config.toml``; ``broken`` says why it cannot be parsed.
    """

    home: Path
    variables: Mapping[str, str] = field(repr=False)
    from_dotenv: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    broken: str = ""

    def first(self, *names: str) -> tuple[str, str]:
        """Return the first variable that is set, even if empty, and its value; two empty strings if none is."""
        return next(((name, self.variables[name]) for name in names if name in self.variables), ("", ""))

    def where(self, name: str) -> str:
        """Return a variable's name, and where it is set if that is not the environment."""
        return f"{name} (in {self.home / DOTENV})" if name in self.from_dotenv else name

    def proxy_variable(self) -> tuple[str, str]:
        """Return the variable with the proxy for https, and its value; two empty strings if there is none.

        An empty ``HTTPS_PROXY`` hides ``https_proxy``; then ``ALL_PROXY`` is used.
        """
        name, value = self.first("HTTPS_PROXY", "https_proxy")
        if not value.strip():
            name, value = self.first("ALL_PROXY", "all_proxy")
        return (name, value.strip()) if value.strip() else ("", "")


def client_environment(environ: Mapping[str, str]) -> ClientEnvironment:
    """Read what a client would read. Files that cannot be read count as empty."""
    home = codex_home(environ)
    given = dotenv(_text(home / DOTENV))
    taken = {name: value for name, value in given.items() if not name.upper().startswith(RESERVED)}
    try:
        config, broken = tomllib.loads(_text(home / CONFIG)), ""
    except (ValueError, RecursionError) as error:
        config, broken = {}, str(error).splitlines()[0]
    ignored = frozenset(given) - frozenset(taken)
    return ClientEnvironment(home, {**environ, **taken}, frozenset(taken), ignored, config, broken)


def codex_home(environ: Mapping[str, str]) -> Path:
    """Return the client's folder."""
    if named := environ.get("CODEX_HOME"):
        return Path(named).expanduser().absolute()
    return (Path(environ["HOME"]) if environ.get("HOME") else Path.home()) / ".codex"


def bypasses(no_proxy: str, host: str) -> str:
    """Return the entry of ``NO_PROXY`` that sends requests for ``host`` past the proxy; empty if none does.

    An entry matches its host and all subdomains, with or without a leading dot and in any case; ``*`` matches all.
    """
    for entry in (part.strip() for part in no_proxy.split(",")):
        # With the port, WebSockets bypass the proxy (0.169.0), and HTTP does not.
        domain = entry.lower().removesuffix(":443").removeprefix(".")
        if domain and (domain == "*" or f".{host}".endswith(f".{domain}")):
            return entry
    return ""


def without_bypass(no_proxy: str) -> str:
    """Return a value of ``NO_PROXY`` without the entries that send requests for `HOSTS` past the proxy."""
    entries = (part.strip() for part in no_proxy.split(","))
    return ",".join(entry for entry in entries if not any(bypasses(entry, host) for host in HOSTS))


def dotenv(text: str) -> dict[str, str]:
    """Parse a ``.env``: ``NAME=value``, quoted or not, with comments. References to variables are not expanded."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if (match := _LINE.fullmatch(line)) is None:
            continue
        name, value = match.groups()
        if len(value) > 1 and value[0] in "'\"" and value.find(value[0], 1) > 0:
            found[name] = value[1 : value.find(value[0], 1)]
        else:
            found[name] = _COMMENT.sub("", value)
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST).decode(errors="replace")
    except OSError:
        return ""
