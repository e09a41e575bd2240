"""Which models accounts may use, by their lists."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool import entitlements
from codexpool.pool.entitlements import AGAIN, FRESH, OUTDATED, VERSION_LASTS, VERSIONS_KEPT, Entitlements
from codexpool.pool.exclusions import subjects
from codexpool.pool.identity import Asked, Evidence, Kind, Status
from codexpool.pool.needs import no_identity
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import NobodyServes, Relay
from codexpool.pool.selection import Because
from codexpool.protocol.models import TESTED, Catalogue, Entry, entries_of
from codexpool.proxy.judge import BackendAnswer
from tests.pool.pools import NOW, RESPONSES, bound, condemn, metadata, ready_pool, refuse, restore
from tests.pool.scene import GOOD, IMAGES, Scene

SMALL, LARGE = "gpt-small", "gpt-large"
UNSUPPORTED = BackendAnswer(
    400, message=f"The '{LARGE}' model is not supported when using Codex with a ChatGPT account."
)


def entries(*slugs: str) -> tuple[Entry, ...]:
    models = [{"slug": slug, "priority": number} for number, slug in enumerate(slugs)]
    return entries_of(json.dumps({"models": models}).encode())


def plan(pool: Pool, name: str) -> str:
    identity = pool.identities[name]
    return subjects(identity.fingerprint, identity.metadata).plan


def list_for(pool: Pool, name: str, *slugs: str, version: str = TESTED, at: float = NOW) -> None:
    pool.entitlements.learn(plan(pool, name), version, entries(*slugs), f'"{slugs}"', at)


def free_and_paid() -> Pool:
    pool = ready_pool("free", "paid")
    list_for(pool, "free", SMALL)
    list_for(pool, "paid", SMALL, LARGE)
    return pool


def turn(model: str = LARGE, session: str | None = "s1") -> Asked:
    return Asked(session, RESPONSES, model=model)


# -- who is asked


def test_a_turn_goes_to_an_identity_that_has_its_model() -> None:
    scene = Scene(free_and_paid())

    assert scene.request(turn(), GOOD) == (Relay(), ["paid"])
    assert scene.request(turn(SMALL, "s2"), GOOD) == (Relay(), ["free"])


def test_a_session_is_served_by_another_identity_for_a_model_that_its_own_lacks_and_does_not_move() -> None:
    scene = Scene(free_and_paid())
    scene.request(turn(SMALL), GOOD)
    own = bound(scene.pool, "s1")

    for _ in range(2):
        assert scene.request(turn(), GOOD) == (Relay(), ["paid"])
        assert scene.pool.because is Because.ASIDE
    assert bound(scene.pool, "s1") == own
    assert scene.request(turn(SMALL), GOOD) == (Relay(), ["free"])


def test_a_request_that_uses_no_model_is_not_sent_elsewhere_for_one() -> None:
    scene = Scene(free_and_paid())

    assert scene.request(Asked("s1", IMAGES, model=LARGE), GOOD)[1] == ["free"]


def test_a_session_does_not_wait_for_a_new_token_of_an_identity_that_lacks_the_model() -> None:
    pool = free_and_paid()
    restore(pool, {"s1": metadata("free").key})
    pool.identities["free"].kind = Kind.OAUTH
    refuse(pool, "free", NOW, NOW)
    assert pool.identities["free"].is_in_renewal
    scene = Scene(pool)

    assert scene.request(turn(), GOOD)[1] == ["paid"]
    assert scene.now == NOW


def test_an_unknown_list_and_an_unknown_model_mean_may() -> None:
    pool = ready_pool("free", "paid")
    list_for(pool, "paid", SMALL, LARGE)
    scene = Scene(pool)

    assert scene.request(turn(), GOOD)[1] == ["free"]
    list_for(pool, "free", SMALL)
    assert scene.request(turn("gpt-unlisted", "s2"), GOOD)[1] == ["free"]
    assert scene.request(turn("", "s3"), GOOD)[1] == ["free"]


def test_a_model_in_no_list_is_asked_of_three_identities_only() -> None:
    pool = ready_pool("a", "b", "c", "d", "e")
    for name in "abcd":
        list_for(pool, name, SMALL)

    assert Scene(pool).request(turn(), UNSUPPORTED) == (NobodyServes(), ["a", "b", "c", "d", "e"])

    pool = ready_pool("a", "b", "c", "d", "e")
    for name in "abcde":
        list_for(pool, name, SMALL)
    assert Scene(pool).request(turn(), UNSUPPORTED) == (Relay(), ["a", "b", "c"])


def test_a_list_excludes_no_identity_from_a_turn_that_no_other_serves() -> None:
    scene = Scene(free_and_paid())
    condemn(scene.pool, "paid", NOW)

    assert scene.request(turn(), GOOD) == (Relay(), ["free"])


def test_if_all_that_have_the_model_are_limited_a_person_is_told_until_when() -> None:
    scene = Scene(free_and_paid())
    limit = BackendAnswer(429, code="usage_limit_reached", error={"resets_at": NOW + 3600})

    outcome, tried = scene.request(turn(), UNSUPPORTED, {"paid": limit})

    assert (outcome, tried) == (NobodyServes(), ["paid", "free"])
    why = no_identity(scene.pool, turn(), NOW)
    assert why.returns_at == NOW + 3600
    assert why.summary == "codexpool: 1 of 2 identities are at their limit; free (does not have the model)"
    assert scene.request(turn(), UNSUPPORTED, {"paid": limit})[1] == []


def test_one_that_has_the_model_and_rests_is_waited_for_before_one_that_lacks_it_is_asked() -> None:
    scene = Scene(free_and_paid())
    evidence = Evidence(NOW, "POST", RESPONSES, 429, fingerprint=scene.pool.identities["paid"].fingerprint)
    scene.pool.states.throttled("paid", evidence, 2.0)

    assert scene.request(turn(), GOOD)[1] == ["paid"]


def test_a_wrong_list_costs_one_refusal_and_no_status() -> None:
    pool = ready_pool("free", "paid")
    list_for(pool, "free", SMALL, LARGE)  # The backend says so, and refuses it.
    list_for(pool, "paid", SMALL, LARGE)
    scene = Scene(pool)

    assert scene.request(turn(), UNSUPPORTED, {"paid": GOOD})[1] == ["free", "paid"]
    assert scene.request(turn(), UNSUPPORTED, {"paid": GOOD})[1] == ["paid"]
    assert pool.identities["free"].status is Status.READY


def test_a_socket_leaves_an_identity_that_lacks_the_model_only_if_another_serves_it() -> None:
    pool = free_and_paid()

    assert not pool.leaves_for_model("paid", turn(), NOW, 60)
    assert not pool.leaves_for_model("free", turn(SMALL), NOW, 60)
    assert not pool.leaves_for_model("free", turn(session=None), NOW, 60)
    assert pool.leaves_for_model("free", turn(), NOW, 60)
    assert pool.choose(turn(model=""), NOW) is pool.identities["paid"]
    condemn(pool, "paid", NOW)
    assert not pool.leaves_for_model("free", turn(session="s2"), NOW, 60)


@pytest.mark.parametrize("seconds", [60.0, 3600.0])
def test_a_session_returns_to_an_identity_that_it_left_for_another_model(seconds: float) -> None:
    pool = free_and_paid()
    list_for(pool, "free", SMALL)
    list_for(pool, "paid", LARGE)
    assert pool.leaves_for_model("free", turn(LARGE), NOW, seconds)

    assert pool.leaves_for_model("paid", turn(SMALL), NOW + 1, seconds)
    assert pool.choose(turn(model=""), NOW + 1) is pool.identities["free"]
    assert pool.leaves_for_model("free", turn(LARGE), NOW + 2, seconds)
    assert pool.choose(turn(model=""), NOW + 2) is pool.identities["paid"]


def test_a_session_does_not_return_to_an_identity_that_it_left_for_a_refusal() -> None:
    pool = free_and_paid()
    list_for(pool, "free", SMALL)
    list_for(pool, "paid", LARGE)
    assert pool.leaves("free", turn(SMALL), NOW)

    assert not pool.leaves_for_model("paid", turn(SMALL), NOW + 1, 60)


def test_versions_are_compared_with_themselves_only() -> None:
    """An old client's list lacks new models for all accounts alike."""
    known = Entitlements()
    known.asked_for("0.50.0", NOW)
    known.learn("a/free", "0.50.0", entries("gpt-old"), "", NOW)
    known.learn("b/paid", "0.50.0", entries("gpt-old"), "", NOW)
    known.asked_for("0.60.0", NOW)
    known.learn("b/paid", "0.60.0", entries("gpt-old", "gpt-new"), "", NOW)
    assert not known.differ

    known.learn("a/free", "0.60.0", entries("gpt-old"), "", NOW)
    assert known.lacked("a/free") == {"gpt-new"}
    assert known.lacked("b/paid") == set()


