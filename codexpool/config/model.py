"""The contents of pool.toml as plain data, and the problems of an invalid one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from codexpool.credentials.command import CommandLine
from codexpool.pool.breaker import MOST
from codexpool.pool.identity import IdentityKey, Kind
from codexpool.pool.selection import Selection
from codexpool.protocol.routes import AS_SHIPPED, Routes
from codexpool.tokens.bearer import Bearer, fingerprint

LONGEST_SHOWN = 64  # A longer value is more likely a secret than a typo.
_LIKE_A_TOKEN = re.compile(r"(?<![A-Za-z0-9])at-")


@dataclass(frozen=True, slots=True)
class Inline:
    """A token in pool.toml itself."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FromEnv:
    """A token in an environment variable."""

    variable: str


@dataclass(frozen=True, slots=True)
class FromFile:
    """A token that is the one line of a file. ``path`` is absolute if pool.toml's own path is."""

    path: Path


@dataclass(frozen=True, slots=True)
class FromKeyring:
    """A token in the system's keyring, under this service and the identity's name."""

    service: str


@dataclass(frozen=True, slots=True)
class FromCommand:
    """A token that a command prints."""

    line: CommandLine


@dataclass(frozen=True, slots=True)
class FromAuthJson:
    """The login in an ``auth.json``: OAuth tokens, or a personal access token."""

    path: Path


@dataclass(frozen=True, slots=True)
class FromState:
    """The login in the state of the account and user in pool.toml, which all proxies of that state share."""


Source = Inline | FromEnv | FromFile | FromKeyring | FromCommand | FromAuthJson | FromState
"""Where an identity's credential is."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A dead PAT that has to be replaced: since when, why, and which token (``sha256:<12 hex>``)."""

    since: datetime
    reason: str
    token: str

    def applies_to(self, bearer: Bearer) -> bool:
        """Return whether the flag is about this token: a new token in its place is not flagged."""
        return self.token == str(bearer)


@dataclass(frozen=True, slots=True)
class Unflagged:
    """A token that is good again: its flag is to be removed."""

    token: str


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """One ``[[identity]]`` table.

    ``line`` is that of its token, for errors. If set, ``account_id`` and ``user_id`` are the owner that the token
    must have. From ``expires_at``, a unix second, the token is expected to be invalid. With ``drain-first``,
    identities of a higher ``priority`` are drained first.
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
    def owner(self) -> IdentityKey:
        """The owner that the token must have, as far as the table names one."""
        return IdentityKey(self.account_id or "", self.user_id or "")

    @property
    def source_key(self) -> str:
        """The key of pool.toml that names the source."""
        keys: dict[type, str] = {FromAuthJson: "auth_json", FromState: "login"}
        return keys.get(type(self.source), "token")

    @property
    def kind(self) -> Kind:
        kinds: dict[type, Kind] = {FromCommand: Kind.COMMAND, FromAuthJson: Kind.OAUTH, FromState: Kind.OAUTH}
        return kinds.get(type(self.source), Kind.PAT)


class LoginPlace(StrEnum):
    """Where a login is kept that is not in a file of its own."""

    STATE = "state"


class Table(StrEnum):
    """The arrays of tables of a pool.toml, by their keys."""

    IDENTITY = "identity"
    MEMBER = "member"


class Access(StrEnum):
    """Who may use the pool: those with a member key, or everyone who can reach the proxy."""

    MEMBERS = "members"
    ANYONE = "anyone"


class Intercept(StrEnum):
    """Which hosts the proxy reads: those of Codex, or all."""

    CODEX = "codex"
    ALL = "all"


class Side(StrEnum):
    """What ``[pool.routes]`` sends a path with: an identity's credential, or the client's own."""

    SWAP = "swap"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class PreviousKey:
    """The previous key of a member (``sha256:<64 hex>``), and the unix second until which it stays valid."""

    key: str
    until: float


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One ``[[member]]`` table.

    ``key`` is the hash of a member key (``sha256:<64 hex>``), ``line`` its line. Times are unix seconds.
    ``identities`` are shell patterns; without any, every identity of the pool may serve the member. Days are UTC.
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
    """Where to send a notice when an identity needs a person: a command with its arguments, and an https address."""

    command: tuple[str, ...] = ()
    webhook: str = ""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A valid pool.toml.

    ``breaker`` is how many identities may be refused for good within a minute before rotation stops for a while.
    Without ``access``, the address that the proxy listens on decides who may use the pool. ``turns_at_once`` limits
    the whole pool. ``routes`` is the path policy. ``is_read_only``: this process cannot write to the file, so the
    state keeps its flags. ``is_missing``: there is no such file yet, or no longer.
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
    routes: Routes = AS_SHIPPED
    is_read_only: bool = False
    is_missing: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to watch: pool.toml first, then those with credentials."""
        sources = (identity.source for identity in self.identities)
        return (self.path, *(s.path for s in sources if isinstance(s, FromFile | FromAuthJson)))

    @property
    def shared_logins(self) -> frozenset[IdentityKey]:
        """The owners of the logins that are in the state."""
        return frozenset(spec.owner for spec in self.identities if isinstance(spec.source, FromState))

    def with_names(self, names: Mapping[str, str]) -> PoolConfig:
        """Return the same with other names for some identities, by their old ones."""
        specs = (replace(spec, name=names.get(spec.name, spec.name)) for spec in self.identities)
        return replace(self, identities=tuple(specs))

    def identity(self, name: str) -> IdentitySpec | None:
        return next((spec for spec in self.identities if spec.name == name), None)

    def member(self, name: str) -> MemberSpec | None:
        return next((spec for spec in self.members if spec.name == name), None)


def renamed(before: PoolConfig, after: PoolConfig) -> dict[str, str]:
    """Return the identities that only have another name in ``after``: their old names, and the new ones.

    They have the source and the owner of one that is gone. If two have the same ones, it is not clear which is which,
    and none of them is meant.
    """
    gone = _by_source(spec for spec in before.identities if after.identity(spec.name) is None)
    new = _by_source(spec for spec in after.identities if before.identity(spec.name) is None)
    return {gone[key]: name for key, name in new.items() if name and gone.get(key)}


def _by_source(specs: Iterable[IdentitySpec]) -> dict[tuple[Source, IdentityKey], str]:
    """Return the names by what stays when one is changed; empty where several have the same."""
    names: dict[tuple[Source, IdentityKey], str] = {}
    for spec in specs:
        key = (spec.source, spec.owner)
        names[key] = "" if key in names else spec.name
    return names


class Problem(NamedTuple):
    """One thing that is wrong with the configuration.

    ``line`` is None for the file as a whole. ``key`` counts identities and members from 1 (``identity[2].token``), or
    names an option. ``remedy`` is how to fix it.
    """

    file: Path
    line: int | None
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        key = f"{self.key}: " if self.key else ""
        return one_line(f"{place}: {key}{self.what}; {self.remedy}")


class ConfigError(Exception):
    """An invalid configuration, with all its problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def one_line(text: str) -> str:
    """Escape line ends and control characters, for a log line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def looks_like_a_token(text: str) -> bool:
    """Return whether a text seems to have a token in it."""
    return _LIKE_A_TOKEN.search(text) is not None


def shown(text: str) -> str:
    """Return a key or value of the file as a message may show it: quoted, or a fingerprint if it may be a secret."""
    if looks_like_a_token(text) or len(text) > LONGEST_SHOWN:
        return f"(not shown, sha256:{fingerprint(text)})"
    return f'"{one_line(text)}"'
