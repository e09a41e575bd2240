"""The report of a comparison: as a table for a terminal, in Markdown for the docs, in JSON for machines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.results import DIRECT, METRICS, Result, many
from benchmarks.targets import Outcome, outcomes


@dataclass
class Report:
    """All that was measured. ``sides`` begins with the reference of the ratios."""

    sides: list[str]
    rounds: int
    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def proxies(self) -> list[str]:
        return [side for side in self.sides if side != DIRECT]

    @property
    def compared(self) -> list[str]:
        """The sides that have a ratio."""
        return [side for side in self.sides[1:] if side != DIRECT]

    @property
    def measured(self) -> list[Result]:
        """The rows that have values. One that has none was interrupted."""
        return [result for result in self.results if result.values]

    def warnings(self) -> list[str]:
        """Say where a proxy was not busy although it was meant to be."""
        idle = [
            f"{result.name}: {', '.join(sides)}"
            for result in self.measured
            if result.saturates and (sides := [side for side in self.sides if _is_idle(result.share_of_core(side))])
        ]
        why = "Less than 85 % of their core took, so the load or another process of this machine was the limit:"
        return [why, *idle] if idle else []

    def outcomes(self) -> list[Outcome]:
        return outcomes(self.results) if "bare" in self.sides else []


TITLE: Final = 46
BUSY: Final = 0.85
"""Share of a core that a proxy takes at least if nothing else limits it."""


def _is_idle(share: float | None) -> bool:
    return share is not None and share < BUSY


def as_text(report: Report) -> str:
    """Return the table: ratios first, more than 1.0 is better."""
    width = TITLE + 8 * len(report.compared)
    lines = [
        f"{'ratio to ' + report.sides[0]:>{width}} │ {many(report.rounds, 'round')}, medians",
        f"{'':{TITLE}}{_cells(report.compared, 8)} │{_cells(report.sides, 10)}",
    ]
    for result in report.measured:
        lines.append(result.name)
        lines += (f"  {label:{TITLE - 2}}{_cells(a, 8)} │{_cells(b, 10)}" for label, a, b in _rows(report, result))
    if notes := [*report.notes, *report.warnings()]:
        lines += ["", *notes]
    if found := report.outcomes():
        lines += ["", *_against_targets(found)]
    if report.interrupted:
        lines += ["", "interrupted: rows are missing, or have fewer rounds"]
    return "\n".join(lines)


CARRIES: Final = (
    ("answers at 50 messages a second, over WebSocket", "WebSocket, steady, 200", 50),
    ("answers at 50 events a second, over HTTP", "SSE, steady, 200", 50),
    ("turns a second, with a body of 12 KB and an answer of 30 events", "turns of 12 KB, 10 clients", 1),
    ("new connections a second", "new connections", 1),
)
"""What a core carries: the row whose processor time it follows from, and how many of its units one of it takes."""


def carried(report: Report) -> Iterator[tuple[str, list[str]]]:
    """Yield what a core of each proxy carries, from the processor time of one unit under load."""
    for what, name, units in CARRIES:
        for result in report.measured:
            if result.name.startswith(name):
                costs = [result.median("cpu", side) for side in report.proxies]
                yield what, [_number(1e6 / cost / units if cost else None, 0) for cost in costs]


def as_markdown(report: Report) -> str:
    """Return the tables and the targets, to be pasted into docs/performance.md."""
    lines = [f"| one core carries | {' | '.join(report.proxies)} |", f"|---|{'---:|' * len(report.proxies)}"]
    lines += [f"| {what} | {' | '.join(values)} |" for what, values in carried(report)]
    heads = [*(f"{side} ÷ {report.sides[0]}" for side in report.compared), *report.sides]
    lines += ["", f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for result in report.measured:
        for label, ratios, values in _rows(report, result):
            lines.append(f"| {result.name}: {label} | {' | '.join([*ratios, *values])} |")
    remarks = (*report.notes, *report.warnings(), *_against_targets(report.outcomes()))
    return "\n".join([*lines, "", *(f"- {line.strip()}" for line in remarks)])


def as_document(report: Report) -> dict[str, Any]:
    """Return the JSON document: medians and ratios, and the values of each round."""
    return {
        "environment": report.environment,
        "settings": report.settings,
        "interrupted": report.interrupted,
        "reference": report.sides[0],
        "sides": report.sides,
        "rows": [_row_document(report, result) for result in report.measured],
        "notes": [*report.notes, *report.warnings()],
        "targets": [_target_document(outcome) for outcome in report.outcomes()],
    }


def _row_document(report: Report, result: Result) -> dict[str, Any]:
    metrics = {}
    for metric in result.metrics:
        ratios = {side: result.ratio(metric, side, report.sides[0]) for side in report.compared}
        metrics[metric] = {
            "label": result.label(metric),
            "better": {1: "more", -1: "less", 0: None}[METRICS[metric].better],
            "median": {side: result.median(metric, side) for side in result.values[metric]},
            "ratio": {side: ratio for side, ratio in ratios.items() if ratio is not None},
            "rounds": result.values[metric],
        }
    return {"name": result.name, "metrics": metrics}


def _target_document(outcome: Outcome) -> dict[str, Any]:
    return {
        **outcome.target._asdict(),
        "row": outcome.row,
        "value": outcome.value,
        "met": outcome.is_met,
        "misses_by": max(0.0, outcome.misses_by),
    }


def _rows(report: Report, result: Result) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield label, ratios and values of each metric, as they are shown."""
    for metric in result.metrics:
        ratios = [result.ratio(metric, side, report.sides[0]) for side in report.compared]
        values = [result.median(metric, side) for side in report.sides]
        digits = METRICS[metric].digits
        yield result.label(metric), [_number(ratio, 2) for ratio in ratios], [_number(v, digits) for v in values]


def _number(value: float | None, digits: int) -> str:
    return f"{value:,.{digits}f}" if value is not None else ""


def _cells(cells: Sequence[str], width: int) -> str:
    return "".join(f" {cell:>{width - 1}}" for cell in cells)


def _against_targets(found: Sequence[Outcome]) -> Iterator[str]:
    """Yield the final block: what must hold, and whether it does."""
    missed = [outcome for outcome in found if not outcome.is_met]
    yield f"targets: {len(found) - len(missed)} of the {len(found)} that were measured are met"
    for outcome in found:
        word = "met   " if outcome.is_met else "MISSED"
        yield f"  {word} {outcome.row}: {outcome.label}: {outcome.described()}"
