"""How proxies share a bound: a rule of what one proxy gets, given the claims of all."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.members.shares import (
    CHUNK,
    POOL,
    Answer,
    Ask,
    Claim,
    Kind,
    Standing,
    Subject,
    Turns,
    of_member,
    settle,
)

ANN = of_member("ann")
TODAY = Subject(Kind.DAY, "ann", "2026-11-30")


def settled(ask: Ask, *claims: Claim, clock: float = 0.0) -> Answer:
    return settle("me", [ask], {ask.subject: Standing(clock, claims)})[ask.subject].answer


def test_a_free_slot_is_leased_at_once() -> None:
    assert settled(Ask(ANN, 3, used=0, keep=0, waiting=2), Claim("other", slots=1)).slots == 2


def test_no_more_than_the_bound_is_leased() -> None:
    assert settled(Ask(ANN, 3, used=0, keep=0, waiting=9), Claim("other", slots=1)).slots == 2


def test_turns_that_were_begun_without_the_state_count_until_they_end() -> None:
    assert settled(Ask(ANN, 3, used=3, keep=3, waiting=1), Claim("other", slots=3)) == Answer(3, 3, 3, True, True)
    assert settled(Ask(ANN, 3, used=1, keep=1, waiting=1), Claim("other", slots=2, used=2)).slots == 1


def test_a_slot_that_is_kept_is_ours_only_if_the_state_says_so() -> None:
    assert settled(Ask(ANN, 3, used=1, keep=3), Claim("me", slots=2)).slots == 2
    assert settled(Ask(ANN, 3, used=1, keep=3)).slots == 1


def test_a_slot_due_to_another_proxy_is_left_to_it() -> None:
    ask = Ask(ANN, 2, used=0, keep=0, waiting=1)

    assert settled(ask, Claim("other", slots=1, used=1, waiting=1, finish=3), clock=5) == Answer(0, 1, 0, False, True)
    assert settled(ask, Claim("other", slots=1, used=1, waiting=1, finish=6), clock=5).slots == 1


def test_a_slot_of_the_pool_is_for_turns_that_have_the_one_of_their_member() -> None:
    bob, pool = of_member("bob"), (Turns(ANN, 0, 2), Turns(of_member("bob"), 0, 2), Turns(None, 0, 1))
    asks = [
        Ask(POOL, 9, used=0, keep=0, waiting=5, members=pool),
        Ask(ANN, 1, used=0, keep=0, waiting=2),
        Ask(bob, 1, used=0, keep=0, waiting=2),
    ]
    found = {bob: Standing(0.0, [Claim("other", slots=1, used=1)])}

    outcome = settle("me", asks, found)

    assert outcome[ANN].answer.slots == 1
    assert outcome[bob].answer.slots == 0
    assert outcome[POOL].answer.slots == 2
    assert outcome[POOL].claim.weight == 2


@dataclass
class Waiting:
    """A proxy at which turns of some members always wait."""

    name: str
    members: int


@given(members=st.lists(st.integers(1, 6), min_size=2, max_size=5), bound=st.integers(1, 4), data=st.data())
def test_proxies_get_slots_in_proportion_to_the_members_that_wait_at_them(
    members: list[int], bound: int, data: st.DataObject
) -> None:
    """Until a proxy with m members has got m slots, the others have got at most W - m + P."""
    proxies = [Waiting(f"proxy {i}", count) for i, count in enumerate(members)]
    claims: dict[str, Claim] = {}
    clock, window = 0.0, {proxy.name: dict.fromkeys((p.name for p in proxies), 0) for proxy in proxies}
    whole = sum(members) + len(members)

    def exchanges(proxy: Waiting, kept: int) -> int:
        nonlocal clock
        pool = tuple(Turns(None, 0, 50) for _ in range(proxy.members))
        ask = Ask(POOL, bound, used=kept, keep=kept, waiting=1, members=pool)
        outcome = settle(proxy.name, [ask], {POOL: Standing(clock, list(claims.values()))})[POOL]
        claims[proxy.name], clock = outcome.claim, outcome.clock
        return outcome.answer.slots - kept

    for proxy in proxies:
        exchanges(proxy, 0)
    for _ in range(60):
        ended = data.draw(st.sampled_from([p for p in proxies if claims[p.name].slots]))
        # The one that is due takes the slot, in whatever order they ask.
        for proxy, given_back in [(ended, 1), *((proxy, 0) for proxy in proxies)]:
            for _ in range(exchanges(proxy, claims[proxy.name].slots - given_back)):
                for name, got in window.items():
                    got[proxy.name] += 1
                    if name == proxy.name and got[name] >= proxy.members:
                        assert sum(got.values()) <= whole
                        window[name] = dict.fromkeys(got, 0)
    assert sum(claim.slots for claim in claims.values()) == bound


# -- turns of a day


def of_day(ask: Ask, *claims: Claim, begun: dict[str, int] | None = None) -> Answer:
    return settle("me", [ask], {TODAY: Standing(0.0, claims, begun or {})})[TODAY].answer


def test_turns_of_a_day_are_leased_in_advance_while_many_are_left() -> None:
    assert of_day(Ask(TODAY, 500, used=0, keep=0, waiting=1)).slots == 1 + CHUNK
    assert of_day(Ask(TODAY, 24, used=0, keep=0, waiting=1)).slots == 1 + 3
    assert of_day(Ask(TODAY, 24, used=22, keep=22, waiting=1), Claim("me", slots=22)).slots == 23


def test_turns_begun_elsewhere_count_also_after_their_proxy_has_ended() -> None:
    ask = Ask(TODAY, 10, used=2, keep=2, waiting=1)

    assert of_day(ask, begun={"ended": 5, "me": 2}) == Answer(3, 5, 0, False, False)
    assert of_day(ask, begun={"ended": 8}).slots == 2


def test_turns_that_another_proxy_has_leased_are_not_leased_twice() -> None:
    answer = of_day(Ask(TODAY, 10, used=2, keep=2, waiting=3), Claim("other", slots=7, used=4), begun={"other": 5})

    assert answer == Answer(3, 5, 2, True, False)


@given(
    bound=st.integers(0, 60),
    chunks=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.booleans()), max_size=60),
)
def test_a_day_never_has_more_turns_than_its_bound(bound: int, chunks: list[tuple[int, int, bool]]) -> None:
    """Proxies begin turns that they have leased, and give the rest back now and then."""
    claims: dict[str, Claim] = {}
    begun = {f"proxy {i}": 0 for i in range(3)}
    for index, waiting, gives_back in chunks:
        name = f"proxy {index}"
        mine = claims.get(name, Claim(name))
        begun[name] = min(mine.slots, begun[name] + 1)
        ask = Ask(TODAY, bound, begun[name], begun[name] if gives_back else mine.slots, waiting)
        outcome = settle(name, [ask], {TODAY: Standing(0.0, list(claims.values()), begun)})[TODAY]
        claims[name] = outcome.claim
        assert sum(claim.slots for claim in claims.values()) <= bound
        assert outcome.answer.slots - begun[name] >= min(waiting, bound - sum(c.slots for c in claims.values()))
    assert sum(begun.values()) <= bound


@pytest.mark.parametrize("subject", [POOL, ANN, TODAY])
def test_bounds_have_names_of_their_own(subject: Subject) -> None:
    assert [str(one) for one in (POOL, ANN, TODAY)].count(str(subject)) == 1
