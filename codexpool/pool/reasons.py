"""Why an identity was chosen, and what spoke for and against each of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from codexpool.pool.identity import Asked, Identity, Status, clock
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Because

CANDIDATES_KEPT = 20  # Candidates of a decision that are written down; in a larger pool the first of the file.

LOOKED_AROUND = frozenset({Because.ASIDE, Because.NEW, Because.MOVED, Because.NO_SESSION, Because.EXPIRED})
"""The reasons of a choice between several. (One that was made for a session may be repeated.)"""


class Candidacy(NamedTuple):
    """What spoke for and against an identity when a request was assigned."""

    name: str
    chosen: bool
    speaks_for: tuple[str, ...]
    speaks_against: tuple[str, ...]


def candidacies(pool: Pool, asked: Asked, refused: Collection[str], chosen: str, at: float) -> list[Candidacy]:
    """List the candidates for a request; ``refused`` names those it was refused under already."""
    identities = list(pool.identities.values())
    kept = identities[:CANDIDATES_KEPT]
    kept += [i for i in identities[CANDIDATES_KEPT:] if i.name == chosen]
    return [
        Candidacy(
            i.name,
            i.name == chosen,
            tuple(_for(pool, i, asked, at)),
            tuple(_against(pool, i, asked, at, i.name in refused)),
        )
        for i in kept
    ]


def _for(pool: Pool, identity: Identity, asked: Asked, at: float) -> Iterator[str]:
    if identity.status is not Status.READY:
        return
    yield "ready"
    yield f"headroom {pool.left(identity, asked, at):.2f}"
    if (begun := identity.load.now(at)) >= 0.05:
        yield f"{begun:.1f} sessions begun lately"


def _against(pool: Pool, identity: Identity, asked: Asked, at: float, is_refused: bool) -> Iterator[str]:
    condition = identity.condition
    if is_refused:
        yield "this request was refused under it"
    if condition.status is not Status.READY:
        until = f" until {clock(condition.until, at)} UTC" if condition.until is not None else ""
        yield f"{condition.status}{until}"
    if identity.metadata is None:
        yield "the account of its token is not known yet"
    if not asked.is_served_by(identity.name):
        yield "it is not for this member"
    elif not pool.is_for(identity, asked, at):
        yield from (e.described(at) for e in pool.exclusions.against(identity, asked, at) if not e.is_limit)
    if condition.status is Status.READY and (until_ := pool.limited_until(identity, asked, at)) is not None:
        yield f"limited for {pool.family_of(asked)} until {clock(until_, at)} UTC"
    if identity.has_expired(at):
        yield "its token is expected to have expired"
    elif identity.is_doubtful(at):
        yield "the backend has had trouble with it lately"
