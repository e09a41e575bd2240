"""How much one request may change: at most two identities over the same cause.

A refusal may be the identity's fault or the request's. The first that is refused cannot tell; when two were, over the
same cause and within a minute (or are still out), the third would be one too many: such a request would put out one
identity after the other, for everybody else. So from then on the cause is *the request's own*.

The states of a cause: unknown → counted (one identity has changed its status over it within a minute) → own (two
have; kept for an hour after it was last seen, and at least as long as what it has done to them) → unknown. A change
that is confirmed by other means (whoami refuses the token, there is a new one) is withdrawn: it was no request's
doing.

A cause is looked at along several lines, each of which is bounded by itself: what was asked (endpoint and model),
what was said (endpoint and status) and who asked (session). A client that changes its model with each request, or
meets another status each time, is still the same trouble.

What becomes of an own cause is said by the table in `codexpool.pool.verdict` and by `codexpool.proxy.judge.learn`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from codexpool.pool.identity import Asked

MOST: Final = 2
"""Identities that may change their status over the same cause."""

WITHIN: Final = 60.0
"""Seconds for which a change counts, or for as long as it lasts."""

HOLDS: Final = 3600.0
"""Seconds for which a cause stays the request's own after it was last seen."""

LONGEST: Final = 8 * 86_400.0
"""Seconds for which a cause is remembered at least that has put out identities until a person ends that."""

KEPT: Final = 1_000
"""Lines that are kept at most; beyond that the one that was changed longest ago is forgotten."""

Line = tuple[str, ...]


class Cause(NamedTuple):
    """What a refusal was about; ``row`` is the group of endpoints."""

    row: str
    model: str
    said: str
    session: str | None = None

    @classmethod
    def of(cls, asked: Asked, said: str) -> Cause:
        """The cause of an answer to a request; ``said`` is its status, or the code with which a socket was closed."""
        return cls(row_of(asked.path), asked.model, said, asked.session)

    def lines(self) -> Iterator[Line]:
        """What it has in common with other causes."""
        yield ("asked", self.row, self.model)
        yield ("said", self.row, self.said)
        yield ("session", self.session or "")  # Those that name none are looked at as one.


def row_of(path: str) -> str:
    """The group of endpoints that a path belongs to: ``/backend-api/codex/images/x`` is one of the images."""
    return "/".join(path.split("/")[:4])


class _Change(NamedTuple):
    """When an identity has changed, until when that lasts, and whether it ends by itself, as a limit does."""

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
        return at < max(self.seen_at + HOLDS, *(change.ends for change in self.changed.values()))

    def is_of_time(self) -> bool:
        """Whether it only takes waiting, with all of them."""
        return all(change.passes for change in self.changed.values())


class Causes:
    """The causes of late. Identities go by the fingerprint of their token."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Line, _Counted] = OrderedDict()

    def is_own(self, cause: Cause | None, fingerprint: str, at: float) -> bool:
        """Whether a refusal is the request's own: enough other identities have changed over its cause."""
        if cause is None or not self._lines:
            return False
        found = [self._lines[line] for line in cause.lines() if line in self._lines]
        return any(counted.is_own(at) and fingerprint not in counted.changed for counted in found)

    def asks_so(self, asked: Asked, at: float) -> bool:
        """Whether a request that is still to be sent is like one that everybody refuses.

        Not if they were refused for limits: two that have used theirs up are an ordinary day, and all ask so then.
        """
        if not self._lines:
            return False
        lines = [line for line in Cause.of(asked, "").lines() if line[0] != "said"]
        found = [self._lines[line] for line in lines if line in self._lines]
        return any(counted.is_own(at) and not counted.is_of_time() for counted in found)

    def seen(self, cause: Cause, at: float) -> None:
        """It has come up once more: if it is the request's own, it stays so for another hour."""
        for line in cause.lines():
            if (counted := self._lines.get(line)) is not None and counted.is_own(at):
                counted.seen_at = max(counted.seen_at, at)

    def changed(self, cause: Cause | None, fingerprint: str, at: float, until: float | None) -> None:
        """An identity has changed its status over it; ``until`` says when that ends by itself, None: never."""
        if cause is None:
            return
        for line in cause.lines():
            counted = self._lines.setdefault(line, _Counted())
            self._lines.move_to_end(line)
            if not counted.is_own(at):  # What is long over counts no more.
                counted.changed = {f: c for f, c in counted.changed.items() if at - c.at < WITHIN or at < c.ends}
            ends = at + LONGEST if until is None else until
            counted.changed[fingerprint] = _Change(at, ends, until is not None)
            counted.seen_at = max(counted.seen_at, at)
        while len(self._lines) > KEPT:
            self._lines.popitem(last=False)

    def ended(self, fingerprint: str, at: float) -> None:
        """An identity serves again: what a cause has done to it does not last any longer."""
        for counted in self._lines.values():
            if (known := counted.changed.get(fingerprint)) is not None and known.ends > at:
                counted.changed[fingerprint] = known._replace(ends=at)

    def withdraw(self, fingerprint: str) -> None:
        """What has become of an identity was confirmed by other means: it was no request's doing."""
        for line, counted in list(self._lines.items()):
            if counted.changed.pop(fingerprint, None) is None:
                continue
            if not counted.changed:
                del self._lines[line]
