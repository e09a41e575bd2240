"""What outlives the process, and the interface every place to keep it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from codexpool.pool.identity import Condition, IdentityKey, Metadata

MAX_SESSIONS = 100_000
"""How many sessions are kept; of more, those that were not served for the longest time go."""


class StateError(Exception):
    """A state that must not be used as it is: what is wrong, and what mends it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


@dataclass(slots=True)
class Snapshot:
    """What a state holds, or what of it is new.

    ``sessions`` are by session key, ``metadata`` and ``conditions`` by fingerprint. ``dropped`` are fingerprints
    whose condition another process took back.
    """

    sessions: dict[str, IdentityKey] = field(default_factory=dict)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)


class State(Protocol):
    """Keeps what the pool knows. Nothing here is a secret: fingerprints, ids and evidence only.

    ``put_*`` and ``drop_condition`` return at once and raise nothing; what they say is written later, and the last
    word on a key wins. Times are unix seconds.
    """

    def load(self) -> Snapshot:
        """All there is. May take a while; raises nothing."""

    def put_session(self, session: str, key: IdentityKey, at: float) -> None:
        """This session was served by this identity at this time."""

    def put_metadata(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        """This is what whoami and routing discovery said about a bearer at this time."""

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        """The identity is in this condition while it has this bearer."""

    def drop_condition(self, fingerprint: str) -> None:
        """Nothing is the matter any more with the identity of this bearer."""

    def changes(self) -> Snapshot:
        """What other processes wrote since the last ``load`` or ``changes``. Cheap if nothing; raises nothing."""

    def close(self) -> None:
        """Write what is not written yet, within a few seconds, and let go of everything."""
