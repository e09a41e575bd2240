"""Medians, ratios, targets, and the three forms of the report."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks import memory, rows
from benchmarks.report import Report, as_document, as_markdown, as_text, carried
from benchmarks.results import METRICS, Result, percentile
from benchmarks.targets import TARGETS, Target, outcomes

SIDES = ["bare", "addon", "run", "direct"]
SOCKETS = "WebSocket, bursts, 10 sockets"


def result(name: str = SOCKETS, **values: dict[str, list[float]]) -> Result:
    return Result(name, "message", saturates=True, values=dict(values))


def rates(bare: list[float], addon: list[float], run: list[float]) -> Result:
    cpu = {"bare": [200.0], "addon": [50.0], "run": [25.0]}
    return result(rate={"bare": bare, "addon": addon, "run": run, "direct": [9e9]}, cpu=cpu)


def report(*results: Result, **more: Any) -> Report:
    return Report(SIDES, 5, {"python": "3.12"}, {"short": False}, list(results), **more)


# -- values


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0], 0.99, 1.0), (list(range(1, 101)), 0.99, 99), ([1.0, 2.0], 0.0, 1.0)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_rounds_are_collected_by_metric_and_side() -> None:
    row = result()
    row.add("bare", {"rate": 1.0, "cpu": 5.0})
    row.add("bare", {"rate": 3.0})
    row.add("run", {"rate": 4.0})
    assert row.values == {"rate": {"bare": [1.0, 3.0], "run": [4.0]}, "cpu": {"bare": [5.0]}}
    assert row.median("rate", "bare") == 2.0
    assert row.median("rate", "addon") is None


def test_more_than_one_is_better_for_every_metric() -> None:
    row = rates([100, 100, 100], [50, 50, 50], [600, 600, 600])
    assert row.ratio("rate", "run", "bare") == 6.0
    assert row.ratio("rate", "addon", "bare") == 0.5
    assert row.ratio("cpu", "run", "bare") == 8.0


def test_a_ratio_is_that_of_rounds_not_of_medians() -> None:
    """A round in which the machine was slow for both sides changes no ratio."""
    row = rates([100, 10, 100], [200, 20, 900], [])
    assert row.ratio("rate", "addon", "bare") == 2.0
    assert row.ratio("rate", "run", "bare") is None


def test_direct_and_the_reference_have_no_ratio() -> None:
    row = rates([100], [100], [100])
    assert row.ratio("rate", "direct", "bare") is None
    assert row.ratio("rate", "bare", "bare") is None


# -- targets


def test_every_target_is_of_a_row_metric_and_side() -> None:
    names = [
        *(row.name for row in rows.compared()),
        *(row.name for row in memory.last(rows.FULL)),
        memory.END,
    ]
    for target in TARGETS:
        assert sum(name.startswith(target.row) for name in names) == 1, target
        assert target.metric in METRICS
        assert target.side in {"run", "addon"}
        assert (target.least is None) != (target.most is None)
        assert target.kind != "ratio" or METRICS[target.metric].better


def test_a_missed_target_says_by_how_much() -> None:
    run, addon = outcomes([rates([100], [450], [600])])
    assert (run.is_met, run.described()) == (True, "run 6.00 times bare (at least 6)")
    assert (addon.is_met, addon.described()) == (False, "addon 4.50 times bare (at least 5), missed by 0.50 (10 %)")


def test_memory_is_compared_as_a_difference() -> None:
    row = result(memory.END, memory={"bare": [100.0], "run": [124.0], "addon": [126.5]})
    assert [(found.is_met, found.value) for found in outcomes([row])] == [(True, 24.0), (False, 26.5)]
    assert outcomes([row])[1].described() == "addon 26.5 above bare (at most 25), missed by 1.5 (6 %)"


def test_what_was_not_measured_has_no_outcome() -> None:
    assert outcomes([]) == []
    assert [found.target.side for found in outcomes([rates([100], [], [700])])] == ["run"]


def test_a_short_run_does_not_judge_growth() -> None:
    grown = {"growth": {"run": [0.0], "addon": [0.0]}}
    full, short = (memory.last(size)[0].name for size in (rows.FULL, rows.SHORT))
    assert len(outcomes([result(full, **grown)])) == 2
    assert outcomes([result(short, **grown)]) == []


# -- the report


def test_ratios_come_first_in_the_table() -> None:
    lines = as_text(report(rates([1000], [500], [6000]))).splitlines()
    assert lines[1].split() == ["addon", "run", "│", "bare", "addon", "run", "direct"]
    assert lines[2] == SOCKETS
    assert lines[3].split("  ")[1] == "messages a second"
    assert re.findall(r"[\d.,]+", lines[3]) == ["0.50", "6.00", "1,000", "500", "6,000", "9,000,000,000"]


def test_missed_targets_stand_out() -> None:
    text = as_text(report(rates([100], [600], [500])))
    assert "targets: 1 of the 2 that were measured are met" in text
    assert f"MISSED {SOCKETS}: messages a second: run 5.00 times bare" in text
    assert f"met    {SOCKETS}: messages a second: addon 6.00 times bare" in text


def test_a_proxy_that_was_not_busy_is_named() -> None:
    row = rates([4900], [10_000], [39_000])  # 98, 50 and 98 % of a core
    assert report(row).warnings()[1:] == [f"{SOCKETS}: addon"]
    row.saturates = False
    assert report(row).warnings() == []


def test_an_interrupted_run_says_so_and_prints_the_rest() -> None:
    text = as_text(report(rates([100], [600], [600]), result("a row without a round"), interrupted=True))
    assert text.endswith("interrupted: rows are missing, or have fewer rounds")
    assert SOCKETS in text
    assert "a row without a round" not in text


def test_the_json_document_has_rounds_medians_and_ratios() -> None:
    document = json.loads(json.dumps(as_document(report(rates([1, 3, 2], [4, 6, 4], [12, 18, 30])))))
    assert set(document) == {
        *("environment", "settings", "interrupted", "reference", "sides", "rows", "notes", "targets"),
    }
    (row,) = document["rows"]
    rate = row["metrics"]["rate"]
    assert rate["label"] == "messages a second"
    assert rate["better"] == "more"
    assert rate["rounds"]["bare"] == [1, 3, 2]
    assert rate["median"] == {"bare": 2, "addon": 4, "run": 18, "direct": 9e9}
    assert rate["ratio"] == {"addon": 2.0, "run": 12.0}
    assert document["targets"][1] == {
        **Target(SOCKETS, "rate", "addon", "ratio", least=5.0)._asdict(),
        "value": 2.0,
        "met": False,
        "misses_by": 3.0,
    }


def test_the_markdown_tables_have_as_many_cells_in_each_line() -> None:
    steady = result("WebSocket, steady, 200 sockets at 50/s", cpu={"bare": [400.0], "run": [50.0]})
    tables = as_markdown(report(rates([1], [2], [3]), steady)).split("\n\n")
    for table, count in zip(tables[:2], (3, 2 + 3), strict=True):
        lines = table.splitlines()
        assert len(lines) == count
        assert len({line.count("|") for line in lines}) == 1


def test_what_a_core_carries_follows_from_processor_time() -> None:
    """With 400 µs for a message, a core carries 2,500 of them a second: 50 answers."""
    steady = result("WebSocket, steady, 200 sockets at 50/s", cpu={"bare": [400.0], "run": [50.0]})
    ((what, values),) = carried(report(steady))
    assert what.startswith("answers at 50 messages")
    assert values == ["50", "", "400"]
