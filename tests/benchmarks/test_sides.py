"""What the sides have in common, their order in the rounds, and the command line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import cast

import pytest

from benchmarks.__main__ import parsed
from benchmarks.load import Arrivals, Target
from benchmarks.results import DIRECT
from benchmarks.rounds import in_order
from benchmarks.rows import SecondAttemptRow, SteadyRow, compared
from benchmarks.sides import ADDON, BARE, COMPARED, OBSERVED, RUN, STREAMING, Side, Upstream, command_of
from benchmarks.upstream import delta


class FakeUpstream:
    port, ca = 1, "ca.pem"


def arguments(folder: Path, name: str) -> list[str]:
    return command_of(name, folder, cast("Upstream", FakeUpstream()), flow_detail=0)[1:]


def test_all_sides_have_the_same_options_except_their_own(tmp_path: Path) -> None:
    """Otherwise the ratios would compare options."""
    bare, addon, run = (arguments(tmp_path, name) for name in (BARE, ADDON, RUN))
    pool = ["--set", f"codexpool_config={tmp_path}/pool.toml"]
    common = bare[: -len(STREAMING)]
    assert bare == [*common, *STREAMING]
    assert addon[:1] == ["-s"]
    assert addon[2:] == [*common, *pool]
    assert run == ["run", *common, *pool]
    assert arguments(tmp_path, OBSERVED) == [*addon, "--set", f"codexpool_events={tmp_path}/events"]


def test_each_side_is_first_and_follows_each_other_one() -> None:
    orders = [in_order(COMPARED, round_) for round_ in range(2 * len(COMPARED))]
    assert all(sorted(order) == sorted(COMPARED) for order in orders)
    assert {order[0] for order in orders} == set(COMPARED)
    neighbours = {pair for order in orders for pair in itertools.pairwise(order)}
    assert (BARE, ADDON) in neighbours
    assert (ADDON, BARE) in neighbours


def test_latency_counts_beyond_direct() -> None:
    samples = {BARE: {"p50": 3.0, "p99": 9.0}, DIRECT: {"p50": 1.0, "p99": 2.0}}
    next(row for row in compared() if isinstance(row, SteadyRow)).derive(samples)
    assert samples[BARE] == {"p50": 3.0, "p99": 9.0, "added_p50": 2.0, "added_p99": 7.0}
    assert "added_p50" not in samples[DIRECT]


def test_a_second_attempt_costs_what_exceeds_a_round_trip() -> None:
    row = next(row for row in compared() if isinstance(row, SecondAttemptRow))
    samples = {RUN: {"round_trip": 2.0, "again": 3.0}, DIRECT: {"round_trip": 0.25}}
    row.derive(samples)
    assert samples[RUN]["beyond"] == 0.75
    assert not row.is_for(Side(BARE, cast("Target", None)))


def test_an_event_says_when_it_was_due_and_sent() -> None:
    arrivals = Arrivals()
    arrivals.came(delta(1, 0.5, 0.75) + b"\n" + delta(2, 1.5, 2.0))
    assert [round(late - took, 3) for late, took in zip(arrivals.late, arrivals.took, strict=True)] == [0.25, 0.5]


def test_row_names_are_unique() -> None:
    names = [row.name for row in compared()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (["--rounds", "0"], "'0' is not a positive number"),
        (["--rounds", "x"], "'x' is not a positive number"),
        (["--sides", "bare,nobody"], "unknown: 'nobody'"),
        (["--sides", "bare,bare"], "each side may be named once"),
        (["--json", "--markdown"], "not allowed with argument --json"),
        (["more"], "unrecognized arguments: more"),
    ],
)
def test_wrong_usage_exits_with_2(line: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(line)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{why}\n")
