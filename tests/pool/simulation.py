"""A week of a pool, simulated: how the ways to spread sessions compare. `python -m tests.pool.simulation`.

The pool, its decisions and its recovery are the real ones; the backend, its limits and its clients are made up. The
same seed gives the same week, and every strategy is given the same turns.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from typing import NamedTuple

from codexpool.pool.identity import Asked, Condition, Evidence, Identity, Kind, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import Pause, Renew, Steps, Try, Wait, attempts
from codexpool.pool.selection import Selection
from codexpool.pool.usage import MAIN, Limit, Window
from codexpool.pool.verdict import Answer, Verdict, classify

BEGIN = 1_799_625_600.0
"""A Monday, 00:00 UTC."""

HOUR, DAY, WEEK = 3600.0, 86_400.0, 604_800.0
PATH = "/backend-api/codex/responses"

SIZES = (1, 1, 1, 1, 1, 1, 5, 5, 5, 20)
"""What identities' plans are worth: so many of each in ten."""

FIVE_HOURS, A_WEEK = 300, 10_080
"""The windows of a plan, in minutes."""

WINDOWS_A_WEEK = 6.0
"""A week's limit in limits of five hours."""

TURNS = 20.0
"""Of a session, on average."""

THINKS = 180.0
"""Seconds between two turns of a session, on average..."""

COMES_BACK, AWAY = 0.05, 3 * HOUR
"""...but for one in twenty, before which the person was away."""

SPREAD = 1.2
"""Of the work of a turn (the sigma of a lognormal distribution): a turn in a hundred is sixteen times the median."""


@dataclass(frozen=True)
class Setting:
    """What is simulated. ``load`` is the work that is asked for, as a share of what the weekly limits allow.

    ``before`` days go by that count for nothing: a new pool lives on windows that are still unused.
    """

    seed: int = 1
    identities: int = 50
    sessions: int = 2_000
    days: float = 7.0
    load: float = 0.85
    before: float = 7.0

    @property
    def begins(self) -> float:
        """The unix second from which turns count."""
        return BEGIN + self.before * DAY

    @property
    def all_days(self) -> float:
        return self.before + self.days


class Turn(NamedTuple):
    """One request of a session, and how much of the limits it takes."""

    at: float
    session: int
    work: float


class Strategy(NamedTuple):
    """How identities are chosen; without affinity each turn is a session of its own."""

    selection: Selection
    affinity: bool = True

    def __str__(self) -> str:
        return self.selection.value if self.affinity else f"{self.selection}, no affinity"


STRATEGIES = tuple(Strategy(selection, affinity) for affinity in (True, False) for selection in Selection)


