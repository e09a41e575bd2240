"""What one decision costs: the identity for a request, of a thousand. `python -m benchmarks.decision`.

Every row calls the real `Pool.choose` and times each call on its own, in the processor's time, which a busy machine
disturbs least. The pool's clock advances with each call, so it ranks the identities as often as it would in use.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from codexpool.pool.identity import Asked, Condition, Evidence, Identity, IdentityKey, Kind, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.selection import LASTS, Selection
from codexpool.pool.usage import MAIN, Limit, Window

AIM = 20.0
"""Microseconds that a decision may take."""

NOW = 1_800_000_000.0
BETWEEN = 0.05
"""Seconds of the pool's clock between two decisions: twenty of them in a second."""

PATH = "/backend-api/codex/responses"
OTHER_PATH = "/backend-api/codex/images/generations"
MODEL = "gpt-test"


class Size(NamedTuple):
    """Of the pool, and how often each row is measured."""

    identities: int = 1_000
    sessions: int = 10_000
    repeat: int = 5_000


class Scene:
    """A pool in use: some of all windows is used, and every session has its identity."""

    def __init__(self, size: Size, selection: Selection, limited: float = 0.0, resting: float = 0.0) -> None:
        self.size = size
        self.at = NOW
        self.chance = random.Random(1)
        self.pool = Pool()
        names = [f"i{number:04}" for number in range(size.identities)]
        self.pool.replace_identities(map(_identity, names), selection, NOW)
        self.identities = list(self.pool.identities.values())
        for identity in self.identities:
            self.use(identity)
        for number in range(size.sessions):
            self.pool.sessions.bind(f"known-{number}", self.key(self.chance.choice(self.identities)))
        away = self.chance.sample(self.identities, round((limited + resting) * size.identities))
        for number, identity in enumerate(away):
            if number < limited * size.identities:
                self.limit(identity)
            else:
                self.rest(identity)
        self._new = 0
        self.pool.choose(self.new_session(), self.at)

    def key(self, identity: Identity) -> IdentityKey:
        assert identity.metadata is not None
        return identity.metadata.key

    def use(self, identity: Identity) -> None:
        """Report how much of its windows is used."""
        assert identity.metadata is not None
        usage = self.pool.states.usage(identity.metadata.key)
        for minutes in (300, 10_080):
            ends = self.at + self.chance.uniform(0.1, 1.0) * minutes * 60
            usage.see(Window(MAIN, minutes, self.chance.uniform(0, 95), ends, self.at))
        self.pool.saw_usage(identity.metadata.key)

    def limit(self, identity: Identity) -> None:
        """Have it reach its limit."""
        assert identity.metadata is not None
        limit = Limit(MAIN, self.at + self.chance.uniform(600, 18_000))
        self.pool.states.limited(identity.name, identity.metadata.key, limit, Evidence(self.at, status=429))

    def rest(self, identity: Identity) -> None:
        """Have it rest for some seconds after too many requests."""
        evidence = Evidence(self.at, status=429, fingerprint=identity.fingerprint)
        self.pool.states.throttled(identity.name, evidence, self.chance.uniform(1, 60))

    def key_of(self, asked: Asked) -> IdentityKey | None:
        """The identity that serves a session."""
        bound = self.pool.sessions.get(asked.session)
        return bound.key if bound is not None else None

    def new_session(self) -> Asked:
        self._new += 1
        return Asked(f"new-{self._new}", PATH)


def _identity(name: str) -> Identity:
    metadata = Metadata(f"account-{name}", f"user-{name}", "business")
    return Identity(name, Kind.PAT, f"fingerprint-{name}", Condition(Status.READY, NOW), metadata=metadata)


Prepared = Callable[[], Callable[[], object]]
"""Done before each call, without being timed; returns the call."""


