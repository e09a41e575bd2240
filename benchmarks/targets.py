"""What must hold: the table, and whether it does. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from benchmarks.results import METRICS, Result

REFERENCE: Final = "bare"


class Target(NamedTuple):
    """A bound for a metric of a row, of one side.

    ``kind`` is what has the bound: the ratio to bare mitmdump, the value itself, or the difference to bare's.
    ``row`` may be the beginning of a name: the sizes of some rows depend on the mode.
    """

    row: str
    metric: str
    side: str
    kind: Literal["ratio", "value", "difference"]
    least: float | None = None
    most: float | None = None


ROWS_10_50: Final = ("WebSocket, bursts, 10 sockets", "WebSocket, bursts, 50 sockets")
HALF_LOAD: Final = ("WebSocket, steady, 50 sockets at 50/s", "SSE, steady, 50 streams at 50/s")
SMALL: Final = ("small requests, 1 client", "small requests, 10 clients", "small requests, 100 clients")
TURNS: Final = ("turns of 12 KB, 1 client", "turns of 12 KB, 10 clients", "turns of 12 KB, 100 clients")


def _both(row: str, metric: str, kind: Literal["ratio", "value", "difference"], **bound: float) -> Iterator[Target]:
    for side in ("run", "addon"):
        yield Target(row, metric, side, kind, **bound)


def _ratios(rows: Iterable[str], run: float, addon: float) -> Iterator[Target]:
    for row in rows:
        yield Target(row, "rate", "run", "ratio", least=run)
        yield Target(row, "rate", "addon", "ratio", least=addon)


TARGETS: Final = (
    *_ratios(ROWS_10_50, run=6.0, addon=5.0),
    *_both(HALF_LOAD[0], "in_time", "value", least=99.95),  # All of them, as shown.
    *_both(HALF_LOAD[0], "core", "value", most=50.0),
    *_ratios(["SSE, bursts, 10 streams"], run=1.8, addon=1.4),
    *_ratios((*SMALL, *TURNS), run=1.4, addon=0.97),
    *(target for row in TURNS for target in _both(row, "first_p99", "ratio", least=1.0)),
    *_ratios(["bodies of 2 MB, 4 clients"], run=1.0, addon=1.0),
    *(target for row in HALF_LOAD for target in _both(row, "added_p50", "value", most=0.1)),
    *_both("a second attempt", "beyond", "value", most=1.0),
    *_both("memory after everything", "memory", "difference", most=25.0),
    *(
        target
        for row in ("memory, 100,000 messages", "memory, 20,000 small requests")
        for target in _both(row, "growth", "value", most=2.0)  # Level; the allocator's caches move by this much.
    ),
)
"""The targets of issue 13."""


@dataclass(frozen=True)
class Outcome:
    """What was measured for a target."""

    target: Target
    row: str
    label: str
    value: float

    @property
    def is_met(self) -> bool:
        return self.misses_by <= 0

    @property
    def misses_by(self) -> float:
        """By how much the bound is missed, in the value's unit; 0 or less if it is met."""
        least, most = self.target.least, self.target.most
        if least is not None:
            return least - self.value
        return self.value - most if most is not None else 0.0

    def described(self) -> str:
        """Describe it: ``run 6.31 times bare (at least 6)``."""
        what = {"ratio": " times bare", "value": "", "difference": " above bare"}[self.target.kind]
        digits = 2 if self.target.kind == "ratio" else METRICS[self.target.metric].digits
        least, most = self.target.least, self.target.most
        bound = f"at least {least:g}" if least is not None else f"at most {most:g}"
        text = f"{self.target.side} {self.value:.{digits}f}{what} ({bound})"
        if self.is_met:
            return text
        limit = least if least is not None else most
        return f"{text}, missed by {self.misses_by:.{digits}f}" + (
            f" ({100 * self.misses_by / limit:.0f} %)" if limit else ""
        )


def outcomes(results: Iterable[Result]) -> list[Outcome]:
    """Return an outcome for each target that was measured, in the order of the table."""
    rows = list(results)
    found = []
    for target in TARGETS:
        for row in rows:
            if row.name.startswith(target.row) and (value := _value(row, target)) is not None:
                found.append(Outcome(target, row.name, row.label(target.metric), value))
    return found


def _value(row: Result, target: Target) -> float | None:
    if target.kind == "ratio":
        return row.ratio(target.metric, target.side, REFERENCE)
    value, bare = row.median(target.metric, target.side), row.median(target.metric, REFERENCE)
    if target.kind == "difference":
        return value - bare if value is not None and bare is not None else None
    return value
