from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from codexpool.pool.breaker import FIRST_PAUSE, LONGEST_PAUSE, PROBE_LASTS, WITHIN, Breaker, Opening
from tests.pool.pools import NOW


def opened(at: float = NOW, most: int = 3) -> Breaker:
    breaker = Breaker(most)
    for number in range(most):
        breaker.refused(f"i{number}", at, left=9)
    assert breaker.state(at) is Opening.OPEN
    return breaker


def test_opens_when_three_identities_are_refused_in_a_minute() -> None:
    breaker = Breaker()

    assert [breaker.refused(name, NOW + at, 9) for name, at in (("a", 0), ("b", 30), ("c", 59))] == [
        False,
        False,
        True,
    ]
    assert breaker.names == ("a", "b", "c")


def test_one_identity_alone_does_not_open_it() -> None:
    """However often it is refused."""
    breaker = Breaker()

    assert not any(breaker.refused("a", NOW + at, 9) for at in range(50))


def test_does_not_open_for_refusals_that_are_far_between() -> None:
    breaker = Breaker()

    assert not any(breaker.refused(f"i{n}", NOW + n * (WITHIN / 2 + 1), 9) for n in range(50))


def test_of_a_small_pool_all_have_to_be_refused() -> None:
    breaker = Breaker()

    assert not breaker.refused("a", NOW, left=1)
    assert breaker.refused("b", NOW, left=0)


def test_how_many_is_the_operators_word() -> None:
    assert Breaker(1).refused("a", NOW, left=9)
    breaker = Breaker(5)
    assert [breaker.refused(f"i{n}", NOW, left=9) for n in range(5)] == [False] * 4 + [True]


def test_lets_one_probe_through_after_a_pause() -> None:
    """No other request passes until the probe has an answer."""
    breaker = opened()
    later = NOW + FIRST_PAUSE

    assert not breaker.lets_pass(later - 0.1)
    assert breaker.state(later) is Opening.HALF_OPEN
    assert [breaker.lets_pass(later) for _ in range(3)] == [True, False, False]
    breaker.tried()
    assert [breaker.lets_pass(later) for _ in range(2)] == [True, False]
    assert breaker.lets_pass(later + PROBE_LASTS)


def test_the_pause_doubles_when_a_probe_costs_an_identity() -> None:
    breaker, at, pauses = opened(), NOW, []
    for number in range(12):
        pauses.append(breaker.until - at)
        at = breaker.until
        assert breaker.lets_pass(at)
        assert breaker.refused(f"probe-{number}", at, left=9)

    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE


def test_a_good_answer_to_a_later_request_closes_it() -> None:
    breaker = opened()

    assert not breaker.succeeded(NOW - 1)  # it was on its way when the others were refused
    assert breaker.succeeded(NOW + 1)
    assert breaker.state(NOW + 1) is Opening.CLOSED
    assert not breaker.succeeded(NOW + 2)
    # and what was before does not count any more
    assert not breaker.refused("a", NOW + 3, left=9)


def test_a_person_can_close_it() -> None:
    breaker = opened()

    assert breaker.close()
    assert breaker.lets_pass(NOW)


@given(st.floats(-1e6, -0.01) | st.floats(0, 1e6))
def test_a_clock_that_jumps_holds_nothing_up(jump: float) -> None:
    breaker = opened()
    at = NOW + jump

    assert breaker.state(at) is (Opening.OPEN if 0 <= jump < FIRST_PAUSE else Opening.HALF_OPEN)


def test_says_the_same_beyond_the_process() -> None:
    breaker, other = opened(), Breaker()

    other.take(breaker.document())

    assert other.document() == breaker.document()
    assert other.state(NOW) is Opening.OPEN
    other.take({"opened_at": "yesterday", "until": None})
    assert other.document() == breaker.document()


def test_no_document_opens_it_for_longer_than_it_opens_itself() -> None:
    breaker = Breaker()

    breaker.take({"opened_at": NOW, "until": NOW + 1e9})

    assert breaker.until == NOW + LONGEST_PAUSE


class Life(RuleBasedStateMachine):
    """Refusals, probes and successes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.at = Breaker(), NOW
        self.passed_since_opening = 0

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 61.0, -3.0]))
    def time_passes(self, seconds: float) -> None:
        self.at += seconds

    @rule(name=st.sampled_from("abcde"), left=st.integers(0, 5))
    def refused(self, name: str, left: int) -> None:
        was, until = self.breaker.opened_at, self.breaker.until
        opened_now = self.breaker.refused(name, self.at, left)
        if opened_now:
            assert self.breaker.opened_at == self.at
            assert FIRST_PAUSE <= self.breaker.until - self.at <= LONGEST_PAUSE
        else:
            assert (self.breaker.opened_at, self.breaker.until) == (was, until)

    @rule(ago=st.floats(0, 10))
    def served(self, ago: float) -> None:
        was = self.breaker.opened_at
        assert self.breaker.succeeded(self.at - ago) == (was is not None and self.at - ago >= was)

    @rule()
    def asked(self) -> None:
        state = self.breaker.state(self.at)
        passes = [self.breaker.lets_pass(self.at) for _ in range(3)]
        assert sum(passes) <= {Opening.CLOSED: 3, Opening.OPEN: 0, Opening.HALF_OPEN: 1}[state]

    @invariant()
    def it_is_never_open_for_nobody(self) -> None:
        assert (self.breaker.opened_at is None) == (self.breaker.names == ())


TestLife = Life.TestCase
