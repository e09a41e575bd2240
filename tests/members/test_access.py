"""Who gets what: the promises that the table keeps."""

from __future__ import annotations

import pytest

from codexpool.members.access import Access, Asks, Brings, Gets, gets

ALL = [(brings, asks, access) for brings in Brings for asks in Asks for access in Access]


@pytest.mark.parametrize(("brings", "asks", "access"), ALL)
def test_every_request_gets_something(brings: Brings, asks: Asks, access: Access) -> None:
    assert gets(brings, asks, access) in Gets


@pytest.mark.parametrize(("brings", "asks", "access"), ALL)
def test_no_key_leaves_the_proxy(brings: Brings, asks: Asks, access: Access) -> None:
    leaves_as_it_came = gets(brings, asks, access) is Gets.UNTOUCHED

    assert brings not in (Brings.KEY, Brings.BAD_KEY) or not leaves_as_it_came


@pytest.mark.parametrize(("brings", "asks", "access"), ALL)
def test_only_a_good_key_is_sent_under_an_identity_and_only_where_the_pool_speaks(
    brings: Brings, asks: Asks, access: Access
) -> None:
    if gets(brings, asks, access) is Gets.SWAPPED:
        assert brings is Brings.KEY
        assert asks in (Asks.SWAP, Asks.LENT)


@pytest.mark.parametrize("asks", [Asks.SWAP, Asks.SOCKET])
@pytest.mark.parametrize("brings", [brings for brings in Brings if brings is not Brings.KEY])
def test_a_pool_for_members_gives_nothing_to_anyone_else(brings: Brings, asks: Asks) -> None:
    assert gets(brings, asks, Access.MEMBERS) in (Gets.REFUSED, Gets.TOLD)


@pytest.mark.parametrize("access", Access)
def test_a_member_has_no_socket_but_the_models(access: Access) -> None:
    assert gets(Brings.KEY, Asks.SOCKET, access) is Gets.NOT_FOR_KEYS


OWN_CREDENTIAL = [Brings.NOTHING, Brings.LOGIN, Brings.OTHER]


@pytest.mark.parametrize("brings", OWN_CREDENTIAL)
@pytest.mark.parametrize("asks", Asks)
def test_a_pool_for_anyone_is_as_if_there_were_no_members(brings: Brings, asks: Asks) -> None:
    assert gets(brings, asks, Access.ANYONE) is Gets.UNTOUCHED


@pytest.mark.parametrize("asks", [asks for asks in Asks if asks not in (Asks.SWAP, Asks.SOCKET)])
@pytest.mark.parametrize("brings", [Brings.LOGIN, Brings.OTHER])
def test_whoever_has_a_login_goes_on_speaking_for_himself_beside_a_pool_for_members(
    brings: Brings, asks: Asks
) -> None:
    assert gets(brings, asks, Access.MEMBERS) is Gets.UNTOUCHED


@pytest.mark.parametrize(("asks", "access"), [(asks, access) for asks in Asks for access in Access])
def test_no_login_is_ever_answered_with_a_401_upon_which_its_client_would_renew_it(
    asks: Asks, access: Access
) -> None:
    assert gets(Brings.LOGIN, asks, access) is not Gets.REFUSED
