"""What is remembered of addresses: how often one was refused lately, and whether a member works from there.

Both are bounded: an attacker with many addresses pushes out others, and no memory grows. A key that is good is never
refused for what others have tried from the same address.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar

T = TypeVar("T")

REFUSALS: Final = 20
"""Refusals of one address that are answered and logged in full, in a row."""

EVERY: Final = 3.0
"""Seconds after which there may be one more of them."""

ADDRESSES: Final = 4_096
"""Addresses that are remembered, of each kind."""

REMEMBERED_FOR: Final = 60.0
"""Seconds for which it is known of an address that a bad key has come from there."""

WORKS_FOR: Final = 12 * 3600.0
"""Seconds for which an address counts as one that a member works from."""


class Strangers:
    """Times are seconds of a clock that is never set back."""

    def __init__(self) -> None:
        self._refused: OrderedDict[str, float] = OrderedDict()
        """By address, from when on it would have nothing counted against it."""
        self._bad_keys: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """By address, until when a client there may go on without the key that was refused, and why it was."""
        self._members: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """By address, until when a member works from there, and which one: the last that has come."""

    def refused(self, address: str, at: float) -> bool:
        """A request of an address is refused: whether that is within what is said and logged in full."""
        clear_at = max(self._refused.get(address, at), at) + EVERY
        is_within = clear_at - at <= REFUSALS * EVERY
        _put(self._refused, address, clear_at if is_within else clear_at - EVERY)
        return is_within

    def pause(self, address: str, at: float) -> float:
        """Seconds until a refusal of this address is said in full again."""
        return max(0.0, self._refused.get(address, at) - at - (REFUSALS - 1) * EVERY)

    def bad_key_came(self, address: str, why: str, at: float) -> None:
        """A key has come from an address that opens nothing, and why."""
        _put(self._bad_keys, address, (at + REMEMBERED_FOR, why))

    @property
    def has_bad_keys(self) -> bool:
        """Whether any is remembered: as a rule there is none, and nothing has to be looked up."""
        return bool(self._bad_keys)

    def bad_key(self, address: str, at: float) -> str:
        """Why the key of a client opens nothing that has come from an address lately, if no member has since."""
        until, why = self._bad_keys.get(address, (at, ""))
        return why if until > at else ""

    def member_came(self, address: str, name: str, at: float) -> None:
        """A member has come from an address."""
        self._bad_keys.pop(address, None)
        _put(self._members, address, (at + WORKS_FOR, name))

    def member_at(self, address: str, at: float) -> str:
        """The member that works from an address; empty if none does."""
        until, name = self._members.get(address, (at, ""))
        return name if until > at else ""


def _put(known: OrderedDict[str, T], address: str, what: T) -> None:
    known[address] = what
    known.move_to_end(address)
    if len(known) > ADDRESSES:
        known.popitem(last=False)
