"""A small pool through a simulated day: what must hold for the decisions, whichever way they are made."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache

import pytest

from codexpool.pool.selection import Selection
from tests.pool.simulation import (
    BEGIN,
    FIVE_HOURS,
    STRATEGIES,
    Allowance,
    Result,
    Setting,
    Simulation,
    Strategy,
    accounts,
    busy,
    gini,
    main,
    turns,
)

SMALL = Setting(seed=3, identities=8, sessions=100, days=1.0, load=0.85, before=1.0)
SPARE = replace(SMALL, load=0.2)
SHORT = Setting(seed=3, identities=8, sessions=120, days=4.0, load=2.0, before=3.0)
AFFINE = [strategy for strategy in STRATEGIES if strategy.affinity]


def run(setting: Setting, strategy: Strategy) -> Result:
    return Simulation(setting, strategy).run()


outcome = cache(run)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_seed_decides_the_result(strategy: Strategy) -> None:
    assert run(SMALL, strategy) == outcome(SMALL, strategy)
    assert run(replace(SMALL, seed=4), strategy) != outcome(SMALL, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_window_that_is_used_up_is_asked_once_at_most(strategy: Strategy, seed: int) -> None:
    result = outcome(replace(SHORT, seed=seed), strategy)

    assert result.refusals > 0
    assert result.repeated_refusals == 0


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_with_capacity_to_spare_every_turn_is_served(strategy: Strategy) -> None:
    result = outcome(SPARE, strategy)

    assert result.turns > 0
    assert result.served == 1.0
    assert result.work_served == pytest.approx(1.0)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_with_too_little_capacity_some_turns_are_not_served(strategy: Strategy) -> None:
    assert 0.0 < outcome(SHORT, strategy).served < 1.0


@pytest.mark.parametrize("strategy", AFFINE, ids=str)
@pytest.mark.parametrize("setting", [SPARE, SMALL, SHORT], ids=["spare", "tight", "short"])
def test_a_session_moves_only_when_its_identity_cannot_serve(strategy: Strategy, setting: Setting) -> None:
    assert outcome(setting, strategy).needless_moves == 0


@pytest.mark.parametrize("strategy", AFFINE, ids=str)
def test_sessions_do_move_when_their_identity_cannot_serve(strategy: Strategy) -> None:
    assert outcome(SHORT, strategy).moves > 0


@pytest.mark.parametrize("selection", Selection)
def test_affinity_moves_less_and_keeps_caches_warm(selection: Selection) -> None:
    with_it, without = (outcome(SMALL, Strategy(selection, affinity)) for affinity in (True, False))

    assert with_it.moves < without.moves
    assert without.needless_moves > 0
    assert with_it.warm > without.warm


# -- the simulation itself


def test_no_more_is_served_than_the_limits_allow() -> None:
    simulation = Simulation(SHORT, Strategy(Selection.HEADROOM))
    simulation.run()
    largest = max(turn.work for turn in simulation.turns)

    for account in simulation.accounts.values():
        five_hours, week = account.windows
        # Four days reach into 20 windows of five hours and two weeks at most; the turn that uses one up is served.
        assert account.done <= 20 * (five_hours.capacity + largest)
        assert account.done <= 2 * (week.capacity + largest)


def test_a_window_begins_with_its_first_use() -> None:
    window = Allowance(FIVE_HOURS, 10.0)
    window.spend(4.0, BEGIN)
    window.spend(6.0, BEGIN + 60)

    assert window.is_used_up(BEGIN + 61)
    assert window.window(BEGIN + 61)[2:4] == (100, BEGIN + FIVE_HOURS * 60)
    assert not window.is_used_up(BEGIN + FIVE_HOURS * 60)
    window.spend(1.0, BEGIN + 20_000)
    assert (window.used, window.ends) == (1.0, BEGIN + 20_000 + FIVE_HOURS * 60)


def test_turns_are_ordered_and_ask_for_the_set_load() -> None:
    drawn = turns(SMALL)
    capacity = sum(account.capacity for account in accounts(SMALL).values())

    assert drawn == sorted(drawn)
    assert len({turn.session for turn in drawn}) == 200
    assert sum(turn.work for turn in drawn) == pytest.approx(SMALL.load * capacity * 2 / 7)


def test_people_work_by_day_and_rest_at_night_and_at_weekends() -> None:
    monday_morning, monday_night, sunday_morning = 10 * 3600.0, 3 * 3600.0, (6 * 24 + 10) * 3600.0

    assert busy(monday_morning) > busy(sunday_morning) > busy(monday_night)


def test_evenness_is_0_where_all_have_the_same() -> None:
    assert gini([2.0, 2.0, 2.0]) == pytest.approx(0.0)
    assert gini([0.0, 0.0, 0.0, 4.0]) == pytest.approx(0.75)
    assert gini([]) == gini([0.0]) == 0.0


# -- what is printed

ARGUMENTS = ["--identities", "4", "--sessions", "30", "--days", "1", "--before", "0", "--seed", "5", "--load", "0.5"]


def test_results_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ARGUMENTS, "--json"])

    setting = Setting(seed=5, identities=4, sessions=30, days=1.0, load=0.5, before=0.0)
    printed = json.loads(capsys.readouterr().out)
    assert printed["setting"] == asdict(setting)
    assert printed["results"] == [asdict(outcome(setting, strategy)) for strategy in STRATEGIES]


def test_results_are_printed_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(ARGUMENTS)

    lines = capsys.readouterr().out.splitlines()
    assert "load 50%" in lines[0]
    assert [line[:26].strip() for line in lines[-6:]] == [str(strategy) for strategy in STRATEGIES]