def busy(second: float) -> float:
    """How much goes on at a second after the beginning, from 0 to 1: people work by day, and few at weekends."""
    hour = second % DAY / HOUR
    share = 1.0 if 9 <= hour < 18 else 0.3 if 7 <= hour < 23 else 0.04
    if 12 <= hour < 13:
        share = 0.5
    return share if int(second // DAY) % 7 < 5 else share / 5


# -- the backend


@dataclass(slots=True)
class Allowance:
    """One window of an identity. It begins with the first use after the last one has ended."""

    minutes: int
    capacity: float
    used: float = 0.0
    ends: float = 0.0
    refused: bool = False
    """A client was told that it is used up, and until when."""

    def is_used_up(self, at: float) -> bool:
        return at < self.ends and self.used >= self.capacity

    def spend(self, work: float, at: float) -> None:
        if at >= self.ends:
            self.used, self.ends, self.refused = 0.0, at + self.minutes * 60, False
        self.used += work

    def window(self, at: float) -> Window:
        """What an answer says of it, in whole percents."""
        percent = min(100, int(100 * self.used / self.capacity)) if at < self.ends else 0
        return Window(MAIN, self.minutes, percent, self.ends if at < self.ends else at + self.minutes * 60, at)


@dataclass(slots=True)
class Account:
    """What the backend knows of an identity: its windows, and all the work it has done."""

    windows: tuple[Allowance, ...]
    capacity: float
    """Of a week."""
    done: float = 0.0

    def used_up(self, at: float) -> list[Allowance]:
        return [window for window in self.windows if window.is_used_up(at)]

    def spend(self, work: float, at: float) -> None:
        for window in self.windows:
            window.spend(work, at)


def accounts(setting: Setting) -> dict[str, Account]:
    """The identities by name, in the middle of their weeks: each has used about what it should have by now.

    Where more is asked for than there is, a pool has nothing left: else it would live on that for weeks.
    """
    chance = random.Random(f"accounts {setting.seed}")
    sizes = [SIZES[number % len(SIZES)] for number in range(setting.identities)]
    chance.shuffle(sizes)
    of_last_hours = [0.0, *accumulate(busy(WEEK - HOUR * back) for back in range(1, 169))]
    found = {}
    for number, size in enumerate(sizes):
        hours = chance.randrange(168)
        used = setting.load * chance.uniform(0.5, 1.5) * of_last_hours[hours] / of_last_hours[-1]
        used = min(1.0, used) if setting.load < 1 else 1.0
        capacity = WINDOWS_A_WEEK * size
        week = Allowance(A_WEEK, capacity, used * capacity, BEGIN + WEEK - hours * HOUR)
        found[f"i{number:03}"] = Account((Allowance(FIVE_HOURS, float(size)), week), capacity)
    return found


# -- the clients


def turns(setting: Setting) -> list[Turn]:
    """All turns of all sessions, in the order of time. They come when they come, whether they are served or not."""
    chance = random.Random(f"turns {setting.seed}")
    ends = setting.all_days * DAY
    drawn = []
    for session in range(round(setting.sessions * setting.all_days / setting.days)):
        at = chance.uniform(0, ends)
        while chance.random() > busy(at):
            at = chance.uniform(0, ends)
        while at < ends:
            drawn.append(Turn(BEGIN + at, session, chance.lognormvariate(0, SPREAD)))
            if chance.random() < 1 / TURNS:
                break
            at += chance.expovariate(1 / (AWAY if chance.random() < COMES_BACK else THINKS))
    capacity = sum(account.capacity for account in accounts(setting).values()) * setting.all_days / 7
    unit = setting.load * capacity / sum(turn.work for turn in drawn) if drawn else 0.0
    return sorted(turn._replace(work=turn.work * unit) for turn in drawn)


# -- what becomes of them


@dataclass
class Result:
    """What a strategy has come to. Shares are from 0 to 1."""

    strategy: str
    turns: int = 0
    served: float = 0.0
    work_served: float = 0.0
    refusals: int = 0
    """429s that the backend has answered: each one costs a turn another attempt."""
    turns_refused: float = 0.0
    """Turns that hit at least one of them."""
    sessions: int = 0
    sessions_moved: int = 0
    moves: int = 0
    moves_back: int = 0
    """Moves to an identity that the session had left before."""
    needless_moves: int = 0
    """Moves away from an identity that could have served."""
    repeated_refusals: int = 0
    """429s of a window that had answered one before."""
    gini: float = 0.0
    """Of the work done by each identity for what its weekly limit allows: 0 is even, 1 all by one."""
    highest: float = 0.0
    """What the identity with the most of that has, for the mean of all."""
    warm: float = 0.0
    """Of the turns that were served after another one of their session: those under the same identity as it."""


@dataclass(slots=True)
class Talk:
    """A session, as its client sees it."""

    tried: str = ""
    """The identity it went out under last."""
    left: set[str] = field(default_factory=set)
    served: str = ""
    moves: int = 0


OK = classify(Answer(200))
LIMITED = classify(Answer(429, code="usage_limit_reached"))


class Simulation:
    """One week under one strategy."""

    def __init__(self, setting: Setting, strategy: Strategy, work: Sequence[Turn] | None = None) -> None:
        self.accounts = accounts(setting)
        self.turns = turns(setting) if work is None else work
        self.strategy = strategy
        self.now = BEGIN
        self.pool = Pool()
        self.pool.replace_identities(map(_identity, self.accounts), strategy.selection, BEGIN)
        self.begins = setting.begins
        self.result = Result(str(strategy))
        self.talks: dict[int, Talk] = {}
        self._served = self._after_another = self._warm = self._turns_refused = 0
        self._work_served = 0.0
        self._refused_now: set[int] = set()

    def run(self) -> Result:
        """Every turn in its time. One that waits comes again later, in between others."""
        events: list[tuple[float, int, Turn, Steps | None]] = [
            (turn.at, number, turn, None) for number, turn in enumerate(self.turns)
        ]  # Sorted, so it is a heap.
        while events:
            self.now, number, turn, steps = heappop(events)
            steps = steps or attempts(self.pool, self._asked(turn, number), self._clock, self._clock)
            if (seconds := self._follow(steps, turn, number)) is not None:
                heappush(events, (self.now + seconds, number, turn, steps))
        return self._summed_up()

    def _clock(self) -> float:
        return self.now

    def _asked(self, turn: Turn, number: int) -> Asked:
        return Asked(f"session-{turn.session}" if self.strategy.affinity else f"turn-{number}", PATH)

    def _follow(self, steps: Steps, turn: Turn, number: int) -> float | None:
        """Do what recovery says until the turn is over; or until it waits, then for how long."""
        verdict: Verdict | None = None
        while True:
            try:
                step = steps.send(verdict)
            except StopIteration:
                self._turns_refused += number in self._refused_now and turn.at >= self.begins
                self._refused_now.discard(number)
                return None
            match step:
                case Try(identity):
                    verdict = self._sent(identity, turn)
                    if verdict is LIMITED:
                        self._refused_now.add(number)
                case Pause(seconds):
                    return seconds
                case Wait(seconds) | Renew(_, seconds):
                    returns = self.pool.next_return(self.now)
                    return min(seconds, returns - self.now) if returns is not None and returns > self.now else seconds

    def _sent(self, identity: Identity, turn: Turn) -> Verdict:
        """The backend's answer, and what the pool learns of it."""
        assert identity.metadata is not None
        at, name, key, account = self.now, identity.name, identity.metadata.key, self.accounts[identity.name]
        counts = turn.at >= self.begins
        self._note_move(turn, name, counts)
        used_up = account.used_up(at)
        if not used_up:
            account.spend(turn.work, at)
            account.done += turn.work * counts
        usage = self.pool.states.usage(key)
        for window in account.windows:
            usage.see(window.window(at))
        if used_up:
            self.result.refusals += counts
            self.result.repeated_refusals += any(window.refused for window in used_up)
            for window in used_up:
                window.refused = True
            limit = Limit(MAIN, max(window.ends for window in used_up))
            self.pool.states.limited(name, key, limit, Evidence(at, "POST", PATH, 429, "usage_limit_reached"))
        else:
            self.pool.succeeded(name, at, True)
            self._note_served(turn, name, counts)
        self.pool.saw_usage(key)
        return LIMITED if used_up else OK

    def _note_move(self, turn: Turn, name: str, counts: bool) -> None:
        talk = self.talks.setdefault(turn.session, Talk())
        if talk.tried and talk.tried != name:
            talk.moves += counts
            self.result.moves_back += counts and name in talk.left
            talk.left.add(talk.tried)
            self.result.needless_moves += not self.accounts[talk.tried].used_up(self.now)
        talk.tried = name

    def _note_served(self, turn: Turn, name: str, counts: bool) -> None:
        talk = self.talks[turn.session]
        self._served += counts
        self._work_served += turn.work * counts
        self._after_another += counts and talk.served != ""
        self._warm += counts and talk.served == name
        talk.served = name

    def _summed_up(self) -> Result:
        r = self.result
        counted = [turn for turn in self.turns if turn.at >= self.begins]
        r.turns = len(counted)
        shares = [account.done / account.capacity for account in self.accounts.values()]
        r.served = _share(self._served, r.turns)
        r.work_served = _share(self._work_served, sum(turn.work for turn in counted))
        r.turns_refused = _share(self._turns_refused, r.turns)
        r.sessions = len({turn.session for turn in counted})
        r.sessions_moved = sum(talk.moves > 0 for talk in self.talks.values())
        r.moves = sum(talk.moves for talk in self.talks.values())
        r.gini = gini(shares)
        r.highest = _share(max(shares, default=0.0) * len(shares), sum(shares))
        r.warm = _share(self._warm, self._after_another)
        return r


def gini(values: Sequence[float]) -> float:
    """How unevenly something is spread: 0 if all have the same, towards 1 if one has it all."""
    total = sum(values)
    if not total:
        return 0.0
    ranked = sum(rank * value for rank, value in enumerate(sorted(values), 1))
    return 2 * ranked / (len(values) * total) - (len(values) + 1) / len(values)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _identity(name: str) -> Identity:
    metadata = Metadata(f"account-{name}", f"user-{name}", "business")
    return Identity(name, Kind.PAT, f"fingerprint-{name}", Condition(Status.READY, BEGIN), metadata=metadata)


# -- the report


HEAD = (
    f"{'':26} {'served':>7} {'work':>7} {'hit a':>7} {'sessions':>8} {'moves':>6} {'back':>6} {'warm':>7} "
    f"{'gini':>6} {'max/':>6}\n"
    f"{'':26} {'':>7} {'served':>7} {'429':>7} {'moved':>8} {'each':>6} {'again':>6} {'cache':>7} "
    f"{'':>6} {'mean':>6}"
)


def row(r: Result) -> str:
    each = _share(r.moves, r.sessions_moved)
    return (
        f"{r.strategy:26} {r.served:7.1%} {r.work_served:7.1%} {r.turns_refused:7.2%} "
        f"{_share(r.sessions_moved, r.sessions):8.1%} {each:6.2f} {_share(r.moves_back, r.moves):6.1%} {r.warm:7.1%} "
        f"{r.gini:6.3f} {r.highest:6.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.pool.simulation", description=__doc__)
    default = Setting()
    parser.add_argument("--seed", type=int, default=default.seed, help="which week (%(default)s)")
    parser.add_argument("--identities", type=int, default=default.identities, help="%(default)s")
    parser.add_argument("--sessions", type=int, default=default.sessions, help="%(default)s")
    parser.add_argument("--days", type=float, default=default.days, help="%(default)s")
    parser.add_argument("--load", type=float, default=default.load, help="of the weekly limits (%(default)s)")
    parser.add_argument("--before", type=float, default=default.before, help="days that do not count (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    setting = Setting(**{name: value for name, value in vars(options).items() if name != "json"})
    work = turns(setting)
    if not options.json:
        print(
            f"{setting.identities} identities, {setting.sessions} sessions in {setting.days:g} days, after "
            f"{setting.before:g} days that do not count; load {setting.load:.0%} of the weekly limits; "
            f"seed {setting.seed}\n\n{HEAD}",
            flush=True,
        )
    results: list[Result] = []
    for strategy in STRATEGIES:
        if sys.stderr.isatty():
            print(
                f"\r{strategy} ({len(results) + 1} of {len(STRATEGIES)})\033[K", end="\r", file=sys.stderr, flush=True
            )
        begun = time.perf_counter()
        results.append(Simulation(setting, strategy, work).run())
        if sys.stderr.isatty():
            print("\033[K", end="", file=sys.stderr, flush=True)
        if not options.json:
            print(f"{row(results[-1])}   {time.perf_counter() - begun:.1f} s", flush=True)
    if options.json:
        print(json.dumps({"setting": asdict(setting), "results": [asdict(result) for result in results]}, indent=2))


if __name__ == "__main__":
    main()
