"""What was measured: medians of rounds, and ratios in which more than 1 is better. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

Sample = dict[str, float]
"""One round of one side: the values by metric."""

DIRECT: Final = "direct"
"""The side without a proxy: a reference, never compared."""


class Metric(NamedTuple):
    """How a value is shown. ``better``: 1 if more is better, -1 if less is, 0 if it is not compared as a ratio."""

    label: str
    better: int
    digits: int


METRICS: Final[Mapping[str, Metric]] = {
    "rate": Metric("{unit}s a second", 1, 0),
    "cpu": Metric("processor time per {unit}, µs", -1, 0),
    "in_time": Metric("in time, % of the wanted {unit}s", 0, 1),
    "core": Metric("share of a core, %", 0, 1),
    "added_p50": Metric("latency beyond direct, p50, ms", 0, 3),
    "added_p99": Metric("latency beyond direct, p99, ms", 0, 3),
    "p50": Metric("latency p50, ms", -1, 3),
    "p99": Metric("latency p99, ms", -1, 3),
    "first_p50": Metric("first byte p50, ms", -1, 2),
    "first_p99": Metric("first byte p99, ms", -1, 2),
    "round_trip": Metric("a request that is served at once, p50, ms", 0, 3),
    "again": Metric("a request that is sent twice, p50, ms", 0, 3),
    "beyond": Metric("cost beyond one round trip, ms", 0, 3),
    "start_up": Metric("until it listens, ms", -1, 0),
    "start_cpu": Metric("processor time, ms", -1, 0),
    "memory": Metric("MiB", 0, 1),
    "growth": Metric("growth, MiB", 0, 1),
    "each": Metric("for each {unit}, KiB", 0, 1),
}
"""All of them, in the order in which they are shown."""


@dataclass
class Result:
    """One row: the values of every round, by metric and side."""

    name: str
    unit: str = ""
    saturates: bool = False  # The load is meant to keep a proxy busy.
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, side: str, sample: Mapping[str, float]) -> None:
        """Add a round of a side."""
        for metric, value in sample.items():
            self.values.setdefault(metric, {}).setdefault(side, []).append(value)

    @property
    def metrics(self) -> list[str]:
        """Those that were measured, in the order in which they are shown."""
        return [metric for metric in METRICS if metric in self.values]

    def label(self, metric: str) -> str:
        return METRICS[metric].label.format(unit=self.unit)

    def median(self, metric: str, side: str) -> float | None:
        """Return the median of the rounds; None if it was not measured."""
        values = self.values.get(metric, {}).get(side)
        return statistics.median(values) if values else None

    def share_of_core(self, side: str) -> float | None:
        """Return the share of a core that a side took, from its rate and the processor time of one."""
        rate, cpu = self.median("rate", side), self.median("cpu", side)
        return rate * cpu / 1e6 if rate is not None and cpu is not None else None

    def ratio(self, metric: str, side: str, reference: str) -> float | None:
        """Return the median of the rounds' ratios to the reference, more than 1 is better; None if there is none."""
        better, sides = METRICS[metric].better, self.values.get(metric, {})
        if not better or side in (reference, DIRECT):
            return None
        pairs = zip(sides.get(side, ()), sides.get(reference, ()), strict=False)
        ratios = [a / b if better > 0 else b / a for a, b in pairs if a > 0 and b > 0]
        return statistics.median(ratios) if ratios else None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed (0.5: the median). Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def many(count: int, what: str) -> str:
    """Return ``1 socket``, ``2 sockets``."""
    return f"{count} {what}{'s' * (count != 1)}"
