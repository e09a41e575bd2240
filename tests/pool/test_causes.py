"""One identity's refusal is that identity's, and one request changes a bounded number of them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from codexpool.pool.breaker import FIRST_PAUSE
from codexpool.pool.causes import LASTS, MOST, WITHIN, Cause, Causes
from codexpool.pool.exclusions import MODEL_LASTS
from codexpool.pool.identity import Asked, Status
from codexpool.pool.needs import no_identity
from codexpool.pool.patience import PATIENCE
from codexpool.pool.pool import OTHERS_FIRST
from codexpool.pool.recovery import NobodyServes, Pause, Relay, Try, attempts
from codexpool.pool.states import DOUBTS, LONGEST_REST
from codexpool.pool.usage import ENDED_LIMIT
from codexpool.pool.verdict import ADDRESS_CODES, ENDPOINT_CODES, LIMIT_CODES
from codexpool.proxy.judge import of_event, of_failure
from tests.pool.pools import MODELS, NOW, RESPONSES, Changes, condemn, not_for_endpoint, ready_pool, statuses
from tests.pool.scene import COMPACT, GOOD, IMAGES, BackendAnswer, Scene

EXOTIC = "gpt-exotic"
DAY = 86_400.0


def unsupported(model: str) -> str:
    return f"The '{model}' model is not supported when using Codex with a ChatGPT account."


QUOTED = "gpt-good' model is not supported when using Codex with a ChatGPT account."
"""A model that makes a message look as if it was about another one."""


# -- the table: what an answer may change, and for how many


class Case(NamedTuple):
    """What is said, where, and what may come of it for a pool of five if all say so."""

    said: BackendAnswer
    path: str
    out: int
    """Identities whose status changes."""
    endpoint: int
    """Identities that are not used for the path any more, though they are ready."""
    model: int
    """The same for the model."""
    outcome: type


LIMIT = {"resets_in_seconds": 8 * DAY}
TABLE = {
    "endpoint": Case(BackendAnswer(401, code="no_matching_rule"), RESPONSES, 0, 2, 0, NobodyServes),
    "endpoint, 403": Case(BackendAnswer(403, code="no_matching_rule"), RESPONSES, 0, 2, 0, NobodyServes),
    "endpoint, side": Case(BackendAnswer(401, code="no_matching_rule"), IMAGES, 0, 2, 0, NobodyServes),
    "model": Case(BackendAnswer(400, message=unsupported(EXOTIC)), RESPONSES, 0, 0, 5, NobodyServes),
    "model, compact": Case(BackendAnswer(400, message=unsupported(EXOTIC)), COMPACT, 0, 0, 5, NobodyServes),
    "model, another one": Case(BackendAnswer(400, message=unsupported("gpt-5")), RESPONSES, 0, 0, 0, NobodyServes),
    "dead token": Case(BackendAnswer(401, code="token_revoked"), RESPONSES, 2, 0, 0, NobodyServes),
    "dead token, side": Case(BackendAnswer(401, code="token_revoked"), IMAGES, 2, 0, 0, NobodyServes),
    "unclear": Case(BackendAnswer(403), RESPONSES, 0, 0, 0, Relay),
    "402": Case(BackendAnswer(402), RESPONSES, 2, 0, 0, Relay),
    "402, side": Case(BackendAnswer(402), IMAGES, 0, 2, 0, Relay),
    "402, models": Case(BackendAnswer(402), MODELS, 0, 2, 0, Relay),
    "workspace": Case(BackendAnswer(403, code="deactivated_workspace"), RESPONSES, 2, 0, 0, Relay),
    "workspace, side": Case(BackendAnswer(403, code="model_not_available_in_workspace"), IMAGES, 0, 2, 0, Relay),
    "unclear, side": Case(BackendAnswer(403), IMAGES, 0, 2, 0, Relay),
    "limit": Case(BackendAnswer(429, code="usage_limit_reached", error=LIMIT), RESPONSES, 2, 0, 3, NobodyServes),
    "limit, side": Case(BackendAnswer(429, code="usage_limit_reached", error=LIMIT), IMAGES, 0, 2, 0, Relay),
    "throttled": Case(BackendAnswer(429, {b"retry-after": b"3600"}), RESPONSES, 2, 0, 3, NobodyServes),
    "throttled, side": Case(BackendAnswer(429, {b"retry-after": b"3600"}), IMAGES, 0, 2, 0, Relay),
    "address": Case(BackendAnswer(403, code=min(ADDRESS_CODES)), RESPONSES, 0, 0, 0, Relay),
    "own": Case(BackendAnswer(400, code="bad"), RESPONSES, 0, 0, 0, Relay),
    "own, 404": Case(BackendAnswer(404), IMAGES, 0, 0, 0, Relay),
}


@pytest.mark.parametrize("name", list(TABLE))
def test_what_an_answer_changes_and_for_how_many(name: str) -> None:
    case = TABLE[name]
    scene = Scene(ready_pool(*"abcde"))

    outcome, tried = scene.request(Asked("s", case.path, model=EXOTIC), case.said)

    assert isinstance(outcome, case.outcome)
    pool, at = scene.pool, scene.now
    out = [i for i in pool.identities.values() if i.status is not Status.READY]
    assert len(out) == case.out
    ready = [i for i in pool.identities.values() if i.status is Status.READY]
    known = [pool.exclusions.against(i, Asked(None, case.path, model=EXOTIC), at) for i in ready]
    assert sum(any(e.kind == "endpoint" for e in entries) for entries in known) == case.endpoint
    assert sum(any(e.kind != "endpoint" for e in entries) for entries in known) == case.model
    # another model, and another endpoint, have any that is left
    for other in (Asked(None, RESPONSES, model="m"), Asked(None, MODELS), Asked(None, IMAGES)):
        assert pool.can_serve(other, at)
    assert len(set(tried)) == (5 if case.outcome is NobodyServes or case.out or case.endpoint else len(tried))


def test_who_is_left_serves_what_all_others_refuse() -> None:
    for name, case in TABLE.items():
        if name.startswith(("own", "address")) or name == "unclear":
            continue  # The request's own, the proxy's, and what is tried elsewhere once.
        scene = Scene(ready_pool(*"abcdef"))

        outcome, tried = scene.request(Asked("s", case.path, model=EXOTIC), case.said, {"f": GOOD})

        assert (outcome, tried[-1]) == (Relay(), "f"), name


# -- what a pool does that is drained, and has dead tokens


@pytest.mark.parametrize("said", [BackendAnswer(429, code="usage_limit_reached", error=LIMIT), BackendAnswer(402)])
def test_a_fresh_identity_is_found_beside_five_refused_ones(said: BackendAnswer) -> None:
    """Two are out over the same cause, and three have died."""
    scene = Scene(ready_pool(*"abcdef"))
    pool = scene.pool
    for name in "ab":
        scene.judged(pool.identities[name], Asked(name, RESPONSES, model="m"), said)
    for name in "cde":
        condemn(pool, name, scene.now)
    assert pool.states.breaker.opened_at is not None

    begun, served = scene.now, False
    while not served and scene.now < begun + 30:
        outcome, tried = scene.request(Asked("new", RESPONSES, model="m"), GOOD)
        served = isinstance(outcome, Relay) and tried == ["f"]

    # what a client waits for by itself is enough where the two are drained, which is an ordinary day
    assert served
    assert scene.now - begun <= (PATIENCE if said.status == 429 else FIRST_PAUSE + OTHERS_FIRST + PATIENCE)
    assert pool.states.breaker.opened_at is None


def test_a_request_limited_everywhere_keeps_no_breaker_open() -> None:
    scene = Scene(ready_pool(*"abcdef"))
    pool = scene.pool
    limited = BackendAnswer(429, code="usage_limit_reached", error=LIMIT)
    for name in "ab":
        scene.judged(pool.identities[name], Asked("odd", RESPONSES, model=EXOTIC), limited)
    for name in "cde":
        condemn(pool, name, scene.now)
    scene.now += FIRST_PAUSE

    # it finds out first, and says nothing about the breaker: the next request may
    scene.request(Asked("odd", RESPONSES, model=EXOTIC), limited)

    assert scene.request(Asked("s", RESPONSES, model="m"), GOOD) == (Relay(), ["f"])


@pytest.mark.parametrize("said", [BackendAnswer(400), BackendAnswer(429, code="usage_limit_reached", error=LIMIT)])
def test_a_model_name_of_a_client_is_redacted(said: BackendAnswer) -> None:
    secret = "at-secret-0123456789abcdef0123456789abcdef"
    model = f"x\x1b[2J {secret} \ud800"
    scene = Scene(ready_pool("a", "b", "c"))
    wants = Asked("s", RESPONSES, model=model)

    scene.request(wants, said._replace(message=unsupported(model)))

    shown = no_identity(scene.pool, wants, scene.now).message
    shown += "".join(
        e.described(scene.now) for i in scene.pool.identities.values() for e in scene.pool.exclusions.of(i, scene.now)
    )
    assert "for the model x" in shown
    assert secret not in shown
    assert shown.isprintable()


# -- an endpoint, a model


def test_one_tokens_endpoint_says_nothing_of_the_next_token() -> None:
    pool = ready_pool("one", "two")
    not_for_endpoint(pool, "one", RESPONSES)

    assert pool.choose(Asked("s", RESPONSES), NOW) is pool.identities["two"]
    assert pool.choose(Asked("t", MODELS), NOW) is pool.identities["one"]


def test_a_missing_model_counts_for_its_account_for_an_hour() -> None:
    """And for no other model."""
    scene = Scene(ready_pool("free", "paid"))
    wants, other = Asked(None, RESPONSES, model=EXOTIC), Asked(None, RESPONSES, model="m")

    assert scene.request(wants, BackendAnswer(400, message=unsupported(EXOTIC)), {"paid": GOOD})[1] == [
        "free",
        "paid",
    ]
    assert scene.request(wants, GOOD)[1] == ["paid"]
    assert scene.request(other, GOOD)[1] == ["free"]
    scene.now += MODEL_LASTS
    assert scene.request(wants, GOOD)[1] == ["free"]


@pytest.mark.parametrize(
    ("hint", "body", "message"),
    [
        ("gpt-good", EXOTIC, unsupported(EXOTIC)),  # a hint that is not what is asked
        ("gpt-good", QUOTED, unsupported(QUOTED)),
        ("gpt-good", EXOTIC, unsupported("gpt-good")),
        ("", "", unsupported("")),
    ],
    ids=["hint", "quote", "another", "none"],
)
def test_no_client_can_take_a_model_from_the_others(hint: str, body: str, message: str) -> None:
    scene = Scene(ready_pool("a"))
    scene.judged(
        scene.pool.identities["a"], Asked("x", RESPONSES, model=hint), BackendAnswer(400, message=message), body
    )

    for model in ("gpt-good", ""):
        assert scene.pool.can_serve(Asked(None, RESPONSES, model=model), NOW)


def test_a_session_that_is_told_to_leave_does_not_come_back() -> None:
    pool = ready_pool("free", "paid")
    blind = Asked("s", RESPONSES)
    assert pool.choose(blind, NOW) is pool.identities["free"]

    assert pool.leaves("free", blind, NOW)

    assert pool.choose(blind, NOW + 1) is pool.identities["paid"]
    assert not pool.leaves("paid", blind, NOW + 1)  # There is no other.
    assert not pool.leaves("free", Asked(None, RESPONSES), NOW)  # It could not be recognised.
    assert pool.choose(Asked("t", RESPONSES), NOW) is pool.identities["free"]


# -- doubts


def test_the_third_unclear_403_in_a_row_is_a_growing_rest() -> None:
    scene = Scene(ready_pool("one", "two"))
    asked, rests = Asked("s", RESPONSES, model="m"), []
    for number in range(DOUBTS + 2):
        tried = scene.request(asked, BackendAnswer(403), {"two": GOOD})[1]
        assert tried == ["one", "two"]
        one = scene.pool.identities["one"]
        if number >= DOUBTS - 1:
            assert one.status is Status.RESTING
            assert one.condition.until is not None
            rests.append(one.condition.until - scene.now)
            scene.now += rests[-1]
            assert scene.pool.can_serve(asked, scene.now)
        else:
            assert one.status is Status.READY
        scene.pool.sessions.bind("s", one.metadata.key)  # type: ignore[union-attr]

    assert rests == sorted(set(rests))


def test_only_a_turn_in_between_ends_a_row_of_doubts() -> None:
    """A list of models does not."""
    scene = Scene(ready_pool("one"))
    one, asked = scene.pool.identities["one"], Asked("s", RESPONSES)
    for _ in range(DOUBTS - 1):
        scene.judged(one, asked, BackendAnswer(403))
    scene.pool.succeeded("one", NOW, False)
    scene.judged(one, asked, BackendAnswer(403))
    assert statuses(scene.pool) == {"one": Status.RESTING}

    scene.now += 10
    assert scene.pool.can_serve(asked, scene.now)
    scene.pool.succeeded("one", scene.now, True)
    scene.judged(one, asked, BackendAnswer(403))
    assert statuses(scene.pool) == {"one": Status.READY}


# -- causes

A_CAUSE = Cause("row", "m", "402", "s")
fingerprints = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(fingerprints, st.floats(0, WITHIN / 10)), max_size=20))
def test_over_one_cause_two_change_at_most(events: list[tuple[str, float]]) -> None:
    causes, at, changed = Causes(), NOW, set()
    for fingerprint, later in events:
        at += later
        if not causes.is_own(A_CAUSE, fingerprint, at):
            causes.changed(A_CAUSE, fingerprint, at, at + 1)
            changed.add(fingerprint)
    at_once = {f for f, _ in events[:2]}
    assert len(changed) <= MOST or len(at_once) < MOST or sum(later for _, later in events) >= WITHIN


def test_a_cause_is_own_for_an_hour_and_while_it_lasts() -> None:
    causes = Causes()
    for fingerprint in "ab":
        causes.changed(A_CAUSE, fingerprint, NOW, NOW + 10)
    assert causes.is_own(A_CAUSE, "c", NOW + LASTS - 1)
    causes.seen(A_CAUSE, NOW + LASTS - 1)
    assert causes.is_own(A_CAUSE, "c", NOW + 2 * LASTS - 2)
    assert not causes.is_own(A_CAUSE, "c", NOW + 2 * LASTS)

    for fingerprint in "ab":
        causes.changed(A_CAUSE, fingerprint, NOW, None)
    assert causes.is_own(A_CAUSE, "c", NOW + DAY)
    causes.ended("a", NOW + DAY)
    causes.ended("b", NOW + DAY)
    assert not causes.is_own(A_CAUSE, "c", NOW + DAY + 1)


def test_what_is_confirmed_is_no_requests_doing() -> None:
    changes = Changes()
    scene = Scene(ready_pool(*"abcd", changes=changes))
    asked = Asked("s", RESPONSES, model="m")
    scene.request(asked, BackendAnswer(401, code="token_revoked"))
    assert statuses(scene.pool) == {
        **dict.fromkeys("ab", Status.SUSPECT),
        **dict.fromkeys("cd", Status.READY),
    }
    assert changes.doubted == ["c", "d"]

    for name in "ab":
        condemn(scene.pool, name, scene.now)
    scene.request(asked, BackendAnswer(401, code="token_revoked"))

    assert {scene.pool.identities[name].status for name in "cd"} == {Status.SUSPECT}


@given(st.sampled_from(["model", "said", "session"]))
def test_a_client_that_varies_one_thing_is_recognised(changing: str) -> None:
    scene = Scene(ready_pool(*"abcdef"))
    for number in range(6):
        asked = Asked("s", RESPONSES, model="m")
        said = BackendAnswer(402, code="one")
        if changing == "model":
            asked = asked._replace(model=f"m{number}")
        elif changing == "said":
            said = said._replace(status=402 + number % 2, code=f"workspace_{number}")
        else:
            asked = asked._replace(session=f"s{number}")
        scene.request(asked, said)
    assert sum(status is not Status.READY for status in statuses(scene.pool).values()) == MOST


def test_causes_are_not_remembered_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from codexpool.pool import causes as module

    monkeypatch.setattr(module, "KEPT", 10)
    causes = Causes()
    for number in range(100):
        causes.changed(Cause("row", f"m{number}", f"c{number}", f"s{number}"), "a", NOW, NOW + 1)
    assert len(causes._lines) == 10


# -- one client that is always refused, and all the others

codes = st.sampled_from(
    [*ENDPOINT_CODES, *LIMIT_CODES, "deactivated_workspace", "workspace_x", "token_revoked", "x", "", "slow_down"]
)
saids = st.builds(
    BackendAnswer,
    status=st.sampled_from([0, 400, 401, 402, 403, 404, 409, 429, 500, 502, 503]),
    values=st.sampled_from([{}, {b"retry-after": b"3600"}, {b"retry-after": b"1"}]),
    code=codes,
    message=st.sampled_from(["", "Missing scopes: x", unsupported(EXOTIC), unsupported("m")]),
    error=st.sampled_from([{}, LIMIT, {"resets_in_seconds": 60}]),
    html=st.booleans(),
)


class Others(RuleBasedStateMachine):
    """A client whose requests are always refused, by every identity; no other client may notice.

    It may ask any endpoint and any model but that of the others, over HTTP and on sockets, with or without a session.
    """

    @initialize(count=st.integers(3, 6), session=st.sampled_from(["stuck", None]))
    def begin(self, count: int, session: str | None) -> None:
        self.session = session
        self.scene = Scene(ready_pool(*"abcdef"[:count]))

    @rule(
        path=st.sampled_from([RESPONSES, COMPACT, IMAGES, MODELS, "/backend-api/codex/images/x"]),
        model=st.sampled_from([EXOTIC, "gpt-other", ""]),
        said=saids,
        times=st.integers(1, 4),
    )
    def is_refused(self, path: str, model: str, said: BackendAnswer, times: int) -> None:
        for _ in range(times):
            self.scene.request(Asked(self.session, path, model=model), said)

    @rule(said=saids)
    def is_refused_on_a_socket(self, said: BackendAnswer) -> None:
        scene, asked = self.scene, Asked(self.session, RESPONSES)
        for _ in range(5):
            identity = scene.pool.choose(asked, scene.now)
            if identity is None:
                return
            scene.judged(identity, asked, said, EXOTIC)
            if scene.pool.is_able(identity.name, identity.fingerprint, asked, scene.now):
                if not scene.pool.leaves(identity.name, asked, scene.now):
                    return
                # a client that connects again gets another identity
                assert scene.pool.choose(asked, scene.now) is not identity

    @rule(seconds=st.sampled_from([0.1, 5, 61, 1000, LASTS + 1]))
    def time_goes_by(self, seconds: float) -> None:
        self.scene.now += seconds

    @rule()
    def whoami_is_heard(self) -> None:
        self.scene.heal()

    @rule(
        session=st.sampled_from(["one", "two", None]),
        path=st.sampled_from([RESPONSES, COMPACT, MODELS, IMAGES]),
        model=st.sampled_from(["m", "gpt-5"]),
    )
    def others_are_served(self, session: str | None, path: str, model: str) -> None:
        scene, asked = self.scene, Asked(session, path, model=model)
        assert scene.pool.can_serve(asked, scene.now), statuses(scene.pool)
        step = next(attempts(scene.pool, asked, lambda: scene.now, lambda: scene.now))
        assert isinstance(step, Try | Pause), step  # (A pause is the content network's.)
        if isinstance(step, Try):
            scene.pool.succeeded(step.identity.name, scene.now, True)
            vouched = scene.pool.identities[step.identity.name].status
            assert vouched is Status.READY

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            self.others_are_served(None, RESPONSES, "m")


TestOthers = Others.TestCase
TestOthers.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_an_own_limit_and_an_own_pause_keep_their_times() -> None:
    """A limit that is the request's own is reported as a limit, and a short pause stays short."""
    limited, asked = Scene(ready_pool(*"abcd")), Asked("s", RESPONSES, model=EXOTIC)
    limited.request(asked, BackendAnswer(429, code="usage_limit_reached", error={"resets_in_seconds": 600}))
    why = no_identity(limited.pool, asked, limited.now)
    assert (why.is_limit, why.returns_at) == (True, limited.now + 600)
    assert "d: limited for the model gpt-exotic until" in why.message

    throttled = Scene(ready_pool(*"abcd"))
    outcome, _ = throttled.request(asked, BackendAnswer(429))
    until = no_identity(throttled.pool, asked, throttled.now).returns_at
    assert isinstance(outcome, NobodyServes)
    assert until is None or until - throttled.now <= LONGEST_REST


