"""``needs_replacement`` put into the text of a pool.toml, and taken out again."""

from __future__ import annotations

from codexpool.config.model import Flag
from codexpool.config.tables import time_literal, with_key, without_key

KEY = "needs_replacement"


def flagged(text: str, name: str, flag: Flag) -> str:
    """``text`` with ``flag`` in the table of identity ``name``, in place of one that is there already.

    Raises UneditableError if the text is no TOML or has no such identity.
    """
    value = {"since": time_literal(flag.since), "reason": flag.reason, "token": flag.token}
    return with_key(text, name, KEY, value)


def unflagged(text: str, name: str) -> str:
    """``text`` without the flag of identity ``name``: the very text it was before it was flagged.

    Raises UneditableError if the text is no TOML or has no such identity.
    """
    return without_key(text, name, KEY)
