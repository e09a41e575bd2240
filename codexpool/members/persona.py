"""The account that a member's client sees: an account and a user of the member's own, on the plan of the pool.

At its start a client asks whoami four times about its credential (docs/protocol.md, section 1b). With a business-like
plan it insists on the policy of its workspace (section 4b). So a member's whoami shows the plan of an identity that
serves it, and the policy comes from an identity of the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codexpool.members.register import Member
from codexpool.pool.identity import Identity, Metadata, Status
from codexpool.pool.pool import Pool


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