def test_an_own_limit_that_ends_meanwhile_is_over_soon() -> None:
    limited, asked = Scene(ready_pool(*"abcd")), Asked("s", RESPONSES, model=EXOTIC)
    ended = {"resets_at": limited.now - 0.1, "resets_in_seconds": 0}
    limited.request(asked, BackendAnswer(429, code="usage_limit_reached", error=ended))

    assert (why := no_identity(limited.pool, asked, limited.now)).is_limit
    assert why.returns_at == limited.now + ENDED_LIMIT


def test_a_failure_in_a_stream_says_what_a_refusal_says() -> None:
    words = unsupported(EXOTIC)
    for error, status in (
        ({"code": "usage_limit_reached"}, 429),
        ({"code": "rate_limit_exceeded"}, 429),
        ({"type": "invalid_request_error", "message": words}, 400),
    ):
        said = of_failure(error)
        assert said is not None
        assert said.status == status
    assert of_failure({"code": "context_length_exceeded", "message": "too long"}) is None


@pytest.mark.parametrize(
    ("status", "counts"), [(400, True), (599, True), (399, False), (600, False), (10**400, False)]
)
def test_a_stream_event_counts_only_with_a_valid_status(status: int, counts: bool) -> None:
    said = of_event({"type": "error", "status": status, "error": {"code": "x"}})

    assert (said is not None) is counts
