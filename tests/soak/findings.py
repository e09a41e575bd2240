"""What the soak counts, and what it found wrong."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Findings:
    """What is wrong, and how much there was of what."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    """What clients were told in place of an answer, and went on from."""
    retries: Counter[int] = field(default_factory=Counter)
    """How many requests needed so many retries."""
    rss: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the beginning, and MB."""
    visible: Counter[str] = field(default_factory=Counter)
    """What requests were told that the proxy let fail more than once: Codex shows the second time."""
    slow: list[str] = field(default_factory=list)
    rest: str = ""
    """What there was in the proxy's process after all, and before."""
    waits: list[float] = field(default_factory=list)
    """Seconds that each answer took, with all retries."""

    def add(self, text: str) -> None:
        if len(self.wrong) < 100:
            self.wrong.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}")
        self.counts["wrong"] += 1

    def report(self) -> str:
        """All of it, for a person."""
        return "\n".join(
            [str(self), *(f"slow: {text}" for text in self.slow), *(f"WRONG: {text}" for text in self.wrong)]
        )

    def growth(self) -> tuple[float, float, float]:
        """MB at a third of the run and at its end, and MB per minute in between."""
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
            f"told: {dict(self.troubles.most_common())}",
            f"answers: median {waits[len(waits) // 2]:.2f} s, 99 % {waits[int(len(waits) * 0.99)]:.2f} s, "
            f"longest {waits[-1]:.2f} s",
            f"memory: {first:.0f} MB at a third, {last:.0f} MB at the end, {slope:+.1f} MB a minute",
            f"more than once: {dict(self.visible)}",
            f"at rest: {self.rest}",
            f"memory by time: {[(round(at), round(mb)) for at, mb in self.rss[:: max(1, len(self.rss) // 20)]]}",
        ]
        return "\n".join(lines)
