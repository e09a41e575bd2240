"""What a person chooses: a session pinned to an identity, and a client that names one."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.identity import Asked, Condition, Status
from codexpool.pool.needs import no_identity
from codexpool.pool.pins import Pin, Pins
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Because, Selection
from tests.pool.pools import NOW, RESPONSES, bound, metadata, ready_pool, refuse

NAMES = ("work", "home", "spare")
NAMED = Asked("s", RESPONSES, named="home")
TURN = Asked("s", RESPONSES)


def pinned(identity: str = "home", *, session: str = "s", pool: Pool | None = None) -> Pool:
    pool = ready_pool(*NAMES) if pool is None else pool
    pool.pin(session, Pin(identity, NOW))
    return pool


def limit(pool: Pool, name: str, until: float) -> None:
    pool.states.condition_learned(name, pool.identities[name].fingerprint, Condition(Status.LIMITED, NOW, until))


def chosen(pool: Pool, asked: Asked = TURN) -> str | None:
    found = pool.choose(asked, NOW)
    return found.name if found is not None else None


wishes = st.builds(
    Asked,
    st.sampled_from(["s", "t", None]),
    st.just(RESPONSES),
    st.sampled_from(["s", "t", None]),
    only=st.none() | st.frozensets(st.sampled_from(NAMES)),
    named=st.sampled_from(["", *NAMES, "unknown"]),
)
pins = st.dictionaries(st.sampled_from(["s", "t"]), st.sampled_from([*NAMES, "gone"]))
limited = st.sets(st.sampled_from(NAMES))


@given(st.lists(wishes, max_size=8), pins, limited, st.sampled_from(Selection))
def test_no_other_identity_serves_than_the_one_chosen(
    requests: Sequence[Asked], pinned_to: dict[str, str], at_limit: set[str], selection: Selection
) -> None:
    pool = ready_pool(*NAMES, selection=selection)
    for session, identity in pinned_to.items():
        pool.pin(session, Pin(identity, NOW))
    for identity in at_limit:
        limit(pool, identity, NOW + 60)

    for asked in requests:
        wish = asked.named or pinned_to.get(asked.session or "") or pinned_to.get(asked.parent or "")
        name = chosen(pool, asked)
        awaited = {identity.name for identity in pool.awaited(asked, NOW, 100.0)}

        assert name is None or (asked.only is None or name in asked.only)
        if wish is not None:
            assert name in (wish, None)
            assert awaited <= {wish}
            may_serve = wish in NAMES and (asked.only is None or wish in asked.only)
            assert (name is not None) == (may_serve and wish not in at_limit)


def test_pin_moves_a_session_once_and_unpin_leaves_it_there() -> None:
    pool = ready_pool(*NAMES)
    assert chosen(pool) == "work"

    pinned(pool=pool)
    assert chosen(pool) == "home"
    assert str(pool.because) == Because.PINNED
    pool.pins.remove("s")

    assert chosen(pool) == "home"
    assert str(pool.because) == Because.OWN
    session = pool.sessions.get("s")
    assert session is not None
    assert session.moves == 1


def test_sub_agents_follow_the_pin_of_their_session() -> None:
    pool = pinned()

    assert chosen(pool, Asked("child", RESPONSES, "s")) == "home"
    pinned("spare", session="child", pool=pool)
    assert chosen(pool, Asked("child", RESPONSES, "s")) == "spare"


def test_named_identity_comes_before_a_pin() -> None:
    pool = pinned("spare")

    assert chosen(pool, NAMED) == "home"
    assert pool.because is Because.NAMED
    assert bound(pool, "s") == metadata("home").key
    assert chosen(pool) == "spare"


def test_choice_by_hand_counts_while_the_breaker_is_open() -> None:
    pool = ready_pool(*NAMES)
    pool.states.breaker.take({"opened_at": NOW, "until": NOW + 60, "names": ["work"], "pause": 60.0})

    assert chosen(pool, Asked("other", RESPONSES)) is None
    assert chosen(pool, NAMED) == "home"


def test_sessions_by_hand_count_for_the_spread_of_others() -> None:
    pool = ready_pool("work", "home", selection=Selection.HEADROOM)

    for number in range(3):
        chosen(pool, Asked(f"by hand {number}", RESPONSES, named="work"))

    assert [chosen(pool, Asked(f"new {number}", RESPONSES)) for number in range(3)] == ["home"] * 3


def test_pin_takes_a_session_back_to_what_it_was_told_to_leave() -> None:
    pool = ready_pool(*NAMES)
    assert pool.leaves("home", TURN, NOW)

    assert chosen(pinned(pool=pool)) == "home"


def test_pinned_session_does_not_wait_for_anothers_renewal() -> None:
    pool = ready_pool(*NAMES)
    refuse(pool, "work", NOW, NOW)

    pinned(pool=pool)

    assert not pool.serves_on(pool.identities["work"], TURN, NOW)
    assert not pool.may_be_tried(pool.identities["work"], TURN)


def test_client_is_told_what_its_identity_needs_and_why_it() -> None:
    pool = pinned()
    limit(pool, "home", NOW + 600)

    by_pin, by_name = no_identity(pool, TURN, NOW), no_identity(pool, NAMED, NOW)

    assert by_pin.message == (
        "codexpool: this session is pinned to home (codexpool unpin), so no other identity serves it. "
        "home: limited until 08:10 UTC"
    )
    assert by_pin.summary == "codexpool: this session is pinned to home (codexpool unpin), which is at its limit"
    assert (by_pin.returns_at, by_pin.is_limit) == (NOW + 600, True)
    assert by_name.message == (
        "codexpool: the client asks for home (codexpool env --identity), so no other identity serves it. "
        "home: limited until 08:10 UTC"
    )


def test_unknown_name_is_told_and_members_learn_no_names() -> None:
    pool = ready_pool(*NAMES)
    members = frozenset({"spare"})

    told = no_identity(pool, NAMED._replace(named="wrok"), NOW)
    to_member = {
        no_identity(pool, NAMED._replace(named=name, only=members), NOW).message.replace(name, "X")
        for name in ("wrok", "home")
    }

    assert told.message == (
        "codexpool: the client asks for wrok (codexpool env --identity), but the pool has no usable identity of "
        "that name"
    )
    assert told.returns_at is None
    assert to_member == {
        "codexpool: the client asks for X (codexpool env --identity), but this member may use no identity of that "
        "name"
    }


def test_pins_are_bounded_and_the_newest_stay() -> None:
    pins = Pins()
    for number in range(10_002):
        pins.set(str(number), Pin("work", NOW + number))

    assert len(pins) == 10_000
    assert pins.of("1") is None
    assert pins.newest(1)[0] == ("10001", Pin("work", NOW + 10_001))


def test_a_pin_follows_its_identity_to_another_name() -> None:
    pool = pinned()

    pool.rename({"home": "house"})

    assert chosen(pool) == "house"


def test_a_pin_may_name_an_identity_before_it_is_called_so() -> None:
    """The state says it before pool.toml is read again, or to a machine that has another pool.toml."""
    pool = ready_pool(*NAMES)
    pool.pin("s", Pin("house", NOW, was="home"))

    assert chosen(pool) == "home"

    pool.rename({"home": "house"})

    assert chosen(pool) == "house"


SHOWN = {"work": "office", "home": "house", "spare": "spare"}  # The names after.


@given(
    st.lists(wishes, max_size=6),
    st.lists(wishes, max_size=6),
    pins,
    limited,
    st.sampled_from(Selection),
)
def test_other_names_change_no_choice(
    before: Sequence[Asked],
    after: Sequence[Asked],
    pinned_to: dict[str, str],
    at_limit: set[str],
    selection: Selection,
) -> None:
    """Of two pools that are asked the same, one has other names from some time on."""
    same, other = (ready_pool(*NAMES, selection=selection) for _ in range(2))
    for pool in (same, other):
        for session, identity in pinned_to.items():
            pool.pin(session, Pin(identity, NOW))
        for name in at_limit:
            limit(pool, name, NOW + 60)
        for asked in before:
            pool.choose(asked, NOW)

    other.rename({name: shown for name, shown in SHOWN.items() if name != shown})

    for asked in after:
        only = asked.only and frozenset(SHOWN[name] for name in asked.only)
        expected = chosen(same, asked)
        found = chosen(other, asked._replace(only=only, named=SHOWN.get(asked.named, asked.named)))
        assert found == (SHOWN[expected] if expected is not None else None)
