"""Turns of many members at the places of a pool: nobody is starved, and no place is lost."""

from __future__ import annotations

import asyncio
import math

import pytest

from codexpool.members.turn_queue import TurnQueue
from tests.members.by_hand import LONG, Pool
from tests.members.fairness import FIRST_COME, ROUND_ROBIN, Setting, simulated

# -- who is let in


def test_without_bounds_no_turn_waits_and_nothing_is_kept() -> None:
    queue = TurnQueue()
    slots = [queue.acquire_now(f"m{number}", None) for number in range(1000)]
    for slot in slots:
        assert slot is not None
        slot.release()

    assert vars(queue) == vars(TurnQueue())


def test_waiting_members_are_served_in_turn() -> None:
    """Within a member it is first come, first served."""
    pool = Pool(1)
    turns = pool.asks("a", "a", "a", "a", "b", "c", "b", "")

    served = list(pool.leave_one_by_one(turns))

    assert [turn.who for turn in served] == ["a", "b", "c", "", "a", "b", "a"]
    assert [turn for turn in served if turn.who == "a"] == turns[1:4]
    assert [turn for turn in served if turn.who == "b"] == [turns[4], turns[6]]


def test_a_member_at_its_own_bound_keeps_no_other_out() -> None:
    pool = Pool(3)
    first, second = pool.asks("a", "a", at_once=1)
    other = pool.ask("b")

    assert [first.is_let_in, second.is_let_in, other.is_let_in] == [True, False, True]
    assert pool.queue.acquire_now("b", None) is not None
    first.leave()
    pool.loop.settle()
    assert pool.heard(second)
    assert second.is_let_in


def test_a_member_at_its_own_bound_keeps_its_position() -> None:
    pool = Pool(2)
    (first, _), (_, waits) = (pool.asks("a", "b"), pool.asks("a", "b", at_once=1))
    assert not waits.is_let_in
    later = pool.asks("c", "d")
    first.leave()
    pool.loop.settle()

    assert [pool.heard(turn) for turn in later] == [False, False]


def test_a_new_turn_overtakes_none_of_its_own_member() -> None:
    pool = Pool()
    pool.ask("a", at_once=1)
    waits = pool.ask("a", at_once=1)

    assert pool.queue.acquire_now("a", 1) is None
    later = pool.ask("a", at_once=2)
    pool.loop.settle()
    assert (pool.heard(waits), waits.is_let_in, later.is_let_in) == (True, True, False)


def test_a_changed_bound_counts_at_once() -> None:
    """A raised one admits, a lowered one admits nothing until there is room."""
    pool = Pool(1)
    turns = pool.asks("a", "b", "c", "d")

    pool.queue.limit(3)
    pool.loop.settle()
    assert [pool.heard(turn) for turn in turns] == [False, True, True, False]

    pool.queue.limit(1)
    for turn in turns[:2]:
        turn.leave()
        pool.loop.settle()
        assert not pool.heard(turns[3])
    turns[2].leave()
    pool.loop.settle()
    assert pool.heard(turns[3])


def test_without_a_bound_all_waiting_turns_are_admitted() -> None:
    pool = Pool(1)
    turns = pool.asks("a", "b", "b", "c")
    pool.queue.limit(None)
    pool.loop.settle()

    assert [pool.heard(turn) for turn in turns] == [False, True, True, True]


# -- who leaves, and when


def test_a_slot_is_released_once() -> None:
    pool = Pool(2)
    turns = pool.asks("a", "a", "b", "c")
    for _ in range(3):
        turns[0].leave()
    pool.loop.settle()

    assert [pool.heard(turn) for turn in turns[2:]] == [True, False]
    assert pool.queue.under_way("a") == 1


def test_a_client_that_leaves_while_waiting_costs_no_slot() -> None:
    pool = Pool(1)
    first, gone, other = pool.asks("a", "b", "c")
    assert gone.task is not None
    gone.task.cancel()
    first.leave()  # before the one that is gone has heard that it is
    pool.loop.settle()

    assert gone.task.cancelled()
    assert pool.heard(other)
    assert other.is_let_in


def test_a_client_that_leaves_when_admitted_frees_its_slot() -> None:
    pool = Pool(1)
    first, gone, other = pool.asks("a", "b", "c")
    assert gone.task is not None
    first.leave()
    assert pool.queue.under_way("b") == 1
    gone.task.cancel()
    pool.loop.settle()

    assert gone.task.cancelled()
    assert pool.heard(other)
    assert [pool.queue.under_way(who) for who in "abc"] == [0, 0, 1]


def test_a_closed_wait_leaves_no_turn_in_line() -> None:
    pool = Pool(0)
    asyncio._set_running_loop(pool.loop)
    waiting = pool.queue.acquire("a", None, LONG)
    waiting.send(None)
    waiting.close()
    asyncio._set_running_loop(None)

    assert vars(pool.queue) == vars(TurnQueue(0))
    assert all(timer.cancelled() for timer in pool.loop.timers)


@pytest.mark.parametrize("own", [None, 1])
def test_a_turn_that_waits_too_long_learns_the_bound(own: int | None) -> None:
    pool = Pool(2)
    pool.asks("a", "b")
    late, patient = pool.ask("a", own, seconds=3), pool.ask("a", own, seconds=4)
    pool.loop.passes(3)
    pool.loop.settle()

    assert (pool.heard(late), pool.heard(patient)) == (True, False)
    assert late.is_members is (own is not None)


def test_a_turn_admitted_as_its_time_ends_is_admitted() -> None:
    pool = Pool(1)
    first, waits = pool.ask("a"), pool.ask("b", seconds=3)
    pool.loop.passes(3)
    first.leave()
    pool.loop.settle()

    assert pool.heard(waits)
    assert waits.is_let_in
    assert pool.queue.under_way("b") == 1


# -- the bound of waiting


@pytest.mark.parametrize(("members", "places"), [(2, 1), (5, 2), (6, 3), (7, 10), (20, 10)])
def test_a_greedy_member_delays_others_by_the_bound_at_most(members: int, places: int) -> None:
    setting = Setting(members=members, places=places, greedy=5 * members, hours=0.5)
    for each in (setting, setting.at_its_worst()):
        in_turn = simulated(each, ROUND_ROBIN)
        assert max(in_turn.others) <= math.ceil(members / places) * each.longest == each.bound
        assert max(simulated(each, FIRST_COME).others) > max(in_turn.others)


@pytest.mark.parametrize(("proxies", "places"), [(2, 6), (4, 2)])
def test_a_greedy_member_delays_others_at_all_proxies_by_the_bound_at_most(proxies: int, places: int) -> None:
    setting = Setting(members=9, places=places, proxies=proxies, greedy=20, hours=0.15)
    for each in (setting, setting.at_its_worst()):
        assert max(simulated(each, ROUND_ROBIN).others) <= each.bound