LISTS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["0.1.0", "0.2.0"])),
    st.sets(st.sampled_from(["m1", "m2", "m3"]), min_size=1),
)


@given(LISTS)
def test_an_account_lacks_what_others_have_for_the_same_version_and_it_for_none(
    lists: Mapping[tuple[str, str], set[str]],
) -> None:
    known = Entitlements()
    for (account, version), slugs in lists.items():
        known.asked_for(version, NOW)
        known.learn(account, version, entries(*sorted(slugs)), "", NOW)

    for account in "abc":
        own = set().union(*(slugs for (of, _), slugs in lists.items() if of == account))
        versions = {version for of, version in lists if of == account}
        offered = set().union(*(slugs for (_, version), slugs in lists.items() if version in versions))
        assert known.lacked(account) == offered - own
        assert {model for model in ("m1", "m2", "m3") if known.lacks(account, model)} == offered - own
        assert set(known.models(account)) == own
    assert known.differ == any(known.lacked(account) for account in "abc")


def test_comparing_lists_takes_no_more_memory_than_the_lists() -> None:
    """What each account lacks would be as large as accounts times models."""
    known = Entitlements()
    for account in range(60):
        models = (f"{account}-{number}" for number in range(100))
        known.learn(f"{account}/plus", TESTED, entries(*models), "", NOW)

    tracemalloc.start()
    try:
        assert known.lacks("0/plus", "1-1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 2**20


def test_entries_are_bounded_by_their_number_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entitlements, "ENTRIES_KEPT", 2)
    known = Entitlements()
    known.learn("a/plus", TESTED, entries(SMALL, LARGE), "", NOW)

    known.learn("b/plus", TESTED, entries("gpt-x"), "", NOW)

    assert (known.models("a/plus"), known.models("b/plus")) == ([SMALL, LARGE], [])


