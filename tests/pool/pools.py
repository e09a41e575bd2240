"""Pools to begin a test with."""

from __future__ import annotations

from collections.abc import Mapping

from codexpool.pool.identity import (
    WHOAMI,
    Asked,
    Condition,
    Evidence,
    Identity,
    IdentityKey,
    Kind,
    Metadata,
    Status,
    Word,
)
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Selection
from codexpool.pool.states import PoolListener
from codexpool.tokens.bearer import fingerprint

NOW = 1_800_000_000.0
RESPONSES = "/backend-api/codex/responses"
MODELS = "/backend-api/codex/models"


def metadata(who: str) -> Metadata:
    """The metadata of an identity with an account of its own."""
    return Metadata(f"account-{who}", f"user-{who}", "business", email=f"{who}@example.invalid")


def unverified(name: str, token: str = "", kind: Kind = Kind.PAT, at: float = NOW) -> Identity:
    return Identity(name, kind, fingerprint(token or f"at-test-{name}"), Condition(Status.UNVERIFIED, at))


class Changes(list[tuple[str, Status]], PoolListener):
    """A listener that remembers which identity became what, and whose token was doubted."""

    def __init__(self) -> None:
        super().__init__()
        self.doubted: list[str] = []

    def status_changed(self, identity: Identity, before: Condition) -> None:
        self.append((identity.name, identity.status))

    def token_doubted(self, identity: Identity) -> None:
        self.doubted.append(identity.name)


def pool_of(
    *identities: Identity, selection: Selection = Selection.DRAIN_FIRST, changes: Changes | None = None
) -> Pool:
    pool = Pool(Changes() if changes is None else changes)
    pool.replace_identities(identities, selection, NOW)
    return pool


def ready_pool(*names: str, selection: Selection = Selection.DRAIN_FIRST, changes: Changes | None = None) -> Pool:
    """Identities that whoami has vouched for, a second ago."""
    pool = pool_of(*map(unverified, names), selection=selection, changes=changes)
    for name in names:
        vouch(pool, name, NOW - 1)
    if changes is not None:
        changes.clear()
    return pool


def refusal(identity: Identity, at: float) -> Evidence:
    return Evidence(at, "POST", RESPONSES, 401, "token_revoked", "req-1", identity.fingerprint)


def asked(identity: Identity, at: float) -> Evidence:
    """The evidence of a whoami that was asked then."""
    return Evidence(at, "GET", "whoami", 200, fingerprint=identity.fingerprint)


def vouch(pool: Pool, name: str, at: float, who: str = "") -> None:
    identity = pool.identities[name]
    pool.states.whoami_said(name, Word.HEALTHY, asked(identity, at), metadata(who or name))


def whoami_refuses(pool: Pool, name: str, at: float) -> None:
    """Whoami, asked then, says that a token is dead."""
    evidence = Evidence(at, "GET", WHOAMI, 401, "token_revoked", fingerprint=pool.identities[name].fingerprint)
    pool.states.whoami_said(name, Word.REFUSED, evidence)


def condemn(pool: Pool, name: str, at: float) -> None:
    """Whoami says that a token is dead which a client's request was refused with."""
    pool.states.confirmation.request_refused(pool.identities[name].fingerprint)
    whoami_refuses(pool, name, at)


def refuse(pool: Pool, name: str, sent_at: float, at: float) -> None:
    pool.states.refused(name, refusal(pool.identities[name], at), sent_at)


def statuses(pool: Pool) -> dict[str, Status]:
    return {name: identity.status for name, identity in pool.identities.items()}


def serving(pool: Pool, path: str, at: float) -> list[Identity]:
    """Those that may serve an endpoint now, in the order of the file."""
    return [i for i in pool.identities.values() if pool._is_able(i, Asked(None, path), at)]


def bound(pool: Pool, session: str) -> IdentityKey | None:
    """The identity that a session belongs to."""
    known = pool.sessions.get(session)
    return known.key if known is not None else None


def restore(pool: Pool, sessions: Mapping[str, IdentityKey]) -> None:
    """Have the sessions of an earlier run."""
    pool.sessions.found({session: (key, 0) for session, key in sessions.items()})


def not_for_endpoint(pool: Pool, name: str, path: str, at: float = NOW, code: str = "no_matching_rule") -> bool:
    """An endpoint refuses the token of an identity. Whether that was news."""
    identity = pool.identities.get(name)
    evidence = Evidence(at, "POST", path, 401, code, fingerprint=identity.fingerprint if identity else "")
    return pool.not_for_endpoint(name, path, evidence)