def timed(scene: Scene, prepare: Prepared, between: float = BETWEEN, repeat: int = 0) -> list[float]:
    """Microseconds of each call, after a warm-up."""
    repeat = repeat or scene.size.repeat
    times = []
    for number in range(repeat + repeat // 10):
        scene.at += between
        call = prepare()
        begun = time.process_time()
        call()
        taken = time.process_time() - begun
        if number >= repeat // 10:
            times.append(taken * 1e6)
    return times


def report(title: str, times: Sequence[float], aim: float | None = AIM) -> None:
    ranked = sorted(times)
    mean, median, high = statistics.fmean(ranked), statistics.median(ranked), ranked[int(len(ranked) * 0.99)]
    judged = "" if aim is None else f"under {aim:.0f}: {'yes' if mean < aim else 'NO'}"
    print(f"{title:58} {mean:9.2f} {median:9.2f} {high:9.2f}   {judged}", flush=True)


# -- the rows


def known(size: Size, selection: Selection, limited: float = 0.0) -> list[float]:
    """A request of a session that has its identity."""
    scene = Scene(size, selection)
    for identity in scene.identities[: round(limited * size.identities)]:
        scene.limit(identity)
    ready = {scene.key(identity) for identity in scene.identities if identity.status is Status.READY}
    every = [Asked(f"known-{number}", PATH) for number in range(size.sessions)]
    sessions = [asked for asked in every if scene.key_of(asked) in ready]
    return timed(scene, lambda: _choice(scene, scene.chance.choice(sessions)))


def new(size: Size, selection: Selection, limited: float = 0.0, between: float = BETWEEN) -> list[float]:
    """A request of a session that has none yet; nothing else happens."""
    scene = Scene(size, selection, limited)
    return timed(scene, lambda: _choice(scene, scene.new_session()), between)


def in_use(size: Size, selection: Selection) -> list[float]:
    """New sessions with answers in between: one before each decision, some of which send an identity to rest."""
    scene = Scene(size, selection, limited=0.2, resting=0.1)
    away = size.identities / 50_000  # One in fifty of a thousand; fewer of a smaller pool, or none is left.
    served: list[Identity] = []

    def prepare() -> Callable[[], object]:
        if served:
            identity = served.pop()
            scene.use(identity)
            drawn = scene.chance.random()
            if drawn < away:
                scene.limit(identity)
            elif drawn < 5 * away:
                scene.rest(identity)
        asked = scene.new_session()

        def choose() -> None:
            chosen = scene.pool.choose(asked, scene.at)
            assert chosen is not None
            served.append(chosen)

        return choose

    return timed(scene, prepare)


def moving(size: Size, selection: Selection, limited: float = 0.0) -> list[float]:
    """A request of a session whose identity has reached its limit."""
    scene = Scene(size, selection, limited)
    reached = next(identity for identity in scene.identities if identity.status is Status.READY)
    ends = scene.at + 36_000
    evidence = Evidence(scene.at, status=429)
    scene.pool.states.limited(reached.name, scene.key(reached), Limit(MAIN, ends), evidence)
    numbers = iter(range(sys.maxsize))

    def prepare() -> Callable[[], object]:
        session = f"moving-{next(numbers)}"
        scene.pool.sessions.bind(session, scene.key(reached))
        return _choice(scene, Asked(session, PATH))

    return timed(scene, prepare, repeat=max(20, size.repeat // 10))


def reached(size: Size, selection: Selection) -> list[float]:
    """A new session just after an identity has reached its limit, and another one has returned."""
    scene = Scene(size, selection)

    def prepare() -> Callable[[], object]:
        ready = [
            identity for identity in scene.identities[: size.identities // 20] if identity.status is Status.READY
        ]
        scene.limit(scene.chance.choice(ready or scene.identities))
        return _choice(scene, scene.new_session())

    return timed(scene, prepare)


def of_a_model(size: Size, selection: Selection, family: str) -> list[float]:
    """A new session for a model whose limit an answer has named."""
    scene = Scene(size, selection)
    scene.pool.learn_family(MODEL, family)
    repeat = max(20, size.repeat // 10)
    return timed(scene, lambda: _choice(scene, scene.new_session()._replace(model=MODEL)), repeat=repeat)


def after_a_refusal(size: Size, selection: Selection) -> list[float]:
    """A new session after another endpoint has refused an identity."""
    scene = Scene(size, selection)
    first = scene.identities[0]
    evidence = Evidence(scene.at, "POST", OTHER_PATH, 401, "no_matching_rule", fingerprint=first.fingerprint)
    scene.pool.not_for_endpoint(first.name, OTHER_PATH, evidence)
    return timed(scene, lambda: _choice(scene, scene.new_session()), repeat=max(20, size.repeat // 10))


def _choice(scene: Scene, asked: Asked) -> Callable[[], object]:
    pool, at = scene.pool, scene.at
    return lambda: pool.choose(asked, at)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decision", description=__doc__)
    default = Size()
    parser.add_argument("--identities", type=int, default=default.identities, help="%(default)s")
    parser.add_argument("--sessions", type=int, default=default.sessions, help="%(default)s")
    parser.add_argument("--repeat", type=int, default=default.repeat, help="calls of each row (%(default)s)")
    size = Size(**vars(parser.parse_args(arguments)))
    print(f"{size.identities} identities, {size.sessions} sessions; microseconds of a decision\n")
    print(f"{'':58} {'mean':>9} {'median':>9} {'99 %':>9}")
    rare = size._replace(repeat=max(20, size.repeat // 50))
    report("a known session", known(size, Selection.HEADROOM))
    for selection in Selection:
        report(f"a new session, {selection}", new(size, selection))
    for selection in Selection:
        report(f"a new session, answers in between, {selection}", in_use(size, selection))
    report("a new session, of a model with the main limit", of_a_model(size, Selection.HEADROOM, MAIN))
    report("a known session, 9 of 10 identities limited", known(size, Selection.HEADROOM, 0.9))
    for selection in Selection:
        report(f"a new session, 9 of 10 identities limited, {selection}", new(size, selection, 0.9))
    # These may take longer: they are rare, and come after an answer of the backend.
    report("a session that moves", moving(size, Selection.HEADROOM), None)
    report("a session that moves, 9 of 10 identities limited", moving(size, Selection.HEADROOM, 0.9), None)
    report("a new session, just after a limit was reached", reached(size, Selection.HEADROOM), None)
    report("a new session, none for five minutes", new(rare, Selection.HEADROOM, between=LASTS), None)
    report("a new session, of a model with a limit of its own", of_a_model(size, Selection.HEADROOM, "its own"), None)
    report("a new session, another endpoint refuses a kind", after_a_refusal(size, Selection.HEADROOM), None)


if __name__ == "__main__":
    main()
