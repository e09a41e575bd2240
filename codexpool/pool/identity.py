"""Who the pool may speak as, and in which state each one is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from codexpool.pool.patience import Waited
from codexpool.pool.selection import Load
from codexpool.protocol.endpoints import CHATGPT, TURN_PATHS


class Status(StrEnum):
    """The states of an identity; only ``READY`` serves."""

    UNVERIFIED = "unverified"
    READY = "ready"
    SUSPECT = "suspect"
    NEEDS_REPLACEMENT = "needs_replacement"
    NEEDS_LOGIN = "needs_login"
    LIMITED = "limited"
    RESTING = "resting"
    PAUSED = "paused"
    CONFLICT = "conflict"


RETURNING = frozenset({Status.LIMITED, Status.RESTING})
"""The states that end by themselves, when their time has come."""


class Kind(StrEnum):
    """The kinds of credential."""

    PAT = "pat"
    OAUTH = "oauth"
    COMMAND = "command"

    @property
    def is_renewable(self) -> bool:
        """Whether another token may be had without a person, once one was refused."""
        return self is not Kind.PAT


class Word(StrEnum):
    """What whoami says about a token."""

    HEALTHY = "healthy"
    REFUSED = "refused"
    OTHER_ACCOUNT = "another account"
    UNREACHABLE = "unreachable"


class IdentityKey(NamedTuple):
    """What an identity is, whatever the operator calls it."""

    account_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """What whoami and routing discovery say about the bearer of one fingerprint.

    ``origin`` is a scheme and host without a path; ``routing_override`` is None for NO_CONSTRAINT.
    """

    account_id: str
    user_id: str
    plan: str
    fedramp: bool = False
    origin: str = CHATGPT
    routing_override: str | None = None

    @property
    def key(self) -> IdentityKey:
        return IdentityKey(self.account_id, self.user_id)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a verdict was reached: what was asked, what came back, for which bearer.

    ``at`` is in unix seconds. ``whoami`` is whoami's word where it was asked ("refused", "healthy", …). ``note``
    says in words what no answer of the backend was the reason for.
    """

    at: float
    method: str = ""
    path: str = ""
    status: int = 0
    code: str = ""
    request_id: str = ""
    fingerprint: str = ""
    whoami: str = ""
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return self.note
        words = [str(self.status), self.code] if self.code else [str(self.status)]
        text = f"{' '.join(words)} on {self.path.removeprefix('/backend-api/')}"
        if self.path == WHOAMI or self.whoami not in _WHOAMI_SAID:
            return text
        return f"{text}, {_WHOAMI_SAID[self.whoami]}"


LONGEST_AVOIDED = 60.0
"""Seconds for which new sessions avoid an identity at most."""

WHOAMI = "whoami"
"""The path of evidence that whoami itself gave."""

_WHOAMI_SAID = {"refused": "confirmed by whoami", "healthy": "but whoami finds the token healthy"}


class Asked(NamedTuple):
    """What a request is about, as far as it decides who serves it.

    ``parent`` is the session of the agent that has started this one, ``model`` the model that is asked; empty where
    the client does not say so. The list of models and routing discovery are no ``is_turn``: they use nothing up, and
    an answer to them says nothing of calls for a model. ``only`` names the identities that may serve it; None: all.
    """

    session: str | None
    path: str
    parent: str | None = None
    model: str = ""
    is_turn: bool = True
    only: frozenset[str] | None = None

    @property
    def is_side(self) -> bool:
        """Whether it asks a side endpoint: what that says counts for nothing else."""
        return self.path not in TURN_PATHS

    def is_served_by(self, name: str) -> bool:
        """Whether an identity may serve it, as far as the one who asks is concerned."""
        return self.only is None or name in self.only


@dataclass(frozen=True, slots=True)
class Condition:
    """A status with its since, until and evidence. Times are unix seconds; ``until`` is None if open."""

    status: Status
    since: float
    until: float | None = None
    evidence: Evidence | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Identity:
    """One identity of the pool as it is now.

    The operator's word is in ``expires_at`` (a unix second from which the token is expected to be worth nothing) and
    ``paused``.
    """

    name: str
    kind: Kind
    fingerprint: str
    """Of its present token; empty while it has none."""
    condition: Condition
    expires_at: float | None = None
    paused: bool = False
    metadata: Metadata | None = None
    vouched_at: float = 0.0
    """When whoami was last asked about this token and found it healthy."""
    rests: int = 0
    """Rests in a row; a good answer of the model sets it back."""
    unsendable: bool = False
    """It has no token, or none but one that was refused."""
    issued_at: float = 0.0
    """When its token was made, if that was done for us and no answer has been good since; else 0."""
    renewed_at: float = 0.0
    """When its token was made for us, whatever answers there were since."""
    is_held: bool = False
    """It is paused because it is `held_back`, and not for a reason of its own."""
    load: Load = field(default_factory=Load)
    last_picked: int = 0
    order: int = 0
    """Its place in the file."""
    priority: int = 0
    """Who has a higher one is drained first."""
    troubles: int = 0
    """Answers in a row that spoke of trouble of the backend's own."""
    doubts: int = 0
    """Refusals in a row that may be its fault and do not say so; a good answer of the model sets it back."""
    avoided_until: float = 0.0
    """Until when it is not given a new session if there is another identity: the backend has had trouble with it."""
    waited: Waited = field(default_factory=Waited)
    """For how long requests have waited for it in vain."""
    twin_of: str | None = None
    """The identity that is listed earlier for the same account and user; only that one serves."""

    @property
    def status(self) -> Status:
        return self.condition.status

    @property
    def serves_on(self) -> bool:
        """Whether what is under way with it may go on: it is ready, or about to have another token."""
        return self.status is Status.READY or self.is_in_renewal

    @property
    def is_in_renewal(self) -> bool:
        """Whether its token was refused and it is about to have another one."""
        return self.kind.is_renewable and self.status is Status.SUSPECT

    def may_serve_soon(self, at: float, within: float) -> bool:
        """Whether waiting ``within`` seconds could make it ready."""
        if self.status in (Status.UNVERIFIED, Status.SUSPECT):
            return True
        until = self.condition.until if self.status in RETURNING else None
        return until is not None and until <= at + within

    @property
    def returns_at(self) -> float | None:
        """When it serves again without another word from anybody; None where that is not only a matter of time."""
        return self.condition.until if self.status in RETURNING and not self.unsendable else None

    def is_doubtful(self, at: float) -> bool:
        """Whether a new session is rather given to somebody else."""
        return self.has_expired(at) or at < self.avoided_until <= at + LONGEST_AVOIDED

    def has_expired(self, at: float) -> bool:
        """Whether its operator expects its token to be worth nothing by now: then it is not tried first."""
        return self.expires_at is not None and self.expires_at <= at

    @property
    def held_back(self) -> str:
        """Why it does not serve even if its token is good; empty where it may."""
        if self.paused:
            return "paused in pool.toml"
        return f"its token is of the same account and user as that of {self.twin_of}" if self.twin_of else ""


def clock(at: float, now: float | None = None) -> str:
    """A time of the log and of answers to people: UTC, to the minute (``14:02``), with its day if that is another."""
    then = datetime.fromtimestamp(at, UTC)
    if now is not None and then.date() != datetime.fromtimestamp(now, UTC).date():
        return then.strftime("%Y-%m-%d %H:%M")
    return then.strftime("%H:%M")
