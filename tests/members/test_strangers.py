"""What is remembered of addresses."""

from __future__ import annotations

from codexpool.members.strangers import ADDRESSES, EVERY, REFUSALS, WORKS_FOR, Strangers


def test_an_address_is_refused_in_full_so_often_and_then_once_in_a_while() -> None:
    strangers = Strangers()

    said = [strangers.refused("10.0.0.9", 0.0) for _ in range(10_000)]

    assert said == [True] * REFUSALS + [False] * (10_000 - REFUSALS)
    assert 0 < strangers.pause("10.0.0.9", 0.0) <= EVERY
    assert [strangers.refused("10.0.0.9", EVERY) for _ in range(3)] == [True, False, False]
    assert strangers.refused("10.0.0.8", EVERY)


def test_no_memory_grows_with_the_addresses_of_an_attacker() -> None:
    strangers = Strangers()

    for number in range(10 * ADDRESSES):
        strangers.refused(f"address-{number}", 0.0)
        strangers.bad_key_came(f"address-{number}", "revoked", 0.0)
        strangers.member_came(f"address-{number}", "ann", 0.0)

    kept = (strangers._refused, strangers._members, strangers._bad_keys)
    assert all(len(addresses) <= ADDRESSES for addresses in kept)


def test_an_address_is_a_members_from_its_key_on_and_not_for_ever() -> None:
    strangers = Strangers()
    strangers.bad_key_came("10.0.0.9", "revoked", 0.0)
    assert strangers.bad_key("10.0.0.9", 1.0) == "revoked"

    strangers.member_came("10.0.0.9", "ann", 2.0)

    assert strangers.member_at("10.0.0.9", 3.0) == "ann"
    assert strangers.bad_key("10.0.0.9", 3.0) == ""
    assert strangers.member_at("10.0.0.8", 3.0) == ""
    assert strangers.member_at("10.0.0.9", 2.0 + WORKS_FOR) == ""
