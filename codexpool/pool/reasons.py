"""Why an identity was chosen, and what spoke for and against each of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, overload

from codexpool.pool.exclusions import Exclusion
from codexpool.pool.identity import Asked, Condition, Identity, Load, Status, clock
from codexpool.pool.pins import Wanted
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Because

CANDIDATES_KEPT = 20  # Candidates of a decision that are written down; in a larger pool the first of the file.

LOOKED_AROUND = frozenset(
    {Because.ASIDE, Because.NEW, Because.MOVED, Because.NO_SESSION, Because.EXPIRED, Because.USAGE}
)
"""The reasons of a choice between several. (One that was made for a session may be repeated.)"""


class Candidacy(NamedTuple):
    """What spoke for and against an identity when a request was assigned."""

    name: str
    chosen: bool
    speaks_for: tuple[str, ...]
    speaks_against: tuple[str, ...]


class _Found(NamedTuple):
    """What was found of a candidate at the second ``at``: nothing that changes later."""

    name: str
    chosen: bool
    at: float
    condition: Condition
    headroom: float
    load: Load
    is_refused: bool
    is_known: bool
    is_allowed: bool
    is_unwanted: bool
    exclusions: Sequence[Exclusion]
    lacks_model: bool
    family: str
    limited_until: float | None
    has_expired: bool
    is_doubtful: bool
    is_unread: bool

    @property
    def in_words(self) -> Candidacy:
        return Candidacy(self.name, self.chosen, tuple(_for(self)), tuple(_against(self)))


class Candidacies(Sequence[Candidacy]):
    """The candidates for a request. They are described only when they are looked at, which is seldom."""

    __slots__ = ("_found",)

    def __init__(self, found: Sequence[_Found]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, at: int) -> Candidacy: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Candidacy]: ...

    def __getitem__(self, at: int | slice) -> Candidacy | Sequence[Candidacy]:
        return self._found[at].in_words if isinstance(at, int) else Candidacies(self._found[at])


def candidacies(pool: Pool, asked: Asked, refused: Collection[str], chosen: str, at: float) -> Candidacies:
    """List the candidates for a request; ``refused`` names those it was refused under already."""
    identities = list(pool.identities.values())
    kept = identities[:CANDIDATES_KEPT]
    kept += [i for i in identities[CANDIDATES_KEPT:] if i.name == chosen]
    wanted = pool.wanted(asked)
    return Candidacies([_found(pool, i, asked, refused, chosen, wanted, at) for i in kept])


def _found(
    pool: Pool, i: Identity, asked: Asked, refused: Collection[str], chosen: str, wanted: Wanted | None, at: float
) -> _Found:
    is_ready = i.status is Status.READY
    return _Found(
        i.name,
        i.name == chosen,
        at,
        i.condition,
        pool.left(i, asked, at) if is_ready else 0.0,
        i.load,
        i.name in refused,
        i.metadata is not None,
        asked.is_served_by(i.name),
        wanted is not None and wanted.name != i.name,
        pool.exclusions.against(i, asked, at),
        pool.lacks(i, asked),
        pool.family_of(asked),
        pool.limited_until(i, asked, at) if is_ready else None,
        i.has_expired(at),
        i.is_doubtful(at),
        i.is_unread(at),
    )


def _for(found: _Found) -> Iterator[str]:
    if found.condition.status is not Status.READY:
        return
    yield "ready"
    yield f"headroom {found.headroom:.2f}"
    if (begun := found.load.now(found.at)) >= 0.05:
        yield f"{begun:.1f} sessions begun lately"


def _against(found: _Found) -> Iterator[str]:
    condition, at = found.condition, found.at
    if found.is_refused:
        yield "this request was refused under it"
    if condition.status is not Status.READY:
        until = f" until {clock(condition.until, at)} UTC" if condition.until is not None else ""
        yield f"{condition.status}{until}"
    if not found.is_known:
        yield "the account of its token is not known yet"
    if not found.is_allowed:
        yield "it is not for this member"
    elif found.is_unwanted:
        yield "another identity was chosen by hand"
    else:
        yield from (e.described(at) for e in found.exclusions if not e.is_limit)
        if found.lacks_model:
            yield "its account's list does not have the model"
    if found.limited_until is not None:
        yield f"limited for {found.family} until {clock(found.limited_until, at)} UTC"
    if found.has_expired:
        yield "its token is expected to have expired"
    elif found.is_unread:
        yield "what it has left is being read"
    elif found.is_doubtful:
        yield "the backend has had trouble with it lately"
