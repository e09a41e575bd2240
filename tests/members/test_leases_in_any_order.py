"""Whatever proxies, turns, losses and kills do at once: a bound holds for all proxies, and no slot is lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from codexpool.members.leases import KEEP, Leases
from codexpool.members.shares import POOL, Subject, of_member
from codexpool.members.turn_queue import TurnQueue
from tests.members.by_hand import Turn
from tests.members.fleet_by_hand import ALIVE, Proxy, Store

OWN = {"a": 1, "b": 2, "c": None}
SETTLED_AFTER = 8
"""Rounds of exchanges after which every free slot has got to a turn that waits for it."""


class Fleet(RuleBasedStateMachine):
    """Two proxies. A turn is begun only while the bound holds, that one included.

    Turns of a proxy that was dead to the others do not count: their slots were leased to others meanwhile.
    """

    @initialize(at_once=st.sampled_from([None, 1, 2, 3]))
    def begin(self, at_once: int | None) -> None:
        self.at_once, self.store, self.killed = at_once, Store(), 0
        self.outlived: set[Turn] = set()
        self.proxies = [Proxy(name, self.store, at_once) for name in ("A", "B")]
        self.before = self.under_way()

    def under_way(self) -> dict[tuple[Subject, str], int]:
        """Turns under way by bound and proxy."""
        counts: dict[tuple[Subject, str], int] = {}
        for proxy in self.proxies:
            for turn in proxy.under_way:
                for subject in (POOL, of_member(turn.who)) if turn not in self.outlived else ():
                    counts[(subject, proxy.name)] = counts.get((subject, proxy.name), 0) + 1
        return counts

    def check(self) -> None:
        """A bound that a turn was begun under holds."""
        now = self.under_way()
        for subject, name in now:
            bound = self.at_once if subject is POOL else OWN[subject.member]
            if now[(subject, name)] > self.before.get((subject, name), 0) and bound is not None:
                assert self.store.is_alive(name)
                assert sum(count for (one, _), count in now.items() if one == subject) <= bound
        self.before = now

    def proxy(self, index: int) -> Proxy:
        return self.proxies[index % len(self.proxies)]

    def of(self, index: int, *, waiting: bool) -> tuple[Proxy, Turn]:
        pairs = [(p, t) for p in self.proxies for t in (p.waiting if waiting else p.under_way)]
        return pairs[index % len(pairs)]

    @rule(index=st.integers(0, 1), member=st.sampled_from(list(OWN)))
    def comes(self, index: int, member: str) -> None:
        self.proxy(index).comes(member, OWN[member])
        self.check()

    @precondition(lambda self: any(proxy.under_way for proxy in self.proxies))
    @rule(index=st.integers(0, 30))
    def leaves(self, index: int) -> None:
        proxy, turn = self.of(index, waiting=False)
        proxy.leaves(turn)
        self.check()

    @precondition(lambda self: any(proxy.waiting for proxy in self.proxies))
    @rule(index=st.integers(0, 30))
    def goes_away(self, index: int) -> None:
        proxy, turn = self.of(index, waiting=True)
        proxy.goes_away(turn)
        self.check()

    @rule(index=st.integers(0, 1), step=st.sampled_from(["asks", "commits", "takes", "is_lost"]))
    def does_a_step(self, index: int, step: str) -> None:
        """One step of an exchange. What is lost may have been committed."""
        getattr(self.proxy(index), step)()
        self.check()

    @rule(index=st.integers(0, 1), committed=st.booleans())
    def begins_an_exchange(self, index: int, committed: bool) -> None:
        proxy = self.proxy(index)
        proxy.is_lost()
        proxy.asks()
        if committed:
            proxy.commits()
        self.check()

    @rule(index=st.integers(0, 1))
    def exchanges(self, index: int) -> None:
        self.proxy(index).exchanges()
        self.check()

    @rule(index=st.integers(0, 1), member=st.sampled_from(list(OWN)), offers_it=st.booleans())
    def is_served_at_once(self, index: int, member: str, offers_it: bool) -> None:
        """A turn has come and ended, and its slot is idle or on its way back."""
        proxy = self.proxy(index)
        turn = proxy.comes(member, OWN[member])
        proxy.exchanges()
        self.check()
        if turn.is_let_in:
            proxy.leaves(turn)
            self.check()
            if offers_it:
                self.time_passes(KEEP + 0.1)
                self.begins_an_exchange(index, True)

    @rule(index=st.integers(0, 1), member=st.sampled_from(list(OWN)))
    def comes_and_asks(self, index: int, member: str) -> None:
        proxy = self.proxy(index)
        proxy.comes(member, OWN[member])
        proxy.exchanges()
        self.check()

    @rule(seconds=st.sampled_from([0.5, 1.0, KEEP, ALIVE]))
    def time_passes(self, seconds: float) -> None:
        """A proxy that does nothing for so long is dead to the others, and finds out at its next exchange."""
        self.store.now += seconds
        for proxy in self.proxies:
            if not self.store.is_alive(proxy.name):
                self.outlived |= set(proxy.under_way)
        self.before = self.under_way()

    @rule(index=st.integers(0, 1))
    def is_killed(self, index: int) -> None:
        """A new proxy takes its place. Its leases end by themselves."""
        self.killed += 1
        new = Proxy(f"new {self.killed}", self.store, self.at_once)
        self.proxies[index] = new
        self.before = self.under_way()

    @rule()
    def it_settles(self) -> None:
        """Nothing happens for a while: no slot is idle while a turn may have it."""
        for _ in range(SETTLED_AFTER):
            self.store.now += 2.0
            for proxy in self.proxies:
                proxy.exchanges()
                self.check()
        total = sum(len(proxy.under_way) for proxy in self.proxies)
        for proxy in self.proxies:
            for turn in proxy.waiting:
                own = OWN[turn.who]
                at_own = own is not None and own <= sum(
                    other.who == turn.who for one in self.proxies for other in one.under_way
                )
                assert at_own or (self.at_once is not None and total >= self.at_once)

    def teardown(self) -> None:
        """All turns end, and no lease is left."""
        if not hasattr(self, "proxies"):
            return
        for proxy in self.proxies:
            while proxy.waiting:
                proxy.goes_away(proxy.waiting[0])
            while proxy.under_way:
                proxy.leaves(proxy.under_way[0])
        for _ in range(3):
            self.store.now += KEEP + 1
            for proxy in self.proxies:
                proxy.exchanges()
        for proxy in self.proxies:
            fresh = TurnQueue(self.at_once, Leases(proxy.queue.leases.clock, is_shared=True))
            fresh.leases._valid_until = proxy.queue.leases._valid_until
            assert vars(proxy.queue) == vars(fresh)
        for claims in self.store.claims.values():
            assert not any(c.slots or c.waiting for c in claims.values() if self.store.is_alive(c.holder))


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
