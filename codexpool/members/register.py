"""Finds the member that a key belongs to, and makes up the account that the member's client sees.

At its start a client asks whoami four times about its credential (docs/protocol.md, section 1b). With a business-like
plan it insists on the policy of its workspace (section 4b). So a member's whoami shows the plan of an identity that
serves it, and the policy comes from an identity of the same plan.
"""

from __future__ import annotations

import hmac
import secrets
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any, Final

from codexpool.config.model import MemberSpec
from codexpool.pool.identity import Identity, Metadata, Status, clock
from codexpool.pool.pool import Pool
from codexpool.tokens.member_key import hashed

NAMESPACE: Final = uuid.UUID("5c0d6e1f-7a52-4e6b-9d0a-2f6d3b8c41e7")
"""Of the ids made up for members: a name has the same ids in every proxy, and after a restart."""


class KeyStatus(Enum):
    """Whether a key opens the pool."""

    VALID = "valid"
    UNKNOWN = "not the key of any member"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLACED = "replaced by another one"


@dataclass(frozen=True, slots=True)
class Member:
    """A member whose request came with this ``key`` (as pool.toml has it).

    ``identities`` are the names of those that serve the member; None means all. Clients store things by the ids, so a
    name always has the same ones.
    """

    spec: MemberSpec
    key: str
    account_id: str
    user_id: str
    identities: frozenset[str] | None

    @property
    def name(self) -> str:
        return self.spec.name


class Register:
    """The members of one configuration.

    A key is looked up by a digest salted for this process, and then compared in constant time, so that timing tells
    nothing about the keys there are.
    """

    def __init__(self, specs: Iterable[MemberSpec] = (), identities: Collection[str] = ()) -> None:
        self._salt = secrets.token_bytes(32)
        self._members: dict[bytes, Member] = {}
        self.specs = {spec.name: spec for spec in specs}
        for spec in self.specs.values():
            for key in _keys(spec):
                self._members[self._digest(key)] = _member(spec, key, identities)

    def holder(self, key: str, at: float) -> tuple[KeyStatus, Member | None]:
        """Return the status of a key at the unix second ``at``, and its member. Only ``VALID`` opens the pool."""
        given = hashed(key)
        member = self._members.get(self._digest(given))
        if not hmac.compare_digest(member.key if member is not None else "", given) or member is None:
            return KeyStatus.UNKNOWN, None
        return key_status(member.spec, member.key, at), member

    def is_still_valid(self, member: Member, at: float) -> bool:
        """Return whether what was admitted for a member may continue: its key has not been revoked since."""
        spec = self.specs.get(member.name)
        return spec is not None and key_status(spec, member.key, at) is KeyStatus.VALID

    def _digest(self, key: str) -> bytes:
        return blake2b(key.encode(), key=self._salt, digest_size=16).digest()


def key_status(spec: MemberSpec, key: str, at: float) -> KeyStatus:
    """Return the status of a key (as pool.toml has it) of a member."""
    if key not in _keys(spec):
        return KeyStatus.UNKNOWN
    if spec.revoked_at is not None:
        return KeyStatus.REVOKED
    if spec.expires_at is not None and spec.expires_at <= at:
        return KeyStatus.EXPIRED
    if key != spec.key and spec.previous is not None and spec.previous.until <= at:
        return KeyStatus.REPLACED
    return KeyStatus.VALID


def refusal(status: KeyStatus, member: Member | None) -> str:
    """Return why a key is refused, for the person who uses it."""
    renew = "ask the operator of this proxy for a new one"
    if member is None:
        return f"this is not the key of a member of this pool: correct CODEX_ACCESS_TOKEN, or {renew}"
    spec = member.spec
    replaced_at = spec.previous.until if spec.previous is not None else None
    ends = {KeyStatus.REVOKED: spec.revoked_at, KeyStatus.EXPIRED: spec.expires_at, KeyStatus.REPLACED: replaced_at}
    at = ends.get(status)
    when = f" ({clock(at, 0.0)} UTC)" if at is not None else ""
    return f"this member key of {member.name} is {status.value}{when}: {renew}"


def _keys(spec: MemberSpec) -> tuple[str, ...]:
    return (spec.key,) if spec.previous is None else (spec.key, spec.previous.key)


def _member(spec: MemberSpec, key: str, identities: Collection[str]) -> Member:
    served_by = None
    if spec.identities:
        served_by = frozenset(name for name in identities if may_use(spec, name))
    account, user = (uuid.uuid5(NAMESPACE, f"{what} {spec.name}") for what in ("account", "user"))
    return Member(spec, key, str(account), f"user-{user.hex}", served_by)


def may_use(spec: MemberSpec, name: str) -> bool:
    """Return whether an identity may serve a member."""
    return not spec.identities or any(fnmatchcase(name, pattern) for pattern in spec.identities)


def shown_metadata(pool: Pool, member: Member) -> Metadata | None:
    """Return the metadata that a member's client sees: of the first ready identity that serves it, or else the first.

    Return None as long as whoami has not answered for any of them.
    """
    known = [identity for identity in _serving(pool, member) if identity.metadata is not None]
    ready = (identity for identity in known if identity.status is Status.READY)
    first = next(ready, known[0] if known else None)
    return first.metadata if first is not None else None


def names_of_its_plan(pool: Pool, member: Member) -> frozenset[str] | None:
    """Return the names of the identities that serve a member and have the plan that its client sees.

    As long as no plan is known, return all that serve the member; None means all of the pool.
    """
    shown = shown_metadata(pool, member)
    if shown is None:
        return member.identities
    serving = _serving(pool, member)
    return frozenset(i.name for i in serving if i.metadata is not None and i.metadata.plan == shown.plan)


def whoami(member: Member, shown: Metadata | None) -> dict[str, Any]:
    """Return a whoami answer for a member's key (openai/codex, personal_access_token.rs)."""
    return {
        "email": None,
        "chatgpt_user_id": member.user_id,
        "chatgpt_account_id": member.account_id,
        "chatgpt_plan_type": shown.plan if shown is not None and shown.plan else "unknown",
        "chatgpt_account_is_fedramp": shown is not None and shown.fedramp,
    }


def _serving(pool: Pool, member: Member) -> Iterator[Identity]:
    """Yield the identities that serve a member, in the order of the file."""
    allowed = member.identities
    return (i for name, i in pool.identities.items() if allowed is None or name in allowed)
