"""Who the members of a pool are: whose a key is, and whom a member is to its client."""

from __future__ import annotations

import hmac
import secrets
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Final, NamedTuple

from codexpool.config.model import MemberSpec
from codexpool.pool.identity import clock
from codexpool.tokens.member_key import hashed

NAMESPACE: Final = uuid.UUID("5c0d6e1f-7a52-4e6b-9d0a-2f6d3b8c41e7")
"""Of the account ids that are made up for members: a name has the same one in every proxy, and after a restart."""


class Standing(Enum):
    """What there is to be said of a key."""

    VALID = "valid"
    UNKNOWN = "not the key of any member"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLACED = "replaced by another one"


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who may use the pool, and has come with this ``key`` (as pool.toml has it).

    ``identities`` are the names of those that serve the member; None: all. The ids are made up, and the same for as
    long as the member is called so: clients keep things by them.
    """

    spec: MemberSpec
    key: str
    account_id: str
    user_id: str
    identities: frozenset[str] | None

    @property
    def name(self) -> str:
        return self.spec.name


class Holder(NamedTuple):
    """Whose a key is; nobody's where it is unknown. Only a ``VALID`` one opens anything."""

    standing: Standing
    member: Member | None


NOBODY: Final = Holder(Standing.UNKNOWN, None)


class Register:
    """The members of one configuration.

    A key is looked up by a digest with a salt of this process, and then compared in constant time: how long that
    takes says nothing of the keys there are.
    """

    def __init__(self, specs: Iterable[MemberSpec] = (), identities: Collection[str] = ()) -> None:
        self._salt = secrets.token_bytes(32)
        self._held: dict[bytes, Member] = {}
        self.specs = {spec.name: spec for spec in specs}
        for spec in self.specs.values():
            for key in _keys(spec):
                self._held[self._place(key)] = _member(spec, key, identities)

    def holder(self, key: str, at: float) -> Holder:
        """Whose a key is at the unix second ``at``."""
        given = hashed(key)
        member = self._held.get(self._place(given))
        if not hmac.compare_digest(member.key if member is not None else "", given) or member is None:
            return NOBODY
        return Holder(standing(member.spec, member.key, at), member)

    def still_holds(self, member: Member, at: float) -> bool:
        """Whether what was let in for a member may go on: its key has not been taken away since."""
        spec = self.specs.get(member.name)
        return spec is not None and standing(spec, member.key, at) is Standing.VALID

    def _place(self, key: str) -> bytes:
        return blake2b(key.encode(), key=self._salt, digest_size=16).digest()


def standing(spec: MemberSpec, key: str, at: float) -> Standing:
    """What there is to be said of a key (as pool.toml has it) of a member."""
    if key not in _keys(spec):
        return Standing.UNKNOWN
    if spec.revoked_at is not None:
        return Standing.REVOKED
    if spec.expires_at is not None and spec.expires_at <= at:
        return Standing.EXPIRED
    if key != spec.key and spec.previous is not None and spec.previous.until <= at:
        return Standing.REPLACED
    return Standing.VALID


def refusal(standing: Standing, member: Member | None) -> str:
    """Why a key opens nothing, for whoever holds it."""
    renew = "ask whoever runs this proxy for another one"
    if member is None:
        return f"this is not the key of a member of this pool: correct CODEX_ACCESS_TOKEN, or {renew}"
    spec = member.spec
    at = {
        Standing.REVOKED: spec.revoked_at,
        Standing.EXPIRED: spec.expires_at,
        Standing.REPLACED: spec.previous.until if spec.previous is not None else None,
    }.get(standing)
    when = f" ({clock(at, 0.0)} UTC)" if at is not None else ""
    return f"this member key of {member.name} is {standing.value}{when}: {renew}"


def _keys(spec: MemberSpec) -> tuple[str, ...]:
    return (spec.key,) if spec.previous is None else (spec.key, spec.previous.key)


def _member(spec: MemberSpec, key: str, identities: Collection[str]) -> Member:
    served_by = None
    if spec.identities:
        served_by = frozenset(n for n in identities if any(fnmatchcase(n, pattern) for pattern in spec.identities))
    account, user = (uuid.uuid5(NAMESPACE, f"{what} {spec.name}") for what in ("account", "user"))
    return Member(spec, key, str(account), f"user-{user.hex}", served_by)
