"""Whatever turns, bounds, time and clients that leave do at once: the queue does as its model, and is fair."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codexpool.members.turn_queue import TurnQueue
from tests.members.by_hand import LONG, Pool, Turn


class Model:
    """Who is in and who waits, as plain lists. A place is for the member whose last turn, or whose coming, is longest
    ago, of those that may have it."""

    def __init__(self, at_once: int | None) -> None:
        self.at_once = at_once
        self.inside: list[Turn] = []
        self.line: list[Turn] = []
        self.own: dict[str, int | None] = {}
        self.since: dict[str, int] = {}
        self.late: dict[Turn, bool] = {}
        self._events = 0

    def under_way(self, who: str) -> int:
        return sum(turn.who == who for turn in self.inside)

    def first_of(self, who: str) -> Turn | None:
        return next((turn for turn in self.line if turn.who == who), None)

    def may_have_a_place(self, turn: Turn) -> bool:
        own = self.own[turn.who]
        return self.first_of(turn.who) is turn and (own is None or self.under_way(turn.who) < own)

    def comes(self, turn: Turn, own: int | None) -> None:
        self.own[turn.who] = own
        if self.first_of(turn.who) is None:
            self._events += 1
            self.since[turn.who] = self._events
        self.line.append(turn)
        self.let_in()

    def let_in(self) -> None:
        while self.at_once is None or len(self.inside) < self.at_once:
            able = [turn for turn in self.line if self.may_have_a_place(turn)]
            if not able:
                return
            turn = min(able, key=lambda turn: self.since[turn.who])
            self.line.remove(turn)
            if not turn.is_gone:
                self._place(turn)

    def _place(self, turn: Turn) -> None:
        self._events += 1
        self.since[turn.who] = self._events
        for other in self.line:
            if other.who != turn.who and not other.is_gone and self.may_have_a_place(other):
                other.passed_by[turn.who] += 1
                assert other.passed_by[turn.who] == 1, "a member has had two turns before another one had its"
        self.inside.append(turn)
        own = self.own[turn.who]
        assert self.at_once is None or len(self.inside) <= self.at_once
        assert own is None or self.under_way(turn.who) <= own

    def leaves(self, turn: Turn) -> None:
        self.inside.remove(turn)
        self.let_in()

    def is_late(self, turn: Turn) -> None:
        if turn in self.line and not turn.is_gone:
            self.line.remove(turn)
            own = self.own[turn.who]
            at_own = own is not None and self.under_way(turn.who) >= own
            self.late[turn] = at_own


MEMBERS = ["", "a", "b", "c"]
BOUNDS = st.sampled_from([None, 0, 1, 2, 3])


class Anything(RuleBasedStateMachine):
    """Callbacks are run one by one, so whatever can come between two of them does."""

    @initialize(at_once=BOUNDS)
    def begin(self, at_once: int | None) -> None:
        self.pool, self.model = Pool(at_once), Model(at_once)
        self.turns: list[Turn] = []

    def of(self, turns: list[Turn], index: int) -> Turn:
        return turns[index % len(turns)]

    @property
    def have_places(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.is_let_in]

    @property
    def have_not_heard(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.task is not None]

    @rule(who=st.sampled_from(MEMBERS), own=BOUNDS)
    def tries(self, who: str, own: int | None) -> None:
        turn = Turn(who, slot=self.pool.queue.acquire_now(who, own))
        self.model.comes(turn, own)
        assert turn.is_let_in == (turn in self.model.inside)
        if turn.is_let_in:
            self.turns.append(turn)
        else:
            self.model.line.remove(turn)

    @rule(who=st.sampled_from(MEMBERS), own=BOUNDS, seconds=st.sampled_from([0, 1, 2, 9]))
    def asks(self, who: str, own: int | None, seconds: float) -> None:
        turn = self.pool.ask(who, own, seconds)
        self.turns.append(turn)
        self.model.comes(turn, own)
        assert turn.is_let_in == (turn in self.model.inside)

    @precondition(lambda self: self.have_places)
    @rule(index=st.integers(0, 9))
    def leaves(self, index: int) -> None:
        turn = self.of(self.have_places, index)
        turn.leave()
        if turn in self.model.inside:
            self.model.leaves(turn)

    @precondition(lambda self: self.have_not_heard)
    @rule(index=st.integers(0, 9))
    def goes_away(self, index: int) -> None:
        turn = self.of(self.have_not_heard, index)
        assert turn.task is not None
        turn.task.cancel()
        turn.is_gone = True

    @rule(at_once=BOUNDS)
    def another_bound(self, at_once: int | None) -> None:
        self.model.at_once = at_once
        self.pool.queue.limit(at_once)
        self.model.let_in()

    @rule(seconds=st.sampled_from([1, 2]))
    def time_passes(self, seconds: float) -> None:
        self.pool.loop.passes(seconds)

    @precondition(lambda self: self.pool.loop.ready)
    @rule()
    def goes_on(self) -> None:
        handle = self.pool.loop.ready.popleft()
        is_void = handle.cancelled()
        self.pool.loop.run(handle)
        for turn in self.turns:
            if turn.timer is handle and not is_void:
                self.model.is_late(turn)
            elif self.pool.heard(turn):
                self.heard(turn)

    def heard(self, turn: Turn) -> None:
        """A task has run: it has what the model says, or nothing at all if its client has gone."""
        if turn.is_gone:
            assert not turn.is_let_in
            if turn in self.model.line:
                self.model.line.remove(turn)
            elif turn in self.model.inside:
                self.model.leaves(turn)
        else:
            assert turn.is_let_in == (turn in self.model.inside)
            assert turn.is_members == self.model.late.get(turn)

    @invariant()
    def as_many_are_in_as_should_be(self) -> None:
        for who in MEMBERS:
            assert self.pool.queue.under_way(who) == self.model.under_way(who)

    @invariant()
    def no_place_is_idle_while_somebody_may_have_it(self) -> None:
        model = self.model
        if model.at_once is None or len(model.inside) < model.at_once:
            assert not any(model.may_have_a_place(turn) for turn in model.line)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.another_bound(0)
        self.time_passes(LONG)
        while self.pool.loop.ready:
            self.goes_on()
        assert self.have_not_heard == []
        for turn in self.have_places:
            turn.leave()
        assert vars(self.pool.queue) == vars(TurnQueue(0))


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
