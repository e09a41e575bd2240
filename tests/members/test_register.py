"""Whose a key is, and whom a member is to its client."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.config.model import MemberSpec, PreviousKey
from codexpool.members.register import KeyStatus, Register
from codexpool.tokens.member_key import HASHED, PREFIX, hashed, new_key

NOW = 1_000_000.0
KEY, OLD = (f"at-pool-test-{name}-0123456789abcdefghijklmnopq" for name in ("new", "old"))
ANN = MemberSpec("ann", hashed(KEY), 1)


def test_a_key_looks_like_a_pat_and_its_hash_hides_it() -> None:
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith("at-") and len(key.removeprefix(PREFIX)) == 43 for key in keys)
    assert all(HASHED.fullmatch(hashed(key)) and key not in hashed(key) for key in keys)


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        (ANN, KeyStatus.VALID),
        (replace(ANN, revoked_at=NOW - 1), KeyStatus.REVOKED),
        (replace(ANN, revoked_at=NOW + 9), KeyStatus.REVOKED),  # A clock that was set back takes nothing back.
        (replace(ANN, expires_at=NOW + 1), KeyStatus.VALID),
        (replace(ANN, expires_at=NOW), KeyStatus.EXPIRED),
    ],
)
def test_a_key_opens_the_pool_until_it_is_revoked_or_expires(spec: MemberSpec, status: KeyStatus) -> None:
    found, member = Register([spec]).holder(KEY, NOW)

    assert found is status
    assert member is not None
    assert member.name == "ann"


def test_after_a_rotation_both_keys_are_valid_for_a_while() -> None:
    register = Register([replace(ANN, previous=PreviousKey(hashed(OLD), NOW + 60))])

    assert [register.holder(key, NOW)[0] for key in (KEY, OLD)] == [KeyStatus.VALID, KeyStatus.VALID]
    assert [register.holder(key, NOW + 60)[0] for key in (KEY, OLD)] == [KeyStatus.VALID, KeyStatus.REPLACED]


def test_both_keys_of_a_member_have_the_same_ids() -> None:
    before, after = Register([ANN]), Register([replace(ANN, key=hashed(OLD), previous=PreviousKey(ANN.key, NOW + 9))])
    people = [register.holder(key, NOW)[1] for register, key in ((before, KEY), (after, KEY), (after, OLD))]
    other = Register([replace(ANN, name="bob")]).holder(KEY, NOW)[1]

    assert len({(who.account_id, who.user_id) for who in people if who is not None}) == 1
    assert None not in people
    assert other is not None
    assert people[0] is not None
    assert {other.account_id, other.user_id}.isdisjoint({people[0].account_id, people[0].user_id})


@given(
    st.text() | st.sampled_from([PREFIX, KEY[:-1], KEY + "x", KEY.upper(), hashed(KEY), "", f" {KEY}", f"{KEY}\n"])
)
def test_nothing_but_the_key_opens_the_pool(guess: str) -> None:
    register = Register([ANN])

    if guess != KEY:
        assert register.holder(guess, NOW) == (KeyStatus.UNKNOWN, None)


@pytest.mark.parametrize(
    ("now", "goes_on"),
    [
        ([ANN], True),
        ([replace(ANN, turns_at_once=1)], True),
        ([replace(ANN, key=hashed(OLD), previous=PreviousKey(ANN.key, NOW + 9))], True),
        ([replace(ANN, key=hashed(OLD), previous=PreviousKey(ANN.key, NOW))], False),
        ([replace(ANN, key=hashed(OLD))], False),
        ([replace(ANN, revoked_at=NOW)], False),
        ([replace(ANN, name="bob")], False),
        ([], False),
    ],
)
def test_admission_lasts_until_the_key_is_revoked(now: list[MemberSpec], goes_on: bool) -> None:
    member = Register([ANN]).holder(KEY, NOW)[1]
    assert member is not None

    assert Register(now).is_still_valid(member, NOW) is goes_on


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [((), None), (("team-*",), {"team-a", "team-b"}), (("spare", "team-a"), {"spare", "team-a"}), (("none",), set())],
)
def test_patterns_say_which_identities_serve_a_member(patterns: tuple[str, ...], allowed: set[str] | None) -> None:
    register = Register([replace(ANN, identities=patterns)], ["team-a", "spare", "team-b", "Team-c"])
    member = register.holder(KEY, NOW)[1]

    assert member is not None
    assert member.identities == allowed
