from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.identity import HALF_LIFE, Asked, Condition, Identity, Kind, Load, Status
from codexpool.pool.selection import STEP, Selection, rank
from tests.pool.pools import NOW, RESPONSES, ready_pool


class Candidate(NamedTuple):
    """What of an identity decides whether a new session gets it."""

    name: str
    load: Load = Load()
    last_picked: int = 0
    headroom: float = 1.0
    order: int = 0
    priority: int = 0
    is_doubtful: bool = False

    def identity(self) -> Identity:
        identity = Identity(self.name, Kind.PAT, "", Condition(Status.READY, NOW))
        identity.load, identity.last_picked = self.load, self.last_picked
        identity.order, identity.priority = self.order, self.priority
        identity.expires_at = 0.0 if self.is_doubtful else None
        return identity


def select(selection: Selection, among: list[Candidate], at: float) -> str:
    return min(among, key=lambda c: rank(selection, c.identity(), c.headroom, at)).name


seconds = st.floats(0, 1e10)
loads = st.builds(Load, st.floats(0, 1e6), seconds)
candidates = st.lists(
    st.builds(
        Candidate,
        st.uuids().map(str),
        loads,
        st.integers(0, 1000),
        st.floats(0, 4),
        st.integers(0, 20),
        st.integers(-3, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda candidate: candidate.name,
)


def chosen(selection: Selection, among: list[Candidate], at: float) -> Candidate:
    name = select(selection, among, at)
    return next(c for c in among if c.name == name)


@given(st.sampled_from(Selection), candidates, seconds)
def test_a_candidate_is_selected(selection: Selection, among: list[Candidate], at: float) -> None:
    assert select(selection, among, at) in [candidate.name for candidate in among]


@given(st.sampled_from(Selection), candidates, seconds)
def test_doubtful_or_used_up_comes_last(selection: Selection, among: list[Candidate], at: float) -> None:
    best = chosen(selection, among, at)

    assert not best.is_doubtful or all(c.is_doubtful for c in among)
    sound = [c for c in among if c.is_doubtful == best.is_doubtful]
    assert best.headroom > 0 or all(c.headroom <= 0 for c in sound)


@given(candidates, seconds)
def test_drain_first_takes_the_first_with_anything_left(among: list[Candidate], at: float) -> None:
    """Of the file, whatever its load."""
    best = chosen(Selection.DRAIN_FIRST, among, at)

    for other in among:
        if (other.is_doubtful, other.headroom <= 0) == (best.is_doubtful, best.headroom <= 0):
            assert (-best.priority, best.order) <= (-other.priority, other.order)


def test_drain_first_moves_on_only_when_one_is_used_up() -> None:
    first, second = Candidate("first", headroom=0.01, order=0), Candidate("second", headroom=1.0, order=1)

    assert select(Selection.DRAIN_FIRST, [first, second], NOW) == "first"
    assert select(Selection.DRAIN_FIRST, [first._replace(headroom=0.0), second], NOW) == "second"


def test_priority_comes_before_the_order_of_the_file() -> None:
    among = [Candidate("a", order=0), Candidate("b", order=1, priority=2), Candidate("c", order=2, priority=1)]

    assert select(Selection.DRAIN_FIRST, among, NOW) == "b"


@given(candidates, seconds)
def test_round_robin_takes_the_one_picked_longest_ago(among: list[Candidate], at: float) -> None:
    best = chosen(Selection.ROUND_ROBIN, among, at)

    for other in among:
        if (other.is_doubtful, other.headroom <= 0) == (best.is_doubtful, best.headroom <= 0):
            assert best.last_picked <= other.last_picked


@given(candidates, seconds)
def test_headroom_takes_one_with_about_the_most_per_session(among: list[Candidate], at: float) -> None:
    best = chosen(Selection.HEADROOM, among, at)

    def share(c: Candidate) -> float:
        return c.headroom / (1 + c.load.now(at))

    for other in among:
        if (other.is_doubtful, other.headroom <= 0) == (best.is_doubtful, best.headroom <= 0):
            assert share(other) <= share(best) * STEP + 1e-3


def test_headroom_ignores_a_small_difference() -> None:
    among = [Candidate("a", headroom=0.81, last_picked=7), Candidate("b", headroom=0.80, last_picked=3)]

    assert select(Selection.HEADROOM, among, NOW) == "b"
    assert select(Selection.HEADROOM, [among[0], among[1]._replace(headroom=0.4)], NOW) == "a"


def test_headroom_takes_the_one_picked_longest_ago_among_equals() -> None:
    among = [Candidate("a", Load(1, NOW), 7), Candidate("b", Load(1, NOW), 3), Candidate("c", Load(2, NOW), 1)]

    assert select(Selection.HEADROOM, among, NOW) == "b"


@pytest.mark.parametrize("selection", [Selection.ROUND_ROBIN, Selection.HEADROOM])
@given(count=st.integers(1, 5), sessions=st.integers(0, 40))
def test_sessions_that_begin_together_are_spread_evenly(selection: Selection, count: int, sessions: int) -> None:
    pool = ready_pool(*[f"i{number}" for number in range(count)], selection=selection)

    served = Counter(pool.choose(Asked(f"session-{n}", RESPONSES), NOW).name for n in range(sessions))  # type: ignore[union-attr]

    assert max(served.values(), default=0) - min((served[name] for name in pool.identities), default=0) <= 1


@given(st.integers(1, 30), st.floats(0, 100 * HALF_LIFE))
def test_load_halves_with_every_half_life(sessions: int, age: float) -> None:
    load = Load(sessions, NOW)

    assert load.now(NOW + age) == pytest.approx(sessions / 2 ** (age / HALF_LIFE))
    assert load.with_session(NOW + age).now(NOW + age) == pytest.approx(load.now(NOW + age) + 1)


@given(loads, seconds, seconds)
def test_load_never_grows_by_itself(load: Load, one: float, other: float) -> None:
    """Not even if the clock is set back."""
    earlier, later = sorted((one, other))

    assert 0 <= load.now(later) <= load.now(earlier) <= load.sessions
