"""Of several proxies with one question, one asks; if it does not answer, the next one does."""

from __future__ import annotations

import threading
import time

from codexpool.state.questions import take
from codexpool.state.store import Store
from tests.state.engines import Engine

NOW = 1_800_000_000.0


def takes(state: Store, question: str, at: float) -> bool:
    return state.transact(lambda connection: take(connection, question, at, 5.0))


def test_a_question_is_taken_once_at_a_time(engine: Engine) -> None:
    here, there = engine.state(), engine.state()

    taken = [takes(state, "whoami:f", NOW + at) for at, state in enumerate((here, there, here, there))]

    assert taken == [True, False, False, False]
    assert takes(there, "whoami:g", NOW)


def test_a_question_without_an_answer_is_taken_by_the_next(engine: Engine) -> None:
    here, there = engine.state(), engine.state()
    takes(here, "whoami:f", NOW)

    assert not takes(there, "whoami:f", NOW + 4.9)
    assert takes(there, "whoami:f", NOW + 5.1)
    assert not takes(here, "whoami:f", NOW + 5.2)


def test_a_question_that_was_taken_in_the_future_blocks_nothing(engine: Engine) -> None:
    """Before a clock was set back."""
    state = engine.state()
    takes(state, "whoami:f", NOW + 3600)

    assert takes(state, "whoami:f", NOW)


def test_of_many_that_ask_at_once_one_takes_the_question(engine: Engine) -> None:
    states, taken, begin = [engine.state() for _ in range(6)], [], threading.Barrier(6)

    def ask(state: Store) -> None:
        begin.wait(10)
        taken.append(takes(state, "usage:k", time.time()))

    threads = [threading.Thread(target=ask, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(taken) == [False] * 5 + [True]
