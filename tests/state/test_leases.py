"""Leases of bounds in the state: they hold for all proxies, and end with the heartbeat of their holder."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from codexpool.members.ledger import Account, Spent
from codexpool.members.shares import POOL, Answer, Ask, Kind, Subject, Turns, of_member
from codexpool.state import State, UnavailableError
from codexpool.state.clock import now
from codexpool.state.fleet import DEAD_AFTER
from codexpool.state.leases import exchange
from codexpool.state.presence import leave
from codexpool.state.schema import leases, proxies
from codexpool.state.store import Store
from tests.state.engines import Engine
from tests.state.flushed import flushed

ANN = of_member("ann")
TODAY = Subject(Kind.DAY, "ann", "2026-11-30")
WANTS_ONE = Ask(ANN, 1, used=0, keep=0, waiting=1)


@pytest.fixture
def state(engine: Engine) -> Store:
    state = engine.state()
    beats(state, "A", "B")
    return state


def beats(state: State, *writers: str, seconds_ago: float = 0.0) -> None:
    def beat(connection: Connection) -> None:
        connection.execute(delete(proxies).where(proxies.c.writer.in_(writers)))
        for writer in writers:
            row = {"writer": writer, "host": "h", "version": "1", "pid": 1, "since": 0.0, "sessions": 0}
            connection.execute(insert(proxies).values(**row, at=now() - seconds_ago))

    state.transact(beat)


def asked(state: State, holder: str, *asks: Ask, pool: str = "pool.toml") -> dict[Subject, Answer]:
    return state.transact(lambda connection: exchange(connection, holder, pool, asks))


def test_a_bound_holds_for_all_proxies(state: Store) -> None:
    assert asked(state, "A", WANTS_ONE)[ANN].slots == 1

    assert asked(state, "B", WANTS_ONE)[ANN] == Answer(0, 1, 1, True, False)


def test_a_proxy_learns_that_turns_wait_elsewhere_and_its_slot_goes_to_them(state: Store) -> None:
    asked(state, "A", WANTS_ONE)
    asked(state, "B", WANTS_ONE)

    assert asked(state, "A", Ask(ANN, 1, used=1, keep=1))[ANN].is_contended
    assert asked(state, "A", Ask(ANN, 1, used=0, keep=0, waiting=1))[ANN].slots == 0
    assert asked(state, "B", WANTS_ONE)[ANN].slots == 1


def test_the_leases_of_a_dead_proxy_end_by_themselves(state: Store) -> None:
    asked(state, "A", WANTS_ONE)
    beats(state, "A", seconds_ago=DEAD_AFTER + 1)

    assert asked(state, "B", WANTS_ONE)[ANN].slots == 1
    # when it was not dead: the slots that it kept without a turn are gone
    assert asked(state, "A", Ask(ANN, 1, used=0, keep=1))[ANN].slots == 0


def test_an_exchange_is_a_heartbeat(state: Store) -> None:
    beats(state, "A", seconds_ago=DEAD_AFTER - 1)

    asked(state, "A", WANTS_ONE)

    is_alive = select(proxies.c.at > now() - 1).where(proxies.c.writer == "A")
    assert state.transact(lambda connection: connection.execute(is_alive).scalar())


def test_no_lease_is_given_to_a_proxy_without_a_heartbeat(state: Store) -> None:
    with pytest.raises(UnavailableError):
        asked(state, "C", WANTS_ONE)

    assert asked(state, "B", WANTS_ONE)[ANN].slots == 1


def test_no_slot_is_reserved_for_long_for_a_proxy_that_no_longer_asks(state: Store) -> None:
    asked(state, "A", WANTS_ONE)
    asked(state, "B", WANTS_ONE)
    long_ago = update(leases).where(leases.c.writer == "B").values(at=now() - 10)
    state.transact(lambda connection: connection.execute(long_ago))

    assert not asked(state, "A", Ask(ANN, 1, used=1, keep=1))[ANN].is_contended


def test_a_slot_of_the_member_and_one_of_the_pool_cost_one_exchange(state: Store) -> None:
    pool = Ask(POOL, 5, used=0, keep=0, waiting=1, members=(Turns(ANN, 0, 1),))

    answers = asked(state, "A", pool, WANTS_ONE)

    assert (answers[ANN].slots, answers[POOL].slots) == (1, 1)
    answers = asked(state, "B", pool, WANTS_ONE)
    assert (answers[ANN].slots, answers[POOL].slots) == (0, 0)


def test_two_pools_in_one_file_have_bounds_of_their_own(state: Store) -> None:
    asked(state, "A", WANTS_ONE)

    assert asked(state, "B", WANTS_ONE, pool="another.toml")[ANN].slots == 1


def test_the_leases_of_a_proxy_that_takes_its_leave_end_at_once(state: Store) -> None:
    asked(state, "A", WANTS_ONE)

    state.transact(lambda connection: leave(connection, "A"))

    assert asked(state, "B", WANTS_ONE)[ANN].slots == 1


def test_turns_that_an_ended_proxy_has_begun_today_count(engine: Engine, state: Store) -> None:
    earlier = engine.state()
    earlier.put_spent(Account("pool.toml", TODAY.day, "ann", "", ""), Spent(7))
    assert earlier.close()

    answer = asked(state, "A", Ask(TODAY, 10, used=0, keep=0, waiting=5))[TODAY]

    assert (answer.slots, answer.elsewhere) == (3, 7)


def test_turns_begun_count_once_whether_they_are_leased_or_written(state: Store) -> None:
    beats(state, state.name)
    wants_all = Ask(TODAY, 10, used=0, keep=0, waiting=9)
    asked(state, state.name, Ask(TODAY, 10, used=0, keep=0, waiting=4))
    asked(state, state.name, Ask(TODAY, 10, used=4, keep=4))
    assert asked(state, "B", wants_all)[TODAY] == Answer(6, 4, 0, True, False)

    state.put_spent(Account("pool.toml", TODAY.day, "ann", "", ""), Spent(4))
    assert flushed(state, 10)

    assert asked(state, "B", wants_all)[TODAY] == Answer(6, 4, 0, True, False)


def test_a_bound_holds_while_many_proxies_exchange_at_once(engine: Engine) -> None:
    states = [engine.state() for _ in range(4)]
    beats(states[0], *(state.name for state in states))
    under_way, most, lock = Counter[Subject](), Counter[Subject](), threading.Lock()
    subjects = [of_member(name) for name in "abc"]

    def works(index: int) -> None:
        chance, state = random.Random(index), states[index]
        used = Counter[Subject]()
        for _ in range(40):
            asks = []
            for subject in chance.sample(subjects, 2):
                ended = chance.randint(0, used[subject])
                used[subject] -= ended
                with lock:
                    under_way[subject] -= ended
                asks.append(Ask(subject, 3, used[subject], used[subject], chance.randint(0, 2)))
            for subject, answer in asked(state, state.name, *asks).items():
                with lock:
                    under_way[subject] += answer.slots - used[subject]
                    most[subject] = max(most[subject], under_way[subject])
                used[subject] = answer.slots

    with ThreadPoolExecutor(len(states)) as threads:
        list(threads.map(works, range(len(states))))

    assert max(most.values()) == 3
