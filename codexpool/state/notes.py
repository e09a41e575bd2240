"""The kinds of notes in a state."""

from __future__ import annotations

from typing import Final

USAGE: Final = "usage"  # What an account has left, by account and user.
RESET: Final = "reset"  # When a person spent a reset credit, and a request whose outcome is unknown: the same.
FAMILIES: Final = "families"  # The families of models: one for all.
BREAKER: Final = "breaker"  # By pool.
RESUMED: Final = "resumed"  # When a person said that nothing is wrong with an identity, by fingerprint.
NOT_FOR: Final = "not_for"  # By the subject of an exclusion.
EMAIL: Final = "email"  # The address of a token's user, by fingerprint.
PINNED: Final = "pinned"  # By pool and session (`pin_name`); empty once the session was unpinned.


def pin_name(scope: str, session: str) -> str:
    """Return the name of the note about the pin of a session; ``scope`` is the name of its pool in the state."""
    return f"{scope}#{session}"


def pinned_session(scope: str, name: str) -> str:
    """Return the session that a note about a pin is for; empty if it is of another pool."""
    prefix = pin_name(scope, "")
    return name.removeprefix(prefix) if name.startswith(prefix) else ""
