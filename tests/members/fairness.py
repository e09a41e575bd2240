"""One greedy member among many: how long the turns of each wait. `python -m tests.members.fairness`.

The queue is the real one, and the clock goes ahead by itself. The n-th turn of a client takes as long on both
sides, but a client that waits longer asks for fewer of them. "First come" is what the queue makes of members that it
does not know apart.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from codexpool.members.leases import Leases
from codexpool.members.ledger import Ledger
from codexpool.members.shares import Answer, Ask, Subject
from codexpool.members.turn_queue import Slot, TurnQueue
from codexpool.upkeep.leasing import Leasing
from tests.members.fleet_by_hand import Store
from tests.timetravel import time_travel

HOUR: Final = 3600.0
PATIENCE: Final = 365 * 24 * HOUR
"""Seconds, so many that each wait is measured to its end."""

HANDED_OVER: Final = 1.0
"""Seconds until another proxy knows of a free slot."""

GREEDY: Final = "greedy"
FIRST_COME, ROUND_ROBIN = "first come", "round robin"


@dataclass(frozen=True)
class Setting:
    """What is simulated; times in seconds. The greedy member always asks for ``greedy`` turns at once, the others for
    one after another, and think in between."""

    seed: int = 1
    members: int = 20
    places: int = 10
    proxies: int = 1
    """The greedy member asks all of them, each other member one."""
    greedy: int = 200
    hours: float = 8.0
    takes: float = 15.0
    """A turn, in the median..."""
    spread: float = 0.8
    """...the sigma of its lognormal distribution..."""
    longest: float = 120.0
    """...and at most."""
    thinks: float = 60.0
    """On average."""

    @property
    def bound(self) -> float:
        """The longest wait of a member's first turn in round robin (see `codexpool.members.turn_queue`)."""
        if self.proxies == 1:
            return math.ceil(self.members / self.places) * self.longest
        waiting = self.members - 1 + self.proxies
        return math.ceil((waiting + self.proxies) / self.places) * (self.longest + HANDED_OVER)

    def at_its_worst(self) -> Setting:
        """Make every turn take the longest, without a pause between two."""
        return replace(self, takes=self.longest, spread=0.0, thinks=0.0)


@dataclass
class Waits:
    """Seconds that each turn has waited."""

    side: str
    greedy: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)


class Simulation:
    """A day of one pool. All turns that were asked for within its hours are served."""

    def __init__(self, setting: Setting, side: str, loop: asyncio.AbstractEventLoop) -> None:
        self._setting = setting
        self._loop = loop
        self._store = Store()
        self._proxies = [self._proxy(f"proxy {number}") for number in range(setting.proxies)]
        self.waits = Waits(side)

    def _proxy(self, name: str) -> tuple[TurnQueue, Leasing]:
        queue = TurnQueue(self._setting.places, Leases(self._loop.time))

        def exchange(asks: Sequence[Ask]) -> Mapping[Subject, Answer]:
            self._store.now = self._loop.time()
            return self._store.exchange(name, asks)

        return queue, Leasing(queue, Ledger(lambda account, spent: None), exchange, lambda: True)

    async def run(self) -> None:
        """Run the day. A proxy that is alone needs no state."""
        leasing = [asyncio.ensure_future(leasing.run()) for _, leasing in self._proxies if len(self._proxies) > 1]
        await asyncio.sleep(0)
        others = [f"m{number}" for number in range(1, self._setting.members)]
        begun = [self._asks(GREEDY, number, 0.0, self.waits.greedy) for number in range(self._setting.greedy)]
        begun += [self._asks(name, 0, self._setting.thinks, self.waits.others) for name in others]
        await asyncio.gather(*begun)
        for task in leasing:
            task.cancel()
        await asyncio.wait(leasing or [asyncio.ensure_future(asyncio.sleep(0))])

    async def _asks(self, name: str, number: int, thinks: float, waits: list[float]) -> None:
        """One turn after another."""
        setting, loop = self._setting, self._loop
        chance = random.Random(f"{setting.seed} {name} {number}")
        known_as = name if self.waits.side == ROUND_ROBIN else ""
        queue, leasing = self._proxies[(number if name == GREEDY else int(name[1:])) % len(self._proxies)]
        while loop.time() < setting.hours * HOUR:
            if thinks:
                await asyncio.sleep(chance.expovariate(1 / thinks))
            came = loop.time()
            slot = queue.acquire_now(known_as, None)
            if slot is None:
                got = await queue.acquire(known_as, None, PATIENCE, answered=leasing.ask())
                assert isinstance(got, Slot)
                slot = got
            waits.append(loop.time() - came)
            await asyncio.sleep(min(setting.longest, setting.takes * chance.lognormvariate(0, setting.spread)))
            slot.release()


