"""What is remembered of addresses."""

from __future__ import annotations

from codexpool.members.client_addresses import ADDRESSES, EVERY, REFUSALS, WORKS_FOR, ClientAddresses


def test_refusals_in_full_are_limited_for_each_address() -> None:
    addresses = ClientAddresses()

    said = [addresses.count_refusal("10.0.0.9", 0.0) for _ in range(10_000)]

    assert said == [True] * REFUSALS + [False] * (10_000 - REFUSALS)
    assert 0 < addresses.pause("10.0.0.9", 0.0) <= EVERY
    assert [addresses.count_refusal("10.0.0.9", EVERY) for _ in range(3)] == [True, False, False]
    assert addresses.count_refusal("10.0.0.8", EVERY)


def test_no_memory_grows_with_the_addresses_of_an_attacker() -> None:
    addresses = ClientAddresses()

    for number in range(10 * ADDRESSES):
        addresses.count_refusal(f"address-{number}", 0.0)
        addresses.note_bad_key(f"address-{number}", "revoked", 0.0)
        addresses.note_member(f"address-{number}", "ann", 0.0)

    kept = (addresses._refused, addresses._members, addresses._bad_keys)
    assert all(len(addresses) <= ADDRESSES for addresses in kept)


def test_an_address_is_a_members_for_a_limited_time() -> None:
    addresses = ClientAddresses()
    addresses.note_bad_key("10.0.0.9", "revoked", 0.0)
    assert addresses.bad_key("10.0.0.9", 1.0) == "revoked"

    addresses.note_member("10.0.0.9", "ann", 2.0)

    assert addresses.member_at("10.0.0.9", 3.0) == "ann"
    assert addresses.bad_key("10.0.0.9", 3.0) == ""
    assert addresses.member_at("10.0.0.8", 3.0) == ""
    assert addresses.member_at("10.0.0.9", 2.0 + WORKS_FOR) == ""
