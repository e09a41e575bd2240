"""An identity the pool can send requests as: its data, its status, and the evidence for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from codexpool.pool.patience import Waited
from codexpool.protocol.endpoints import CHATGPT, TURN_PATHS, USAGE

HALF_LIFE = 900.0
"""Seconds after which a new session counts half: by then answers have told what it uses.

Longer, and the number of sessions outweighs what the backend says; shorter, and long sessions are overlooked (tried
with tests/pool/simulation.py)."""

LONGEST_AVOIDED = 60.0  # Seconds for which new sessions avoid an identity at most.
READ_WITHIN = 1.5  # Seconds for which a turn waits for the first reading of what an account has left.
LONGEST_UNREAD = 600.0  # Seconds for which new sessions prefer an identity that has been read.
WHOAMI = "whoami"  # The path of evidence that whoami itself gave.

_WHOAMI_WORDS = {"refused": "confirmed by whoami", "healthy": "but whoami finds the token healthy"}


class Status(StrEnum):
    """The statuses of an identity; only ``READY`` serves."""

    UNVERIFIED = "unverified"
    READY = "ready"
    SUSPECT = "suspect"
    NEEDS_REPLACEMENT = "needs_replacement"
    NEEDS_LOGIN = "needs_login"
    LIMITED = "limited"
    RESTING = "resting"
    PAUSED = "paused"
    CONFLICT = "conflict"


class Kind(StrEnum):
    PAT = "pat"
    OAUTH = "oauth"
    COMMAND = "command"
    AGENT = "agent"

    @property
    def is_renewable(self) -> bool:
        """Whether a refused token can be renewed without a person."""
        return self is not Kind.PAT


class Word(StrEnum):
    """What the backend says about a token: whoami, or routing discovery."""

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
    """What whoami and routing discovery say about a token. ``routing_override`` is None for NO_CONSTRAINT."""

    account_id: str
    user_id: str
    plan: str
    fedramp: bool = False
    origin: str = CHATGPT
    routing_override: str | None = None
    email: str = field(default="", compare=False)  # For people only.
    key: IdentityKey = field(init=False, repr=False, compare=False)  # Asked for ten times per request.

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", IdentityKey(self.account_id, self.user_id))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a verdict was reached: the request, the answer, the token.

    ``at`` is in unix seconds. ``whoami`` is whoami's word if it was asked ("refused", "healthy", …). ``note`` is the
    reason in words if no answer of the backend is.
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
        if self.path == WHOAMI or self.whoami not in _WHOAMI_WORDS:
            return text
        return f"{text}, {_WHOAMI_WORDS[self.whoami]}"


PAUSED_IN_FILE = "paused in pool.toml"  # The evidence of an identity that its operator has paused.


class Load(NamedTuple):
    """Sessions begun under an identity, decayed by `HALF_LIFE`; ``at`` is the unix second of ``sessions``."""

    sessions: float = 0.0
    at: float = 0.0

    def now(self, at: float) -> float:
        """Return the load at a later second. A clock that was set back does not make it grow."""
        return self.sessions * float(0.5 ** (max(0.0, at - self.at) / HALF_LIFE))

    def with_session(self, at: float) -> Load:
        return Load(self.now(at) + 1.0, at)


class Asked(NamedTuple):
    """What of a request decides which identity serves it.

    ``parent`` is the session of the agent that started this one, ``model`` the model asked for; both empty if the
    client does not say. ``is_turn`` is False for the list of models and routing discovery: they use nothing up, and
    their answers say nothing about calls of a model. ``only`` names the identities that may serve it; None: all.
    ``named`` is the one that the client names to the proxy: no other one serves it. Empty if it names none.
    ``has_model``: nor may one serve it whose account lacks the model, by its list.
    ``client`` tells apart the clients that ask; empty if no person sees this request.
    """

    session: str | None
    path: str
    parent: str | None = None
    model: str = ""
    is_turn: bool = True
    only: frozenset[str] | None = None
    named: str = ""
    has_model: bool = False
    client: str = ""

    @property
    def is_usage(self) -> bool:
        """Whether it only asks what is left: an identity at its limit can answer that, too."""
        return self.path == USAGE

    @property
    def is_side(self) -> bool:
        """Whether it asks a side endpoint: what that answers counts for nothing else."""
        return self.path not in TURN_PATHS

    def is_served_by(self, name: str) -> bool:
        return self.only is None or name in self.only


@dataclass(frozen=True, slots=True)
class Condition:
    """A status, its unix seconds and evidence. Only a limit and a rest have an ``until``."""

    status: Status
    since: float
    until: float | None = None
    evidence: Evidence | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Identity:
    """One identity of the pool as it is now. Times are unix seconds."""

    name: str
    kind: Kind
    fingerprint: str  # Of its present token; empty while it has none.
    condition: Condition
    expires_at: float | None = None  # When its operator expects the token to expire.
    paused: bool = False  # In pool.toml.
    metadata: Metadata | None = None
    vouched_at: float = 0.0  # When whoami was last asked about this token and found it healthy.
    cleared_at: float = 0.0  # When another proxy, or a person, last found nothing wrong with this token.
    served_at: float = 0.0  # When the last request was sent that was served with it.
    resumed_at: float = 0.0  # When a person last said that nothing is wrong with it.
    rests: int = 0  # Rests in a row; a good answer of the model resets it.
    unsendable: bool = False  # It has no token, or only one that was refused.
    issued_at: float = 0.0  # When its token was issued for us; 0 if it was not, or since a good answer.
    renewed_at: float = 0.0  # When its token was issued for us, whatever answers came since.
    is_held: bool = False  # Whether it is paused because it is `held_back`, and for no other reason.
    load: Load = field(default_factory=Load)
    last_picked: int = 0
    order: int = 0  # Its place in the file.
    priority: int = 0  # The highest is drained first.
    troubles: int = 0  # Answers in a row that reported trouble of the backend's own.
    doubts: int = 0  # Refusals in a row that may be its fault; a good answer of the model resets it.
    avoided_until: float = 0.0  # Until then new sessions avoid it: the backend has had trouble with it.
    unread_since: float | None = None  # When it began to serve without a reading of what its account has left.
    waited: Waited = field(default_factory=Waited)
    twin_of: str | None = None  # The identity listed earlier for the same account and user; only that one serves.

    @property
    def status(self) -> Status:
        return self.condition.status

    @property
    def serves_on(self) -> bool:
        """Whether what is under way with it may go on: it is ready, or about to have another token."""
        return self.status is Status.READY or self.is_in_renewal

    @property
    def is_in_renewal(self) -> bool:
        return self.kind.is_renewable and self.status is Status.SUSPECT

    def may_serve_soon(self, at: float, within: float) -> bool:
        """Return whether waiting ``within`` seconds could make it ready."""
        if self.status in (Status.UNVERIFIED, Status.SUSPECT):
            return True
        return self.condition.until is not None and self.condition.until <= at + within

    @property
    def returns_at(self) -> float | None:
        """When it serves again if that is only a matter of time."""
        return None if self.unsendable else self.condition.until

    def is_doubtful(self, at: float) -> bool:
        """Return whether new sessions should get another identity if there is one."""
        is_avoided = at < self.avoided_until <= at + LONGEST_AVOIDED
        return is_avoided or self.has_expired(at) or self.is_unread(at)

    def is_unread(self, at: float) -> bool:
        """Return whether what its account has left is not known yet."""
        return self.unread_since is not None and self.unread_since <= at < self.unread_since + LONGEST_UNREAD

    def has_expired(self, at: float) -> bool:
        """Return whether its operator expects its token to have expired: then it is tried last."""
        return self.expires_at is not None and self.expires_at <= at

    @property
    def held_back(self) -> str:
        """Why it must not serve even with a good token; empty if it may."""
        if self.paused:
            return PAUSED_IN_FILE
        return f"its token is of the same account and user as that of {self.twin_of}" if self.twin_of else ""


def clock(at: float, now: float | None = None) -> str:
    """Format a time for people: UTC, to the minute (``14:02``), with its day unless that is the day of ``now``."""
    then = datetime.fromtimestamp(at, UTC)
    if now is not None and then.date() != datetime.fromtimestamp(now, UTC).date():
        return then.strftime("%Y-%m-%d %H:%M")
    return then.strftime("%H:%M")