# -- the list for clients


def listed(
    pool: Pool, only: frozenset[str] | None = None, named: str = "", version: str = TESTED
) -> list[str] | None:
    catalogue = pool.catalogue(Asked(None, "", only=only, named=named), version)
    return None if catalogue is None else [model["slug"] for model in json.loads(catalogue.body)["models"]]


def test_a_client_is_shown_what_its_identities_have_together() -> None:
    pool = free_and_paid()

    assert listed(pool) == [SMALL, LARGE]
    assert listed(pool, frozenset({"free"})) == [SMALL]
    assert listed(pool, named="free") == [SMALL]
    assert listed(pool, version="0.1.0") is None


def test_the_list_is_not_known_before_every_identity_was_asked() -> None:
    """Else it would change with each answer, and clients would fetch it each time."""
    pool = ready_pool("free", "paid")
    assert listed(pool) is None
    list_for(pool, "free", SMALL)
    assert listed(pool) is None
    assert listed(pool, frozenset({"free"})) == [SMALL]

    pool.entitlements.unread(plan(pool, "paid"), TESTED, NOW)

    assert listed(pool) == [SMALL]


def test_an_identity_that_is_not_asked_while_its_token_is_in_doubt_holds_nothing_up() -> None:
    pool = ready_pool("free", "paid")
    list_for(pool, "free", SMALL)

    refuse(pool, "paid", NOW, NOW)

    assert pool.identities["paid"].status is Status.SUSPECT
    assert listed(pool) == [SMALL]


def test_a_workspace_that_is_closed_is_not_listed() -> None:
    pool = free_and_paid()
    assert listed(pool) == [SMALL, LARGE]
    evidence = Evidence(NOW, "POST", RESPONSES, 402, fingerprint=pool.identities["paid"].fingerprint)

    pool.states.workspace_closed("paid", evidence)

    assert listed(pool) == [SMALL]


def test_equal_lists_for_different_clients_are_one() -> None:
    pool = ready_pool("one", "two")
    for name in pool.identities:
        list_for(pool, name, SMALL)

    catalogues = [pool.catalogue(Asked(None, "", named=name), TESTED) for name in ("", "one", "two")]

    assert catalogues[0] is not None
    assert all(catalogue is catalogues[0] for catalogue in catalogues)


def test_limits_do_not_change_the_list_but_a_dead_token_does() -> None:
    pool = free_and_paid()
    before = pool.catalogue(Asked(None, ""), TESTED)
    evidence = Evidence(NOW, "POST", RESPONSES, 429, fingerprint=pool.identities["paid"].fingerprint)
    pool.states.throttled("paid", evidence, 60.0)
    assert pool.catalogue(Asked(None, ""), TESTED) is before

    condemn(pool, "paid", NOW)

    assert listed(pool) == [SMALL]


def test_the_list_does_not_depend_on_the_order_of_the_answers() -> None:
    lists = {"free": (SMALL, "gpt-x"), "paid": (LARGE, SMALL)}
    made: set[Catalogue | None] = set()
    for names in (("free", "paid"), ("paid", "free")):
        pool = ready_pool("free", "paid")
        for name in names:
            list_for(pool, name, *lists[name])
        made.add(pool.catalogue(Asked(None, ""), TESTED))

    assert len(made) == 1


