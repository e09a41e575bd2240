"""What is known about the addresses of clients: refusals, bad keys, and which member works from there.

All of it is bounded, so that an attacker with many addresses cannot fill the memory. A valid key is never refused
because of what others tried from the same address.
"""

from __future__ import annotations

from typing import Final

from codexpool.common.recent import Recent

REFUSALS: Final = 20  # of one address in a row that are answered and logged in full, and one more
EVERY: Final = 3.0  # seconds
ADDRESSES: Final = 4_096  # to remember, of each kind
REMEMBERED_FOR: Final = 60.0  # seconds for a bad key of an address
WORKS_FOR: Final = 12 * 3600.0  # seconds for which a member is taken to work from an address


class ClientAddresses:
    """Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._refused: Recent[str, float] = Recent(ADDRESSES)  # by address, when its refusals are forgotten
        # By address, until when a client there may continue without its refused key, and why that was refused.
        self._bad_keys: Recent[str, tuple[float, str]] = Recent(ADDRESSES)
        self._members: Recent[str, tuple[float, str]] = Recent(ADDRESSES)  # until when, and the last one that came

    def count_refusal(self, address: str, at: float) -> bool:
        """Count a refusal, and return whether to answer and log it in full."""
        clear_at = max(self._refused.get(address, at), at) + EVERY
        is_within = clear_at - at <= REFUSALS * EVERY
        self._refused[address] = clear_at if is_within else clear_at - EVERY
        return is_within

    def pause(self, address: str, at: float) -> float:
        """Return the seconds until a refusal of this address is answered in full again."""
        return max(0.0, self._refused.get(address, at) - at - (REFUSALS - 1) * EVERY)

    def note_bad_key(self, address: str, why: str, at: float) -> None:
        """Note that a key came from an address and was refused, and why."""
        self._bad_keys[address] = (at + REMEMBERED_FOR, why)

    @property
    def has_bad_keys(self) -> bool:
        """Whether there may be any. Usually there is none, which saves a lookup."""
        return bool(self._bad_keys)

    def bad_key(self, address: str, at: float) -> str:
        """Return why the last key from an address was refused lately; empty if none was, or a member came since."""
        until, why = self._bad_keys.get(address, (at, ""))
        return why if until > at else ""

    def note_member(self, address: str, name: str, at: float) -> None:
        """Note that a member came from an address."""
        self._bad_keys.pop(address, None)
        self._members[address] = (at + WORKS_FOR, name)

    def member_at(self, address: str, at: float) -> str:
        """Return the name of the member that works from an address; empty if none does."""
        until, name = self._members.get(address, (at, ""))
        return name if until > at else ""
