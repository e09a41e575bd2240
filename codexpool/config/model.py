"""What pool.toml says, as plain data, and how a mistake in it is told to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from codexpool.credentials.command import CommandLine
from codexpool.pool.breaker import MOST
from codexpool.pool.identity import Kind
from codexpool.pool.selection import Selection
from codexpool.tokens.bearer import Bearer, fingerprint

LONGEST_SHOWN = 64
"""Characters of a value that a message repeats; a longer one is more likely a secret than a slip."""

_LIKE_A_TOKEN = re.compile(r"(?<![A-Za-z0-9])at-")


@dataclass(frozen=True, slots=True)
class Inline:
    """A token that stands in pool.toml itself."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FromEnv:
    """A token that an environment variable holds."""

    variable: str


@dataclass(frozen=True, slots=True)
class FromFile:
    """A token that is the one line of a file. ``path`` is absolute if pool.toml's own path is."""

    path: Path


@dataclass(frozen=True, slots=True)
class FromKeyring:
    """A token that the system's keyring holds, under this service and the identity's name."""

    service: str


@dataclass(frozen=True, slots=True)
class FromCommand:
    """A token that a command prints."""

    line: CommandLine


@dataclass(frozen=True, slots=True)
class FromAuthJson:
    """The login in an ``auth.json``: an OAuth bundle, or a personal access token."""

    path: Path


Source = Inline | FromEnv | FromFile | FromKeyring | FromCommand | FromAuthJson
"""Where an identity's credential comes from."""


@dataclass(frozen=True, slots=True)
class Flag:
    """That a PAT is dead and has to be replaced: since when, why, and which one (``sha256:<12 hex>``)."""

    since: datetime
    reason: str
    token: str

    def applies_to(self, bearer: Bearer) -> bool:
        """Whether the flag speaks of this token; a new token in its place is not flagged."""
        return self.token == str(bearer)


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """One ``[[identity]]`` table.

    ``line`` is where its token stands: the line to go to for mending it. ``account_id`` and ``user_id``, where they
    are given, are whose token it has to be. ``expires_at`` is the unix second from which its operator expects the
    token to be worth nothing, ``priority`` says who is drained first with ``drain-first`` (the higher one).
    """

    name: str
    source: Source
    line: int
    flag: Flag | None = None
    account_id: str | None = None
    user_id: str | None = None
    expires_at: float | None = None
    paused: bool = False
    priority: int = 0

    @property
    def kind(self) -> Kind:
        """What kind of credential its source gives."""
        match self.source:
            case FromCommand():
                return Kind.COMMAND
            case FromAuthJson():
                return Kind.OAUTH
            case _:
                return Kind.PAT


class Access(StrEnum):
    """Who may use the pool: those with a member key, or whoever reaches the proxy."""

    MEMBERS = "members"
    ANYONE = "anyone"


class Intercept(StrEnum):
    """Which hosts the proxy reads: Codex's, or every host that clients ask."""

    CODEX = "codex"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class PreviousKey:
    """The key that a member had before (``sha256:<64 hex>``), and the unix second until which it is good, too."""

    key: str
    until: float


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One ``[[member]]`` table.

    ``key`` is the hash of a member key (``sha256:<64 hex>``), ``line`` where it stands. Times are unix seconds.
    ``identities`` are shell patterns; without any, every identity of the pool may serve the member. The bounds are
    turns at the same time, and turns a day (UTC).
    """

    name: str
    key: str
    line: int
    previous: PreviousKey | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    identities: tuple[str, ...] = ()
    turns_at_once: int | None = None
    turns_a_day: int | None = None


@dataclass(frozen=True, slots=True)
class Notify:
    """Who is told when an identity comes to need a person: an argument vector, and an https address."""

    command: tuple[str, ...] = ()
    webhook: str = ""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A pool.toml that holds.

    ``breaker`` is how many identities may be refused for good within a minute before rotation stops for a while.
    Without ``access``, what a proxy listens on decides who may use the pool. ``turns_at_once`` bounds the whole pool.
    """

    path: Path
    selection: Selection
    identities: tuple[IdentitySpec, ...]
    notify: Notify = Notify()
    breaker: int = MOST
    access: Access | None = None
    members: tuple[MemberSpec, ...] = ()
    turns_at_once: int | None = None
    intercept: Intercept = Intercept.CODEX

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is made of, pool.toml first: what a watcher has to look at."""
        sources = (identity.source for identity in self.identities)
        return (self.path, *(s.path for s in sources if isinstance(s, FromFile | FromAuthJson)))

    def identity(self, name: str) -> IdentitySpec | None:
        """The table of that name."""
        return next((spec for spec in self.identities if spec.name == name), None)

    def member(self, name: str) -> MemberSpec | None:
        """The table of the member of that name."""
        return next((spec for spec in self.members if spec.name == name), None)


class Problem(NamedTuple):
    """One thing that is wrong with the configuration.

    ``line`` is None where the file as a whole is meant. ``key`` counts identities and members from 1
    (``identity[2].token``), or names an option. ``remedy`` says what mends it.
    """

    file: Path
    line: int | None
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        words = (
            [place, self.key, f"{self.what}; {self.remedy}"] if self.key else [place, f"{self.what}; {self.remedy}"]
        )
        return one_line(": ".join(words))


class ConfigError(Exception):
    """A configuration that does not hold, with everything that was found wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def one_line(text: str) -> str:
    """``text`` with line ends and control characters made visible, as fits a log line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def looks_like_a_token(text: str) -> bool:
    """Whether a token was put where something else belongs."""
    return _LIKE_A_TOKEN.search(text) is not None


def shown(text: str) -> str:
    """A key or value of the file as a message may repeat it: quoted, or a fingerprint if it may be a secret."""
    if looks_like_a_token(text) or len(text) > LONGEST_SHOWN:
        return f"(not shown, sha256:{fingerprint(text)})"
    return f'"{one_line(text)}"'
