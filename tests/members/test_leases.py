"""What one proxy does with its leases: kept for the next turn, given back to turns that wait elsewhere, or ended."""

from __future__ import annotations

from codexpool.members.leases import KEEP, VALID_FOR, Leases, Use
from codexpool.members.shares import Answer, of_member

ANN = of_member("ann")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def leased(slots: int, *, is_contended: bool = False) -> tuple[Leases, Clock]:
    """Leases with slots of ann's, who has three at most."""
    clock = Clock()
    leases = Leases(clock, is_shared=True)
    assert leases.asks({ANN: Use(3, 0, slots)}, ())
    leases.take({ANN: Answer(slots, 0, 0, False, is_contended)}, clock.now)
    leases.asks({ANN: Use(3, slots)}, ())
    leases.take({ANN: Answer(slots, 0, 0, False, is_contended)}, clock.now)
    return leases, clock


def test_a_slot_stays_for_the_next_turn() -> None:
    leases, clock = leased(1)
    leases.ended(ANN)
    clock.now += KEEP - 0.1

    (ask,) = leases.asks({}, ())

    assert (ask.bound, ask.keep) == (3, 1)
    assert leases.slots(ANN, 3) == 1


def test_a_slot_without_a_turn_goes_back_after_some_seconds() -> None:
    leases, clock = leased(2)
    leases.ended(ANN)
    clock.now += KEEP + 0.1

    (ask,) = leases.asks({}, ())

    assert ask.keep == 0
    assert leases.slots(ANN, 3) == 0


def test_a_slot_that_goes_back_is_not_used_before_the_state_has_answered() -> None:
    leases, _ = leased(2, is_contended=True)

    leases.asks({ANN: Use(3, 1)}, ())
    assert leases.slots(ANN, 3) == 1

    # when the exchange fails: the state may or may not have it
    (ask,) = leases.asks({ANN: Use(3, 1)}, ())
    assert ask.keep == 1


def test_while_turns_wait_elsewhere_the_slot_of_an_ended_turn_is_not_used_here() -> None:
    yielded: list[bool] = []
    leases, _ = leased(2, is_contended=True)
    leases.on_yield = lambda: yielded.append(True)

    leases.ended(ANN)

    assert leases.slots(ANN, 3) == 1
    assert yielded


def test_a_turn_that_ends_during_an_exchange_gives_its_slot_back_too() -> None:
    leases, clock = leased(2, is_contended=True)
    leases.asks({ANN: Use(3, 2, 1)}, ())
    leases.ended(ANN)

    leases.take({ANN: Answer(2, 1, 0, True, True)}, clock.now)

    assert leases.slots(ANN, 3) == 1
    assert leases.asks({ANN: Use(3, 1, 1)}, ())[0].keep == 1


def test_leases_end_before_others_take_the_proxy_for_dead() -> None:
    leases, clock = leased(2)

    clock.now += VALID_FOR

    assert leases.slots(ANN, 3) == 0


def test_without_the_state_a_proxy_applies_the_whole_bound() -> None:
    leases, _ = leased(1)

    leases.is_shared = False

    assert leases.slots(ANN, 3) == 3


def test_nothing_is_remembered_of_a_member_without_turns() -> None:
    leases, clock = leased(1)
    leases.ended(ANN)
    clock.now += KEEP + 0.1
    leases.asks({}, ())
    leases.take({ANN: Answer(0, 0, 0, False, False)}, clock.now)

    assert leases.asks({}, ()) == []
    assert not leases.held
