"""What `CODEXPOOL_STATE` names: a SQLite file, or a PostgreSQL database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from codexpool.state import StateError

VARIABLE: Final = "CODEXPOOL_STATE"
ONE_POOL: Final = "pool"  # A PostgreSQL database, or a schema of it, holds the state of one pool.

_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/")  # At least two letters: one is a drive of Windows.
_POSTGRES = re.compile(r"postgres(ql)?://([^:@/?#]*(:[^@/?#]*)?@)?[^@?#]*(\?[^@#]*)?")
_SHOWN = ("host", "hostaddr", "port", "dbname", "service", "options")  # What says which database it is.
_NO_FILE = re.compile(r"://|:[^/\\]*@|\b(host|hostaddr|user|password|dbname|service)\s*=")
_LIKE = "postgresql://codexpool@db.example/codexpool"


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """The state of the proxies and commands of one machine."""

    path: Path
    engine: ClassVar = "sqlite"

    @property
    def folder(self) -> Path:
        """The folder of what belongs to this machine."""
        return self.path.parent

    def scope(self, pool_toml: Path) -> str:
        """Return the key of what belongs to one pool.toml."""
        return str(pool_toml)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Postgres:
    """The state of proxies on several machines. ``url`` may have a user and a password; the text has neither."""

    url: str = field(repr=False)
    engine: ClassVar = "postgresql"

    @property
    def folder(self) -> Path:
        """The folder of what belongs to this machine."""
        return _default_folder()

    def scope(self, pool_toml: Path) -> str:
        """Return the key of what belongs to the pool: its file has another path on each machine."""
        return ONE_POOL

    @property
    def is_valid(self) -> bool:
        """Whether it is clear what of the URL is the password: libpq guesses, and tells what it takes for a host."""
        return _POSTGRES.fullmatch(self.url) is not None

    def __str__(self) -> str:
        from urllib.parse import parse_qsl, urlencode, urlsplit

        try:
            parts = urlsplit(self.url)
        except ValueError:
            parts = None
        if parts is None or not self.is_valid:
            return "postgresql://…"
        given = [(name, value) for name, value in parse_qsl(parts.query) if name in _SHOWN]
        query = urlencode(given, safe="/=,")
        shown = parts._replace(scheme="postgresql", netloc=parts.netloc.rpartition("@")[2], query=query)
        return shown.geturl()


Location = SqliteFile | Postgres


def named_location(environ: Mapping[str, str]) -> Location | None:
    """Return what ``CODEXPOOL_STATE`` names, if it is set. Raises StateError for a URL of something else."""
    named = environ.get(VARIABLE)
    if not named:
        return None
    if url := _URL.match(named):
        if url[1] in ("postgresql", "postgres"):
            return Postgres(named.strip())
        # The scheme only: the rest may contain a password.
        what = f"{VARIABLE} is a URL ({url[1]}:…) that codexpool does not know"
        remedy = f"name a file, as in ~/codexpool/state.sqlite3, or a database, as in {_LIKE}"
        raise StateError(what, f"{remedy}, or unset it to use the default file")
    if _NO_FILE.search(named):  # It may have a password, which the name of a file would tell everyone.
        what = f"{VARIABLE} is neither a file nor the URL of a database, but has something of one"
        raise StateError(what, f"write it without quotes, as in {_LIKE}")
    return SqliteFile(Path(named).expanduser().absolute())


def location(environ: Mapping[str, str]) -> Location:
    """Return where the state is: `named_location`, or a file in the user's state folder. Raises StateError."""
    return named_location(environ) or SqliteFile(_default_folder() / "state.sqlite3")


def scope_of(environ: Mapping[str, str], pool_toml: Path) -> str:
    """Return the key of what belongs to one pool.toml. Raises nothing: whatever opens the state reports the error."""
    try:
        return location(environ).scope(pool_toml)
    except StateError:
        return str(pool_toml)


def agents_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder that has the tasks of agent identities. Raises nothing."""
    try:
        return location(environ).folder / "agents"
    except StateError:
        return _default_folder() / "agents"  # Whatever opens the state reports the error.


def _default_folder() -> Path:
    import platformdirs  # In the thread that opens the state, not at start-up.

    return platformdirs.user_state_path("codexpool", appauthor=False)
