"""Who the pool may speak as, and in which state each one is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from codexpool.backend import CHATGPT


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


class Kind(StrEnum):
    """The kinds of credential."""

    PAT = "pat"
    OAUTH = "oauth"
    COMMAND = "command"


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


WHOAMI = "whoami"
"""The path of evidence that whoami itself gave."""

_WHOAMI_SAID = {"refused": "confirmed by whoami", "healthy": "but whoami finds the token healthy"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A status with its since, until and evidence. Times are unix seconds; ``until`` is None if open."""

    status: Status
    since: float
    until: float | None = None
    evidence: Evidence | None = None


def clock(at: float) -> str:
    """A time of the log and of answers to people: UTC, to the minute (``14:02``)."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M")