def test_a_new_list_is_shown() -> None:
    pool = free_and_paid()
    assert listed(pool) == [SMALL, LARGE]

    list_for(pool, "free", SMALL, "gpt-x")

    assert listed(pool) == [SMALL, "gpt-x", LARGE]


# -- what is kept


def test_a_list_that_could_not_be_read_again_still_counts() -> None:
    pool = free_and_paid()

    pool.entitlements.unread(plan(pool, "paid"), TESTED, NOW + 1800)

    assert pool.entitlements.models(plan(pool, "paid")) == [SMALL, LARGE]
    assert listed(pool) == [SMALL, LARGE]


def test_an_answer_that_names_another_list_has_it_read_but_not_each_time() -> None:
    known = Entitlements()
    assert not known.is_outdated("a/plus", TESTED, '"2"', NOW)
    known.learn("a/plus", TESTED, entries(SMALL), '"1"', NOW)

    assert not known.is_outdated("a/plus", TESTED, '"1"', NOW + OUTDATED)
    assert not known.is_outdated("a/plus", TESTED, '"2"', NOW + OUTDATED - 1)
    assert known.is_outdated("a/plus", TESTED, '"2"', NOW + OUTDATED)
    known.unread("a/plus", TESTED, NOW + OUTDATED)
    assert not known.is_outdated("a/plus", TESTED, '"2"', NOW + OUTDATED + 1)


def test_a_list_is_asked_for_again_when_it_is_no_longer_fresh_and_sooner_if_it_could_not_be_read() -> None:
    known = Entitlements()
    assert known.is_due("a/plus", TESTED, NOW)
    known.learn("a/plus", TESTED, entries(SMALL), "", NOW)
    assert [known.is_due("a/plus", TESTED, NOW + after) for after in (0, FRESH - 1, FRESH)] == [False, False, True]

    known.unread("a/plus", TESTED, NOW + FRESH)

    later = NOW + FRESH
    assert [known.is_due("a/plus", TESTED, later + after) for after in (0, AGAIN - 1, AGAIN)] == [False, False, True]
    assert known.is_due("a/plus", TESTED, NOW)  # The clock was set back.
    known.unchanged("a/plus", TESTED, later)
    assert not known.is_due("a/plus", TESTED, later + AGAIN)


def test_the_lists_of_removed_identities_are_forgotten() -> None:
    pool = free_and_paid()

    pool.entitlements.keep({plan(pool, "free")})

    assert not pool.entitlements.differ


def test_equal_entries_are_kept_once_and_a_list_too_many_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    both = entries(SMALL, LARGE)
    monkeypatch.setattr(entitlements, "BYTES_KEPT", sum(len(entry.text) for entry in both))
    known = Entitlements()
    for number in range(50):
        known.learn(f"{number}/plus", TESTED, entries(SMALL, LARGE), "", NOW)

    known.learn("50/plus", TESTED, entries("gpt-x"), "", NOW)

    assert known.models("49/plus") == [SMALL, LARGE]
    assert known.lacked("50/plus") == set()
    assert known.models("50/plus") == []
    assert known.was_asked("50/plus", TESTED)


def test_few_versions_are_kept_and_the_one_that_was_assumed_gives_way_first() -> None:
    known = Entitlements()

    taken = [known.asked_for(f"0.{number}.0", NOW + number) for number in range(1, 7)]

    assert taken == [True, True, True, True, False, False]
    assert list(known.versions) == ["0.1.0", "0.2.0", "0.3.0", "0.4.0"]
    assert len(known.versions) == VERSIONS_KEPT
    known.learn("a/plus", "0.2.0", entries(SMALL), "", NOW)
    assert not known.asked_for("0.1.0", NOW + 10)
    assert known.asked_for("0.9.0", NOW + VERSION_LASTS + 2)
    assert list(known.versions) == ["0.1.0", "0.3.0", "0.4.0", "0.9.0"]
    assert not known.was_asked("a/plus", "0.2.0")


def test_what_is_known_counts_while_lists_of_another_version_are_read() -> None:
    pool = free_and_paid()

    pool.entitlements.asked_for("0.180.0", NOW)

    assert pool.entitlements.lacked(plan(pool, "free")) == {LARGE}


def test_a_session_from_an_earlier_run_is_served_by_one_that_has_the_model() -> None:
    scene = Scene(free_and_paid())
    restore(scene.pool, {"s1": metadata("free").key})

    assert scene.request(turn(), GOOD)[1] == ["paid"]
