from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.selection import HALF_LIFE, Candidate, Load, Selection, select
from tests.pool.pools import NOW, RESPONSES, ready_pool

seconds = st.floats(0, 1e10)
loads = st.builds(Load, st.floats(0, 1e6), seconds)
candidates = st.lists(
    st.builds(Candidate, st.uuids().map(str), loads, st.integers(0, 1000)),
    min_size=1,
    max_size=8,
    unique_by=lambda candidate: candidate.name,
)


@given(st.sampled_from(Selection), candidates, seconds)
def test_somebody_is_selected_and_only_a_candidate(selection: Selection, among: list[Candidate], at: float) -> None:
    assert select(selection, among, at) in [candidate.name for candidate in among]


@given(candidates, seconds)
def test_drain_first_takes_the_first_of_the_file_whatever_its_load(among: list[Candidate], at: float) -> None:
    assert select(Selection.DRAIN_FIRST, among, at) == among[0].name


@given(candidates, seconds)
def test_round_robin_takes_who_was_picked_longest_ago(among: list[Candidate], at: float) -> None:
    chosen = next(c for c in among if c.name == select(Selection.ROUND_ROBIN, among, at))

    assert chosen.last_picked == min(candidate.last_picked for candidate in among)


@given(candidates, seconds)
def test_headroom_takes_one_with_the_least_load(among: list[Candidate], at: float) -> None:
    chosen = next(c for c in among if c.name == select(Selection.HEADROOM, among, at))

    assert chosen.load.now(at) == min(candidate.load.now(at) for candidate in among)


def test_headroom_takes_who_was_picked_longest_ago_among_equals() -> None:
    among = [Candidate("a", Load(1, NOW), 7), Candidate("b", Load(1, NOW), 3), Candidate("c", Load(2, NOW), 1)]

    assert select(Selection.HEADROOM, among, NOW) == "b"


@pytest.mark.parametrize("selection", [Selection.ROUND_ROBIN, Selection.HEADROOM])
@given(count=st.integers(1, 5), sessions=st.integers(0, 40))
def test_sessions_that_begin_together_are_spread_evenly(selection: Selection, count: int, sessions: int) -> None:
    pool = ready_pool(*[f"i{number}" for number in range(count)], selection=selection)

    served = Counter(pool.choose(f"session-{n}", RESPONSES, NOW).name for n in range(sessions))  # type: ignore[union-attr]

    assert max(served.values(), default=0) - min((served[name] for name in pool.identities), default=0) <= 1


@given(st.integers(1, 30), st.floats(0, 100 * HALF_LIFE))
def test_load_halves_with_every_half_life(sessions: int, age: float) -> None:
    load = Load(sessions, NOW)

    assert load.now(NOW + age) == pytest.approx(sessions / 2 ** (age / HALF_LIFE))
    assert load.with_session(NOW + age).now(NOW + age) == pytest.approx(load.now(NOW + age) + 1)


@given(loads, seconds, seconds)
def test_load_never_grows_by_itself_even_if_the_clock_is_set_back(load: Load, one: float, other: float) -> None:
    earlier, later = sorted((one, other))

    assert 0 <= load.now(later) <= load.now(earlier) <= load.sessions
