"""The counts of the soak, and the errors it found."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Findings:
    """Counts and errors."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    """What clients got instead of an answer before a retry succeeded."""
    retries: Counter[int] = field(default_factory=Counter)
    """Requests by the number of retries they needed."""
    rss: list[tuple[float, float]] = field(default_factory=list)
    """Memory: seconds since the start, and MB."""
    visible: Counter[str] = field(default_factory=Counter)
    """Requests that the proxy let fail more than once. (Codex shows the second time.)"""
    slow: list[str] = field(default_factory=list)
    idle: str = ""
    """What the proxy process has open at the end, and at the start."""
    waits: list[float] = field(default_factory=list)
    """Seconds of each answer, including retries."""

    def add(self, text: str) -> None:
        if len(self.wrong) < 100:
            self.wrong.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}")
        self.counts["wrong"] += 1

    def report(self) -> str:
        """Return everything as text."""
        return "\n".join(
            [str(self), *(f"slow: {text}" for text in self.slow), *(f"WRONG: {text}" for text in self.wrong)]
        )

    def growth(self) -> tuple[float, float, float]:
        """Return MB after a third of the run, MB at its end, and MB per minute in between."""
        if len(self.rss) < 6:
            return 0.0, 0.0, 0.0
        later = self.rss[len(self.rss) // 3 :]
        first = statistics.median(mb for _, mb in later[:3])
        last = statistics.median(mb for _, mb in later[-3:])
        slope = statistics.linear_regression([at for at, _ in later], [mb for _, mb in later]).slope
        return first, last, 60 * slope

    def __str__(self) -> str:
        first, last, slope = self.growth()
        waits = sorted(self.waits) or [0.0]
        lines = [
            f"counts: {dict(sorted(self.counts.items()))}",
            f"retries needed: {dict(sorted(self.retries.items()))}",
            f"failures: {dict(self.troubles.most_common())}",
            f"answers: median {waits[len(waits) // 2]:.2f} s, 99 % {waits[int(len(waits) * 0.99)]:.2f} s, "
            f"longest {waits[-1]:.2f} s",
            f"memory: {first:.0f} MB at a third, {last:.0f} MB at the end, {slope:+.1f} MB a minute",
            f"more than once: {dict(self.visible)}",
            f"idle: {self.idle}",
            f"memory by time: {[(round(at), round(mb)) for at, mb in self.rss[:: max(1, len(self.rss) // 20)]]}",
        ]
        return "\n".join(lines)
