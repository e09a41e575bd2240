"""Whom a member is to its own client: an account and a user of its own, on the plan of the pool. Pure.

A client asks whoami whose its credential is, four times as it starts (docs/protocol.md, section 1b), and goes by the
plan it hears of: with a business-like one it insists upon the policy of its workspace (section 4b). So a member hears
of the plan of an identity that serves it, and gets that policy from those of the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codexpool.members.register import Member
from codexpool.pool.identity import Identity, Metadata, Status
from codexpool.pool.pool import Pool


def face(pool: Pool, member: Member) -> Metadata | None:
    """Whom a member's client takes the pool for: the first of the file that serves it, ready ones before others.

    None as long as it is not known of anybody whose token that is.
    """
    known = [identity for identity in _its(pool, member) if identity.metadata is not None]
    ready = (identity for identity in known if identity.status is Status.READY)
    first = next(ready, known[0] if known else None)
    return first.metadata if first is not None else None


def of_its_plan(pool: Pool, member: Member) -> frozenset[str] | None:
    """The names of those whose workspace may speak for the pool: they have the plan that the client knows of.

    As long as nobody's plan is known those of all that serve the member; None: of all there are.
    """
    shown = face(pool, member)
    if shown is None:
        return member.identities
    return frozenset(i.name for i in _its(pool, member) if i.metadata is not None and i.metadata.plan == shown.plan)


def whoami(member: Member, shown: Metadata | None) -> dict[str, Any]:
    """What whoami would say of the member's key (openai/codex, personal_access_token.rs)."""
    return {
        "email": None,
        "chatgpt_user_id": member.user_id,
        "chatgpt_account_id": member.account_id,
        "chatgpt_plan_type": shown.plan if shown is not None and shown.plan else UNKNOWN_PLAN,
        "chatgpt_account_is_fedramp": shown is not None and shown.fedramp,
    }


UNKNOWN_PLAN = "unknown"
"""In place of a plan as long as nobody has said what it is."""


def _its(pool: Pool, member: Member) -> Iterator[Identity]:
    """The identities that serve a member, in the order of the file."""
    allowed = member.identities
    return (i for name, i in pool.identities.items() if allowed is None or name in allowed)