def simulated(setting: Setting, side: str) -> Waits:
    """Return the waits of one side."""
    with time_travel(0.0) as loop:
        simulation = Simulation(setting, side, loop)
        loop.run_until_complete(simulation.run())
    return simulation.waits


# -- the report


def summed_up(waits: Sequence[float]) -> tuple[float, float, float]:
    """The median, what 95 in 100 are within, and the maximum."""
    ranked = sorted(waits)
    return ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.95)], ranked[-1]


def row(title: str, numbers: Sequence[float], unit: str, end: str = "") -> str:
    return f"{title:28}" + "".join(f"{number:9.2f} {unit}" for number in numbers) + end


def report(setting: Setting) -> None:
    """Print both sides of a setting, and their ratios."""
    sides = [simulated(setting, side) for side in (FIRST_COME, ROUND_ROBIN)]
    print(f"{'waiting':28}{'median':>11}{'95 %':>11}{'max':>11}{'turns':>9}")
    for who in ("greedy", "others"):
        found = {side.side: summed_up(getattr(side, who)) for side in sides}
        for side in sides:
            print(row(f"{who}, {side.side}", found[side.side], "s", f"{len(getattr(side, who)):9}"))
        pairs = zip(found[FIRST_COME], found[ROUND_ROBIN], strict=True)
        print(row(f"{who}, ratio", [first / second if second else math.inf for first, second in pairs], "x"))
    longest = max(sides[1].others)
    held = "yes" if longest <= setting.bound else "NO"
    print(
        f"bound: {setting.members} members, {setting.places} places in {setting.proxies} proxies, "
        f"turns of {setting.longest:g} s at most: "
        f"{setting.bound:g} s; the others' longest wait: {longest:.2f} s; within: {held}\n"
    )


def cost(call: Callable[[], object], repeat: int = 200_000) -> float:
    """Nanoseconds of a call, in the processor's time: the best of five rounds."""
    rounds = []
    for _ in range(5):
        begun = time.process_time()
        for _ in range(repeat):
            call()
        rounds.append((time.process_time() - begun) / repeat * 1e9)
    return min(rounds)


def costs() -> None:
    """What a turn pays that does not wait."""

    def through(queue: TurnQueue, at_once: int | None) -> Callable[[], None]:
        def call() -> None:
            if (slot := queue.acquire_now("ann", at_once)) is not None:
                slot.release()

        return call

    print(f"enter and leave, without bounds: {cost(through(TurnQueue(), None)):.0f} ns")
    print(f"enter and leave, with both:      {cost(through(TurnQueue(40), 3)):.0f} ns")
    print(f"enter, where there is no place:  {cost(through(TurnQueue(0), 3)):.0f} ns")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.members.fairness", description=__doc__)
    default = Setting()
    parser.add_argument("--seed", type=int, default=default.seed, help="which day (%(default)s)")
    parser.add_argument("--members", type=int, default=default.members, help="%(default)s")
    parser.add_argument("--places", type=int, default=default.places, help="turns_at_once of the pool (%(default)s)")
    parser.add_argument("--proxies", type=int, default=default.proxies, help="%(default)s")
    parser.add_argument(
        "--greedy", type=int, default=default.greedy, help="turns of one member at once (%(default)s)"
    )
    parser.add_argument("--hours", type=float, default=default.hours, help="%(default)s")
    setting = Setting(**vars(parser.parse_args(arguments)))
    print(
        f"{setting.members} members, {setting.places} places; one is greedy with {setting.greedy} turns at once; "
        f"{setting.hours:g} hours; seed {setting.seed}\n"
    )
    print(f"turns of {setting.takes:g} s in the median, {setting.thinks:g} s between two of the others\n")
    report(setting)
    print("as hard as it can be: every turn takes the longest, without a pause between two\n")
    report(setting.at_its_worst())
    costs()


if __name__ == "__main__":
    main()
