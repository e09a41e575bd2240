"""How much one request may change: at most two identities over the same cause.

A refusal may be the identity's fault or the request's; the first one cannot tell. Once two identities were refused
over the same cause within a minute, or are still affected, the cause is *the request's own*: otherwise it would
disable one identity after another, for all other clients too. It stays so for an hour after it was last seen, and at
least as long as what it has done to them. A change that is confirmed otherwise (whoami refuses the token, there is a
new one) is withdrawn: it was no request's doing.

A cause is counted along several lines, each bounded by itself: what was asked (endpoint and model), what was answered
(endpoint and status) and who asked (session). So a client that changes its model with each request is recognised too.

What follows from an own cause is in the table of `codexpool.pool.verdict` and in `codexpool.proxy.judge.learn`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from codexpool.common.recent import Recent
from codexpool.pool.identity import Asked

MOST: Final = 2  # Identities that may change their status over the same cause.
WITHIN: Final = 60.0  # Seconds for which a change counts, or for as long as it lasts.
LASTS: Final = 3600.0  # Seconds for which a cause stays the request's own after it was last seen.
LONGEST: Final = 8 * 86_400.0  # Seconds for which a change is remembered at least that only a person ends.
KEPT: Final = 1_000  # Lines that are kept; beyond that the one that changed longest ago is forgotten.

Line = tuple[str, ...]


class Cause(NamedTuple):
    """What a refusal was about; ``row`` is the group of endpoints."""

    row: str
    model: str
    answered: str
    session: str | None = None

    @classmethod
    def of(cls, asked: Asked, answered: str) -> Cause:
        """Return the cause of an answer, by its status, or the code with which a socket was closed."""
        row = "/".join(asked.path.split("/")[:4])  # ``/backend-api/codex/images/x`` is one of the images.
        return cls(row, asked.model, answered, asked.session)

    def lines(self) -> Iterator[Line]:
        yield ("asked", self.row, self.model)
        yield ("answered", self.row, self.answered)
        yield ("session", self.session or "")  # Requests that name none count as one session.


class _Change(NamedTuple):
    """When an identity changed, until when that lasts, and whether it ends by itself, as a limit does."""

    at: float
    ends: float
    passes: bool


@dataclass(slots=True)
class _Counted:
    """The identities that changed over one line, and when it was last seen."""

    changed: dict[str, _Change] = field(default_factory=dict)
    seen_at: float = 0.0

    def is_own(self, at: float) -> bool:
        if len(self.changed) < MOST:
            return False
        return at < max(self.seen_at + LASTS, *(change.ends for change in self.changed.values()))


class Causes:
    """The recent causes. Identities go by the fingerprint of their token."""

    def __init__(self) -> None:
        self._lines: Recent[Line, _Counted] = Recent(KEPT)

    def is_own(self, cause: Cause | None, fingerprint: str, at: float) -> bool:
        """Return whether a refusal is the request's own: enough other identities changed over its cause."""
        if cause is None or not self._lines:
            return False
        found = [self._lines[line] for line in cause.lines() if line in self._lines]
        return any(counted.is_own(at) and fingerprint not in counted.changed for counted in found)

    def asks_so(self, asked: Asked, at: float) -> bool:
        """Return whether a request to be sent is like one that every identity refuses. (Limits do not count.)"""
        if not self._lines:
            return False
        lines = [line for line in Cause.of(asked, "").lines() if line[0] != "answered"]
        found = [self._lines[line] for line in lines if line in self._lines]
        return any(counted.is_own(at) and not all(c.passes for c in counted.changed.values()) for counted in found)

    def seen(self, cause: Cause, at: float) -> None:
        """Keep a cause the request's own for another hour, if it is."""
        for line in cause.lines():
            if (counted := self._lines.get(line)) is not None and counted.is_own(at):
                counted.seen_at = max(counted.seen_at, at)

    def changed(self, cause: Cause | None, fingerprint: str, at: float, until: float | None) -> None:
        """Count a change of an identity's status over a cause, until then; None if only a person ends it."""
        if cause is None:
            return
        for line in cause.lines():
            counted = self._lines[line] = self._lines.get(line, _Counted())
            if not counted.is_own(at):  # A change that is long over no longer counts.
                counted.changed = {f: c for f, c in counted.changed.items() if at - c.at < WITHIN or at < c.ends}
            ends = at + LONGEST if until is None else until
            counted.changed[fingerprint] = _Change(at, ends, until is not None)
            counted.seen_at = max(counted.seen_at, at)

    def ended(self, fingerprint: str, at: float) -> None:
        """End what was done to an identity: it serves again."""
        for counted in self._lines.values():
            if (known := counted.changed.get(fingerprint)) is not None and known.ends > at:
                counted.changed[fingerprint] = known._replace(ends=at)

    def withdraw(self, fingerprint: str) -> None:
        """Forget what was done to an identity: something else has confirmed it."""
        for line, counted in list(self._lines.items()):
            if counted.changed.pop(fingerprint, None) is not None and not counted.changed:
                del self._lines[line]
