"""Why an identity was chosen, and what is said of the others."""

from __future__ import annotations

import gc
import weakref

import pytest

from codexpool.pool import reasons
from codexpool.pool.identity import Asked, Condition, Evidence, Identity, Kind, Load, Metadata, Status, clock
from codexpool.pool.pool import Pool
from codexpool.pool.reasons import CANDIDATES_KEPT, candidacies
from codexpool.pool.selection import Because, Selection
from codexpool.pool.usage import Limit
from codexpool.protocol.models import TESTED, Entry

RESPONSES = "/backend-api/codex/responses"
NOW = 1_000_000.0


def ready(name: str, **more: object) -> Identity:
    metadata = Metadata(f"acc-{name}", f"user-{name}", "business")
    return Identity(name, Kind.PAT, f"print-{name}", Condition(Status.READY, 0), metadata=metadata, **more)  # type: ignore[arg-type]


def pool_of(*identities: Identity) -> Pool:
    pool = Pool()
    pool.replace_identities(identities, Selection.DRAIN_FIRST, NOW)
    return pool


def asked(session: str | None = "one", **more: object) -> Asked:
    return Asked(session, RESPONSES, **more)  # type: ignore[arg-type]


def because(pool: Pool, what: Asked, without: tuple[str, ...] = (), prefer: str | None = None) -> tuple[str, Because]:
    chosen = pool.choose(what, NOW, without, prefer)
    assert chosen is not None
    return chosen.name, pool.because


def test_a_choice_says_why_in_each_of_its_cases() -> None:
    pool = pool_of(ready("first"), ready("second"))

    assert because(pool, asked(None)) == ("first", Because.NO_SESSION)
    assert because(pool, asked("one")) == ("first", Because.NEW)
    assert because(pool, asked("one")) == ("first", Because.OWN)
    assert because(pool, asked("child", parent="one")) == ("first", Because.PARENT)
    assert because(pool, asked("child")) == ("first", Because.OWN)
    assert because(pool, asked("one"), prefer="second") == ("second", Because.PREFERRED)


def test_a_session_that_moves_says_so_once() -> None:
    pool = pool_of(ready("first"), ready("second"))
    because(pool, asked())
    # when: its own identity does not serve any more
    pool.identities["first"].condition = Condition(Status.NEEDS_REPLACEMENT, NOW)

    assert because(pool, asked()) == ("second", Because.MOVED)
    assert because(pool, asked()) == ("second", Because.OWN)


def test_what_only_one_family_is_the_reason_for_is_no_move() -> None:
    pool = pool_of(ready("first"), ready("second"))
    because(pool, asked())
    pool.learn_family("big", "big-family")
    pool.states.usage(pool.identities["first"].metadata.key).limit(Limit("big-family", NOW + 600), NOW)  # type: ignore[union-attr]

    assert because(pool, asked(model="big")) == ("second", Because.ASIDE)
    assert because(pool, asked(model="big")) == ("second", Because.ASIDE)
    assert because(pool, asked(model="small")) == ("first", Because.OWN)


def test_an_expired_token_serves_last_and_says_so() -> None:
    pool = pool_of(ready("only", expires_at=NOW - 1))
    because(pool, asked())

    assert because(pool, asked()) == ("only", Because.EXPIRED)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (Condition(Status.LIMITED, NOW, NOW + 3600), "limited until"),
        (Condition(Status.RESTING, NOW, NOW + 60), "resting until"),
        (Condition(Status.PAUSED, NOW), "paused"),
        (Condition(Status.NEEDS_REPLACEMENT, NOW), "needs_replacement"),
        (Condition(Status.UNVERIFIED, NOW), "unverified"),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
def test_who_cannot_serve_has_its_status_held_against_it(condition: Condition, said: str) -> None:
    other = ready("other")
    other.condition = condition
    pool = pool_of(ready("chosen"), other)
    other.condition = condition

    chosen, against = candidacies(pool, asked(), (), "chosen", NOW)

    assert chosen.chosen
    assert "ready" in chosen.speaks_for
    assert chosen.speaks_against == ()
    assert not against.chosen
    assert against.speaks_for == ()
    assert against.speaks_against[0].startswith(said)


def test_what_an_identity_has_been_refused_for_stands_first() -> None:
    pool = pool_of(ready("first"), ready("second"))

    first, _ = candidacies(pool, asked(), {"first"}, "second", NOW)

    assert first.speaks_against == ("this request was refused under it",)


def test_the_chosen_one_is_always_written_down() -> None:
    """In a large pool, too."""
    pool = pool_of(*(ready(f"number-{number}") for number in range(100)))

    said = candidacies(pool, asked(), (), "number-99", NOW)

    assert len(said) == CANDIDATES_KEPT + 1
    assert [c.name for c in said if c.chosen] == ["number-99"]


def test_what_is_looked_at_later_is_what_was_true_then(monkeypatch: pytest.MonkeyPatch) -> None:
    described = []

    def counted(*times: float) -> str:
        described.append(times)
        return clock(*times)

    monkeypatch.setattr(reasons, "clock", counted)
    pool = pool_of(ready("first"), ready("second"))
    second = pool.identities["second"]
    assert pool.not_for_model("second", "big", Evidence(NOW, status=400, fingerprint=second.fingerprint))
    pool.states.usage(second.metadata.key).limit(Limit(resets_at=NOW + 3600), NOW)  # type: ignore[union-attr]
    what = asked(model="big")
    because(pool, what)
    said, then = (candidacies(pool, what, (), "first", NOW) for _ in range(2))
    assert described == []  # nothing is described before it is looked at
    before = [*then]
    assert described

    # when: everything about both has changed, and one is gone
    pool.resumed("second", second.fingerprint, NOW + 1)
    because(pool, asked("two"))
    first = pool.identities["first"]
    first.condition, first.load, first.expires_at = Condition(Status.PAUSED, NOW), Load(9, NOW), NOW - 1
    pool.replace_identities([first], Selection.DRAIN_FIRST, NOW + 1)

    assert [*said] == before
    assert said[0].speaks_for[:2] == ("ready", "headroom 1.00")
    assert said[1].speaks_against == (
        "limited until 14:46 UTC",
        "not used for the model big until 14:46 UTC (400 on )",
    )


def test_what_is_kept_for_later_keeps_no_identity() -> None:
    pool = pool_of(ready("first"), ready("second"))
    gone = weakref.ref(pool.identities["second"])
    said = candidacies(pool, asked(), (), "first", NOW)
    pool.replace_identities([pool.identities["first"]], Selection.DRAIN_FIRST, NOW)
    gc.collect()
    assert gone() is None
    assert [one.name for one in said] == ["first", "second"]


def test_a_model_that_an_account_lacks_speaks_against_it() -> None:
    pool = pool_of(ready("free"), ready("paid"))
    for name, slugs in (("free", ["small"]), ("paid", ["small", "large"])):
        entries = [Entry(slug, 1, b"") for slug in slugs]
        pool.entitlements.learn(f"acc-{name}/business", TESTED, entries, "", NOW)

    against = {c.name: c.speaks_against for c in candidacies(pool, asked(model="large"), (), "paid", NOW)}

    assert against == {"free": ("its account's list does not have the model",), "paid": ()}
