"""Which identity serves a session that several proxies serve: case by case, and in a fleet of a state machine."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from codexpool.pool.identity import Asked, IdentityKey
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import LONGEST_LOOK_UP, LookUp, Step, Steps, Try, Wait, attempts
from codexpool.pool.selection import Selection
from codexpool.pool.sessions import Session, Sessions
from codexpool.pool.states import PoolListener
from tests.pool.pools import MODELS, NOW, RESPONSES, metadata, pool_of, ready_pool, restore, unverified, vouch

A, B = metadata("a").key, metadata("b").key


def sessions_with(moves: int, key: IdentityKey = A) -> Sessions:
    sessions = Sessions()
    sessions.found({"s": (key, moves)})
    return sessions


def asking(pool: Pool, asked: Asked, *, is_connected: bool = True) -> Steps:
    pool.sessions.can_be_looked_up = lambda: is_connected
    return attempts(pool, asked, lambda: NOW, lambda: NOW)


@pytest.mark.parametrize(
    ("here", "stored", "then"),
    [
        ((A, 0), (B, 0), (B, 0)),
        ((A, 1), (B, 3), (B, 3)),
        ((A, 2), (B, 1), (A, 2)),
        ((A, 1), (A, 4), (A, 4)),
        ((A, 4), (A, 1), (A, 4)),
    ],
)
def test_the_state_counts_unless_the_session_has_moved_here_since(
    here: tuple[IdentityKey, int], stored: tuple[IdentityKey, int], then: tuple[IdentityKey, int]
) -> None:
    for take in (Sessions.follow, Sessions.found):
        sessions = sessions_with(here[1])

        moved = take(sessions, {"s": stored})

        assert (sessions.get("s") or Session(A)).accounts == (
            frozenset({A.account_id}) if then[0] is B else frozenset()
        )
        known = sessions.get("s")
        assert known is not None
        assert (known.key, known.moves) == then
        assert moved == ({"s": A} if then[0] is B else {})


def test_news_of_a_session_that_is_not_used_here_are_not_kept() -> None:
    sessions = Sessions()

    assert sessions.follow({"theirs": (B, 2)}) == {}

    assert sessions.get("theirs") is None


def test_an_unknown_session_is_looked_up_once_before_anybody_is_chosen() -> None:
    pool = ready_pool("a", "b")
    steps = asking(pool, Asked("s", RESPONSES))

    step = next(steps)
    restore(pool, {"s": B})

    assert step == LookUp(("s",), LONGEST_LOOK_UP)
    assert next(steps) == Try(pool.identities["b"])


def test_a_session_that_nobody_serves_is_bound_as_before() -> None:
    pool = ready_pool("a", "b")
    steps = asking(pool, Asked("s", RESPONSES))

    assert isinstance(next(steps), LookUp)

    assert next(steps) == Try(pool.identities["a"])


@pytest.mark.parametrize(
    "asked",
    [
        Asked("known", RESPONSES),
        Asked("known", RESPONSES, parent="unknown"),
        Asked(None, RESPONSES),
        Asked("unknown", MODELS, is_turn=False),
    ],
)
def test_what_needs_no_answer_of_the_state_does_not_wait_for_one(asked: Asked) -> None:
    pool = ready_pool("a", "b")
    restore(pool, {"known": B})

    assert isinstance(next(asking(pool, asked)), Try)


@pytest.mark.parametrize(("parent", "looked_up"), [("known", ("s",)), ("unknown", ("s", "unknown")), (None, ("s",))])
def test_the_parent_is_looked_up_with_its_child(parent: str | None, looked_up: tuple[str, ...]) -> None:
    pool = ready_pool("a", "b")
    restore(pool, {"known": B})
    steps = asking(pool, Asked("s", RESPONSES, parent=parent))

    step = next(steps)
    restore(pool, {"unknown": B})

    assert isinstance(step, LookUp)
    assert step.sessions == looked_up
    assert next(steps) == Try(pool.identities["b" if parent else "a"])


def test_nothing_is_looked_up_while_the_state_is_out_of_reach() -> None:
    pool = ready_pool("a", "b")

    assert next(asking(pool, Asked("s", RESPONSES), is_connected=False)) == Try(pool.identities["a"])


def test_a_state_that_opens_during_a_wait_is_asked() -> None:
    """At the start identities wait for the state, too: a request must not be assigned before it was asked."""
    pool = pool_of(unverified("a"), unverified("b"))
    steps = asking(pool, Asked("s", RESPONSES), is_connected=False)

    assert isinstance(next(steps), Wait)
    vouch(pool, "a", NOW)
    vouch(pool, "b", NOW)
    pool.sessions.can_be_looked_up = lambda: True

    assert isinstance(next(steps), LookUp)
    restore(pool, {"s": B})
    assert next(steps) == Try(pool.identities["b"])


# -- several proxies, and the state between them

NAMES = ("a", "b", "c")
SESSIONS = ("s1", "s2")
PROXIES = st.integers(0, 2)

Stored = dict[str, tuple[IdentityKey, int]]


class State(Stored):
    """Keeps what was stored with the most moves, and of two with as many the first (see `codexpool.state.store`)."""

    def store(self, session: str, key: IdentityKey, moves: int) -> bool:
        """Return whether the state has this from now on."""
        _, has_moves = self.get(session, (key, -1))
        if moves > has_moves:
            self[session] = (key, moves)
        return self[session] == (key, moves)


class Proxy(PoolListener):
    """A pool, what it has not written yet, and the news that have not reached it yet.

    Each one begins with another identity: what two of them bind at once differs.
    """

    def __init__(self, number: int) -> None:
        self.pool = Pool(self)
        ready = ready_pool(*NAMES[number:], *NAMES[:number]).identities.values()
        self.pool.replace_identities(ready, Selection.DRAIN_FIRST, NOW)
        self.pool.sessions.can_be_looked_up = lambda: self.is_connected
        self.unwritten: Stored = {}
        self.news: Stored = {}
        self.late: list[Stored] = []
        self.is_connected = True

    def session_bound(self, name: str, session: Session) -> None:
        self.unwritten[name] = (session.key, session.moves)

    def known(self, session: str) -> tuple[IdentityKey, int] | None:
        known = self.pool.sessions.get(session)
        return (known.key, known.moves) if known is not None else None


class Fleet(RuleBasedStateMachine):
    """Requests, writes, news and look-ups of three proxies, in any order, with connections that break."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.proxies = [Proxy(0), Proxy(1), Proxy(2)]
        self.tried = 0

    @rule(number=PROXIES, session=st.sampled_from(SESSIONS), answered=st.sampled_from(["in time", "late", "never"]))
    def request(self, number: int, session: str, answered: str) -> None:
        proxy = self.proxies[number]
        before, stored = proxy.known(session), self.state.get(session)
        steps = attempts(proxy.pool, Asked(session, RESPONSES), lambda: NOW, lambda: NOW)

        step: Step = next(steps)
        looked_up = isinstance(step, LookUp)
        if looked_up:
            answer = {session: stored} if stored is not None else {}
            if answered == "in time":
                proxy.pool.sessions.found(answer)
            elif answered == "late":
                proxy.late.append(answer)
            step = next(steps)

        assert looked_up == (before is None and proxy.is_connected)
        assert isinstance(step, Try)
        served_by = step.identity.metadata
        assert served_by is not None
        if before is not None:
            assert served_by.key == before[0]
        elif looked_up and stored is not None and answered == "in time":
            assert served_by.key == stored[0]

    @rule(number=PROXIES, session=st.sampled_from(SESSIONS), name=st.sampled_from(NAMES))
    def session_moves_here(self, number: int, session: str, name: str) -> None:
        """A limit, say, that only this proxy knows of."""
        proxy, key = self.proxies[number], metadata(name).key
        known = proxy.pool.sessions.get(session)
        if known is not None and known.key != key:
            proxy.session_bound(session, proxy.pool.sessions.bind(session, key))

    @rule(number=PROXIES)
    def rows_are_written(self, number: int) -> None:
        proxy = self.proxies[number]
        if not proxy.is_connected:
            return
        for session, (key, moves) in proxy.unwritten.items():
            before = self.state.get(session)
            if not self.state.store(session, key, moves):
                proxy.news[session] = self.state[session]
            elif self.state[session] != before and moves:
                for other in self.proxies:
                    if other is not proxy:
                        other.news[session] = self.state[session]
        proxy.unwritten.clear()

    @rule(number=PROXIES)
    def news_come(self, number: int) -> None:
        proxy = self.proxies[number]
        if proxy.is_connected:
            proxy.pool.sessions.follow(self._taken(proxy.news))

    @rule(number=PROXIES)
    def a_late_answer_comes(self, number: int) -> None:
        if late := self.proxies[number].late:
            self.proxies[number].pool.sessions.found(late.pop(0))

    @rule(number=PROXIES)
    def the_state_is_lost(self, number: int) -> None:
        self.proxies[number].is_connected = False

    @rule(number=PROXIES)
    def the_state_is_back(self, number: int) -> None:
        self.proxies[number].is_connected = True

    @rule(number=PROXIES)
    def a_proxy_ends_at_once(self, number: int) -> None:
        self.proxies[number] = Proxy(number)

    @precondition(lambda self: self.state)
    @invariant()
    def a_session_here_is_at_the_state_or_on_its_way(self) -> None:
        for proxy in self.proxies:
            for session in SESSIONS:
                known = proxy.known(session)
                on_its_way = session in proxy.unwritten or session in proxy.news or any(proxy.late)
                assert known is None or known == self.state.get(session) or on_its_way

    def teardown(self) -> None:
        """When everything has been written and heard of, all agree."""
        for number in range(len(self.proxies)):
            self.the_state_is_back(number)
        for number in (*range(len(self.proxies)),) * 2:
            while self.proxies[number].late:
                self.a_late_answer_comes(number)
            self.rows_are_written(number)
        for number, proxy in enumerate(self.proxies):
            self.news_come(number)
            for session in SESSIONS:
                assert proxy.known(session) in (None, self.state.get(session))

    @staticmethod
    def _taken(news: Stored) -> Mapping[str, tuple[IdentityKey, int]]:
        taken = dict(news)
        news.clear()
        return taken


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
