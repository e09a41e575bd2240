"""What the access table promises."""

from __future__ import annotations

import pytest

from codexpool.config.model import Access
from codexpool.members.access import TABLE, Outcome, Proof, Purpose

ALL = [(proof, purpose, access) for proof in Proof for purpose in Purpose for access in Access]


@pytest.mark.parametrize(("proof", "purpose", "access"), ALL)
def test_every_request_gets_something(proof: Proof, purpose: Purpose, access: Access) -> None:
    assert TABLE[access][proof][purpose] in Outcome


@pytest.mark.parametrize(("proof", "purpose", "access"), ALL)
def test_no_key_leaves_the_proxy(proof: Proof, purpose: Purpose, access: Access) -> None:
    leaves_as_it_came = TABLE[access][proof][purpose] is Outcome.UNTOUCHED

    assert proof not in (Proof.KEY, Proof.BAD_KEY) or not leaves_as_it_came


@pytest.mark.parametrize(("proof", "purpose", "access"), ALL)
def test_only_a_valid_key_is_swapped(proof: Proof, purpose: Purpose, access: Access) -> None:
    if TABLE[access][proof][purpose] is Outcome.SWAPPED:
        assert proof is Proof.KEY
        assert purpose in (Purpose.SWAP, Purpose.WORKSPACE, Purpose.QUOTA)


@pytest.mark.parametrize("purpose", [Purpose.SWAP, Purpose.SOCKET])
@pytest.mark.parametrize("proof", [proof for proof in Proof if proof is not Proof.KEY])
def test_a_pool_for_members_gives_nothing_to_anyone_else(proof: Proof, purpose: Purpose) -> None:
    assert TABLE[Access.MEMBERS][proof][purpose] in (Outcome.REFUSED, Outcome.EXPLAINED)


@pytest.mark.parametrize("access", Access)
def test_a_member_has_no_socket_but_the_models(access: Access) -> None:
    assert TABLE[access][Proof.KEY][Purpose.SOCKET] is Outcome.NOT_FOR_KEYS


OWN_CREDENTIAL = [Proof.NOTHING, Proof.LOGIN, Proof.OTHER]


@pytest.mark.parametrize("proof", OWN_CREDENTIAL)
@pytest.mark.parametrize("purpose", Purpose)
def test_a_pool_for_anyone_ignores_requests_without_a_key(proof: Proof, purpose: Purpose) -> None:
    assert TABLE[Access.ANYONE][proof][purpose] is Outcome.UNTOUCHED


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose not in (Purpose.SWAP, Purpose.SOCKET)])
@pytest.mark.parametrize("proof", [Proof.LOGIN, Proof.OTHER])
def test_a_login_acts_for_itself_beside_a_pool_for_members(proof: Proof, purpose: Purpose) -> None:
    assert TABLE[Access.MEMBERS][proof][purpose] in (Outcome.UNTOUCHED, Outcome.OWN)


@pytest.mark.parametrize("proof", OWN_CREDENTIAL)
def test_a_pool_for_members_tells_nobody_else_what_it_has_left(proof: Proof) -> None:
    assert TABLE[Access.MEMBERS][proof][Purpose.QUOTA] in (Outcome.OWN, Outcome.REFUSED)


@pytest.mark.parametrize(("purpose", "access"), [(purpose, access) for purpose in Purpose for access in Access])
def test_no_login_gets_a_401(purpose: Purpose, access: Access) -> None:
    """Its client would renew the login."""
    assert TABLE[access][Proof.LOGIN][purpose] is not Outcome.REFUSED
