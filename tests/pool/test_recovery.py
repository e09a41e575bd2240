"""What becomes of a request: one by one, and all together in a world that a state machine makes up."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codexpool.pool.confirmation import LASTS
from codexpool.pool.identity import Asked, Condition, Evidence, Identity, IdentityKey, Kind, Status, Word
from codexpool.pool.patience import FORGOTTEN_AFTER, LEAST_PATIENCE, PATIENCE
from codexpool.pool.pool import Pool
from codexpool.pool.recovery import (
    MOST_TRIES,
    Look,
    NobodyServes,
    Outcome,
    Pause,
    Relay,
    Step,
    Steps,
    Try,
    Wait,
    attempts,
)
from codexpool.pool.selection import Selection
from codexpool.pool.states import CONDEMNED, LONGEST_REST, SHORT_REST
from codexpool.pool.usage import MAIN, UNKNOWN_LIMIT, Limit
from codexpool.pool.verdict import Answer, Finding, Verdict, classify
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from tests.pool.pools import (
    MODELS,
    NOW,
    RESPONSES,
    Changes,
    asked,
    bound,
    condemn,
    metadata,
    not_for_endpoint,
    pool_of,
    ready_pool,
    refusal,
    serving,
    statuses,
    unverified,
    vouch,
)

GOOD = classify(Answer(200))
REFUSED = classify(Answer(401, code="token_revoked"))
STALE = classify(Answer(401, current=False))
EDGE = classify(Answer(401, from_edge=True))
NOT_FOR_PATS = classify(Answer(401, code="no_matching_rule"))


class Request:
    """One request, driven by hand through its attempts. ``at`` is its clock."""

    def __init__(self, pool: Pool, session: str | None = None, path: str = RESPONSES) -> None:
        self.pool, self.at = pool, NOW
        self._sent_at = NOW
        self._steps = attempts(pool, Asked(session, path), lambda: self.at, lambda: self.at)
        self.outcome: Outcome | None = None
        self.step = self._next(None)

    def answered(self, verdict: Verdict) -> Request:
        """The answer of the present attempt has come; the pool learns what the addon would tell it."""
        identity = self.identity
        if verdict.finding is Finding.REFUSED:
            self.pool.states.refused(identity.name, refusal(identity, self.at), self._sent_at)
        self.step = self._next(verdict)
        return self

    def waited(self, seconds: float) -> Request:
        assert isinstance(self.step, Wait)
        self.at += seconds
        self.step = self._next(None)
        return self

    @property
    def identity(self) -> Identity:
        assert isinstance(self.step, Try)
        return self.step.identity

    def _next(self, verdict: Verdict | None) -> Step | None:
        try:
            step = self._steps.send(verdict)
        except StopIteration as end:
            self.outcome = end.value
            return None
        self._sent_at = self.at
        return step


def test_good_answer_is_relayed_after_one_attempt() -> None:
    request = Request(ready_pool("a", "b"))

    assert request.answered(GOOD).outcome == Relay()


def test_a_refused_request_does_not_wait_for_whoami() -> None:
    """It goes out under the next identity."""
    pool = ready_pool("a", "b")
    request = Request(pool, "s")

    request.answered(REFUSED)

    assert request.identity.name == "b"
    assert statuses(pool) == {"a": Status.SUSPECT, "b": Status.READY}
    assert bound(pool, "s") == metadata("b").key
    assert request.answered(GOOD).outcome == Relay()


def test_each_identity_is_tried_before_one_is_tried_again() -> None:
    pool = ready_pool("a", "b", "c")
    request, tried = Request(pool), []

    while isinstance(request.step, Try):
        tried.append(request.identity.name)
        request.answered(EDGE)

    assert tried == ["a", "b", "c", "a"]  # and once more, since such a page is no word on anybody
    assert request.outcome == NobodyServes()


def test_a_healthy_identity_waits_until_others_were_tried() -> None:
    """It was refused, and whoami found its token healthy."""
    pool = ready_pool("a", "b", "c")
    request = Request(pool).answered(REFUSED)
    vouch(pool, "a", NOW)
    request.at += SHORT_REST

    request.answered(REFUSED)
    second = request.identity.name
    request.answered(REFUSED)

    assert (second, request.identity.name) == ("c", "a")


def test_the_only_identity_is_retried_once_vouched_for() -> None:
    pool = ready_pool("a")
    request = Request(pool).answered(REFUSED)
    vouch(pool, "a", NOW)

    request.waited(0.5)
    still_resting = request.step
    request.waited(SHORT_REST)

    assert isinstance(still_resting, Wait)
    assert request.identity.name == "a"
    assert request.answered(GOOD).outcome == Relay()


def test_identity_that_refuses_again_is_not_tried_a_third_time() -> None:
    pool = ready_pool("a")
    request = Request(pool).answered(REFUSED)
    vouch(pool, "a", NOW)
    request.waited(SHORT_REST)

    request.answered(REFUSED)

    assert request.outcome == NobodyServes()


def test_a_request_ends_once_whoami_confirms_none_is_left() -> None:
    pool = ready_pool("a")
    request = Request(pool).answered(REFUSED)

    condemn(pool, "a", NOW + 1)

    assert request.waited(0.1).outcome == NobodyServes()


def test_a_request_does_not_wait_for_a_person() -> None:
    pool = ready_pool("a", "b")
    for name in "ab":
        condemn(pool, name, NOW)

    assert Request(pool).outcome == NobodyServes()


def test_a_request_does_not_wait_for_an_excluded_identity() -> None:
    """It could not serve this endpoint anyway."""
    pool = pool_of(unverified("a"), unverified("b"))
    for name in "ab":
        not_for_endpoint(pool, name, RESPONSES)

    assert Request(pool).outcome == NobodyServes()
    assert isinstance(Request(pool, path=MODELS).step, Wait)


def test_request_waits_for_an_identity_that_is_being_verified() -> None:
    pool = pool_of(unverified("a"))
    request = Request(pool)

    vouch(pool, "a", NOW + 1)

    assert isinstance(request.step, Wait)
    assert request.waited(1).identity.name == "a"


def test_all_waiting_of_a_request_stays_within_its_patience() -> None:
    request, waited = Request(pool_of(unverified("a"))), 0.0

    while isinstance(request.step, Wait):
        assert request.step.seconds <= PATIENCE - waited
        waited += 3
        request.waited(3)

    assert request.outcome == NobodyServes()


def test_a_wait_in_vain_is_not_repeated() -> None:
    # given a client that asks one thing after the other, while nobody can be verified
    pool, at = pool_of(unverified("a")), [NOW]

    def waits() -> float:
        steps = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: at[0])
        begun = at[0]
        with contextlib.suppress(StopIteration):
            step: object = next(steps)
            while isinstance(step, Wait):
                at[0] += step.seconds
                step = steps.send(None)
        return at[0] - begun

    waited = [waits() for _ in range(4)]

    assert waited == [PATIENCE, *[LEAST_PATIENCE] * 3]
    # whoever comes some time later is another client
    at[0] += FORGOTTEN_AFTER + 0.1
    assert waits() == PATIENCE
    # and once it was ready, it is worth waiting for again
    vouch(pool, "a", NOW + 1)
    pool.states.condition_learned("a", pool.identities["a"].fingerprint, Condition(Status.SUSPECT, NOW + 2))
    assert waits() == PATIENCE


def test_a_client_that_gives_up_has_waited_all_the_same() -> None:
    pool, at = pool_of(unverified("a")), [NOW]
    first = attempts(pool, Asked("s", RESPONSES), lambda: NOW, lambda: at[0])
    assert next(first) == Wait(PATIENCE)
    at[0] += PATIENCE - 2

    assert next(attempts(pool, Asked("t", RESPONSES), lambda: NOW, lambda: at[0])) == Wait(2.0)


def test_rest_that_is_longer_than_the_patience_is_not_waited_for() -> None:
    pool = ready_pool("a")
    pool.identities["a"].rests = 10
    request = Request(pool).answered(REFUSED)
    vouch(pool, "a", NOW)

    request.waited(0.1)

    assert request.outcome == NobodyServes()


def test_slow_attempt_uses_up_no_patience() -> None:
    pool = ready_pool("a")
    request = Request(pool)

    request.at += 10 * PATIENCE
    request.answered(REFUSED)

    assert request.step == Wait(PATIENCE)


def test_clock_that_is_set_back_does_not_prolong_the_waiting() -> None:
    request = Request(pool_of(unverified("a")))

    request.waited(-3600)

    assert request.step == Wait(PATIENCE)
    assert request.waited(PATIENCE).outcome == NobodyServes()


def test_a_replaced_token_is_tried_under_the_same_identity() -> None:
    pool = ready_pool("a", "b", selection=Selection.ROUND_ROBIN)
    request = Request(pool, "s")
    mine = request.identity.name
    names = list(pool.identities)
    pool.replace_identities([unverified(name, f"at-test-newer-{name}") for name in names], Selection.ROUND_ROBIN, NOW)
    for name in names:
        vouch(pool, name, NOW)

    request.answered(STALE)

    assert request.identity.name == mine
    assert request.identity.fingerprint == unverified(mine, f"at-test-newer-{mine}").fingerprint


def test_token_that_comes_back_is_not_tried_more_often_for_it() -> None:
    pool = ready_pool("a")
    request, tried = Request(pool), []
    one, other = unverified("a"), unverified("a", "at-test-other")

    for next_one in (other, one) * 3:
        if isinstance(request.step, Try):
            tried.append(request.identity.fingerprint)
            pool.replace_identities([replace(next_one)], Selection.DRAIN_FIRST, NOW)
            vouch(pool, "a", NOW + 1)
            request.answered(STALE)

    assert max(tried.count(one.fingerprint), tried.count(other.fingerprint)) <= MOST_TRIES
    assert request.outcome == NobodyServes()


def test_an_identity_removed_during_a_request_is_skipped() -> None:
    pool = ready_pool("a", "b")
    request = Request(pool)

    pool.replace_identities([unverified("b")], Selection.DRAIN_FIRST, NOW)
    request.answered(REFUSED)

    assert request.identity.name == "b"
    assert statuses(pool) == {"b": Status.READY}


def test_an_excluded_endpoint_moves_the_request_only() -> None:
    """No identity is blamed."""
    pool = pool_of(unverified("pat"), unverified("pat2"), unverified("oauth", kind=Kind.OAUTH))
    for name in list(pool.identities):
        vouch(pool, name, NOW)
    request = Request(pool)

    not_for_endpoint(pool, "pat", RESPONSES)
    request.answered(NOT_FOR_PATS)

    assert request.identity.name == "pat2"
    assert set(statuses(pool).values()) == {Status.READY}


def test_twenty_refused_at_once_need_one_confirmation() -> None:
    """All are served after it."""
    changes = Changes()
    pool = ready_pool("a", changes=changes)
    requests = [Request(pool, f"s{n}") for n in range(20)]

    for request in requests:
        request.answered(REFUSED)
    vouch(pool, "a", NOW)
    for request in requests:
        request.waited(SHORT_REST).answered(GOOD)

    assert changes == [("a", Status.SUSPECT), ("a", Status.RESTING), ("a", Status.READY)]
    assert [request.outcome for request in requests] == [Relay()] * 20


# -- everything at once


@dataclass
class Token:
    """The truth about a token, which the pool can only find out."""

    text: str
    owner: str
    whoami_finds_it: Word = Word.HEALTHY
    endpoint_takes_it: bool = True


@dataclass
class Asking:
    """A whoami under way. Its word is that of the moment it was asked."""

    identity: Identity
    word: Word
    evidence: Evidence
    owner: str


@dataclass
class Sent:
    """A request under way, and what is known about it from outside."""

    session: str | None
    path: str
    steps: Steps
    step: Step | None = None
    fingerprint: str = ""
    """Of the token that the present attempt went out with."""
    sent_at: float = 0.0
    tries: list[str] = field(default_factory=list)
    waited: float = 0.0
    lighter: bool = False
    outcome: Outcome | None = None


NAMES = ("a", "b", "c", "d")
OWNERS = {"a": "ann", "b": "ben", "c": "cem", "d": "ann"}  # d is of the same account and user as a
SESSIONS = ("s1", "s2", None)
STRANGE = ("edge", "not for PATs", "overloaded", "in trouble", "limited", "throttled", "not portable")
MOODS = ("fair", "fair", "fair", "fair", *STRANGE)
ONCE_MORE = 2
"""A request goes out once more after trouble of the backend's own, and once without its encrypted reasoning."""


class World(RuleBasedStateMachine):
    """Identities whose tokens live, die or are refused by mistake; requests, whoami's words and reloads in any order.

    Each rule may find nothing to do; what must always hold is in the invariants, what must hold in the end in
    `teardown`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.latest = NOW
        self.timer = 0.0
        self.pool = Pool()
        self.tokens: dict[str, Token] = {}
        self.generation = dict.fromkeys(NAMES, 0)
        self.requests: list[Sent] = []
        self.askings: list[Asking] = []
        self.condemned: set[str] = set()
        """Fingerprints of tokens that whoami has refused, and the pool was told."""

    @initialize(names=st.permutations(NAMES), count=st.integers(1, len(NAMES)), selection=st.sampled_from(Selection))
    def begin(self, names: list[str], count: int, selection: Selection) -> None:
        self._load(names[:count], selection)
        for name in names[:count]:
            self._ask(name)
        for asking in list(self.askings):
            self._hear(asking)

    # -- the file

    @rule(names=st.permutations(NAMES), count=st.integers(0, len(NAMES)), selection=st.sampled_from(Selection))
    def reload(self, names: list[str], count: int, selection: Selection) -> None:
        self._load(names[:count], selection)

    @rule(name=st.sampled_from(NAMES))
    def replace_token(self, name: str) -> None:
        self.generation[name] += 1
        self._load(list(self.pool.identities), self.pool.selection)

    @rule(name=st.sampled_from(NAMES))
    def put_an_older_token_back(self, name: str) -> None:
        self.generation[name] = max(0, self.generation[name] - 1)
        self._load(list(self.pool.identities), self.pool.selection)

    # -- the truth

    @rule(name=st.sampled_from(NAMES))
    def token_dies(self, name: str) -> None:
        if identity := self.pool.identities.get(name):
            token = self.tokens[identity.fingerprint]
            token.whoami_finds_it, token.endpoint_takes_it = Word.REFUSED, False

    @rule(name=st.sampled_from(NAMES), taken=st.booleans())
    def endpoint_is_confused_about_a_token_or_comes_to_its_senses(self, name: str, taken: bool) -> None:
        if identity := self.pool.identities.get(name):
            token = self.tokens[identity.fingerprint]
            token.endpoint_takes_it = taken and token.whoami_finds_it is Word.HEALTHY

    # -- time

    @rule(seconds=st.sampled_from([0.01, 0.5, 2, 5, 11, 70, 4000]))
    def time_goes_by(self, seconds: float) -> None:
        self._spend(seconds)

    @rule(seconds=st.sampled_from([0.5, 30, 3600]))
    def clock_is_set_back(self, seconds: float) -> None:
        self.now -= seconds

    # -- requests

    @rule(session=st.sampled_from(SESSIONS), path=st.sampled_from([RESPONSES, MODELS]))
    def request_comes(self, session: str | None, path: str) -> None:
        expected = self._own(session, path)
        request = Sent(session, path, attempts(self.pool, Asked(session, path), lambda: self.now, lambda: self.timer))
        self.requests.append(request)

        self._go_on(request, None)

        if expected is not None:
            assert isinstance(request.step, Try)
            assert request.step.identity is expected

    @precondition(lambda self: any(isinstance(request.step, Try) for request in self.requests))
    @rule(data=st.data(), mood=st.sampled_from(MOODS))
    def answer_comes(self, data: st.DataObject, mood: str) -> None:
        trying = [request for request in self.requests if isinstance(request.step, Try)]
        self._answer(data.draw(st.sampled_from(trying)), mood)

    @precondition(lambda self: any(isinstance(request.step, Wait | Pause | Look) for request in self.requests))
    @rule(data=st.data(), share=st.floats(0, 1))
    def waiting_ends(self, data: st.DataObject, share: float) -> None:
        waiting = [request for request in self.requests if isinstance(request.step, Wait | Pause | Look)]
        self._wait(data.draw(st.sampled_from(waiting)), share)

    # -- whoami

    @rule(name=st.sampled_from(NAMES), is_open=st.booleans())
    def usage_is_read(self, name: str, is_open: bool) -> None:
        identity = self.pool.identities.get(name)
        if identity is not None and identity.metadata is not None:
            self._read(identity, is_open)

    @rule(name=st.sampled_from(NAMES), reachable=st.booleans())
    def whoami_is_asked(self, name: str, reachable: bool) -> None:
        self._ask(name, reachable)

    @precondition(lambda self: self.askings)
    @rule(data=st.data())
    def whoami_answers(self, data: st.DataObject) -> None:
        self._hear(data.draw(st.sampled_from(self.askings)))

    # -- what must always hold

    @invariant()
    def no_healthy_token_is_condemned(self) -> None:
        for identity in self.pool.identities.values():
            if identity.status is Status.NEEDS_REPLACEMENT:
                assert self.tokens[identity.fingerprint].whoami_finds_it is Word.REFUSED
            assert identity.status not in (Status.NEEDS_LOGIN, Status.CONFLICT)

    @invariant()
    def nobody_whom_whoami_refused_serves(self) -> None:
        for identity in serving(self.pool, MODELS, self.now):
            assert identity.fingerprint not in self.condemned

    @invariant()
    def one_token_of_a_user_serves_and_it_is_the_first_that_is_known_and_not_dead(self) -> None:
        known = [identity for identity in self.pool.identities.values() if identity.metadata is not None]
        known.sort(key=lambda identity: identity.status in CONDEMNED)
        first: dict[IdentityKey, Identity] = {}
        for identity in known:
            assert identity.metadata is not None
            first.setdefault(identity.metadata.key, identity)
        for identity in serving(self.pool, MODELS, self.now):
            assert identity in first.values()
        for identity in first.values():
            assert identity.status is not Status.PAUSED

    @invariant()
    def patience_has_an_end(self) -> None:
        for request in self.requests:
            if isinstance(request.step, Wait):
                assert 0 < request.step.seconds <= PATIENCE
                assert request.waited <= PATIENCE + 1e-6

    @invariant()
    def no_token_is_tried_too_often(self) -> None:
        for request in self.requests:
            for fingerprint in request.tries:
                assert request.tries.count(fingerprint) <= MOST_TRIES + ONCE_MORE

    # -- what must hold in the end

    def teardown(self) -> None:
        self._end_all_requests()
        self.now = self.latest + 1
        self._settle()
        for _ in self.pool.identities:  # one that is found dead may make room for its twin
            for identity in serving(self.pool, MODELS, self.now):
                assert identity.metadata is not None
                self.pool.sessions.bind("last", identity.metadata.key)
                self.request_comes("last", MODELS)
                self._end_all_requests()
            self._settle()
        able = serving(self.pool, MODELS, self.now)
        for identity in self.pool.identities.values():
            token = self.tokens[identity.fingerprint]
            if identity.twin_of is not None and identity.status is Status.PAUSED:
                continue
            if token.whoami_finds_it is Word.REFUSED:
                assert identity.status is Status.NEEDS_REPLACEMENT
            else:
                assert identity in able

    def _settle(self) -> None:
        """Whoami is asked about whoever is in doubt, and every rest and limit is over."""
        for _ in range(int(LASTS // 60) + 2):  # until whoami's word is final, whoever it is on
            for asking in list(self.askings):
                self._hear(asking)
            self._spend(60)
            for identity in self.pool.identities.values():
                if identity.status in (Status.UNVERIFIED, Status.SUSPECT):
                    self._ask(identity.name)
        self._spend(max(LONGEST_REST, UNKNOWN_LIMIT))

    def _end_all_requests(self) -> None:
        for request in self.requests:
            for _ in range(100):
                if request.step is None:
                    break
                if isinstance(request.step, Try):
                    self._answer(request, "fair")
                else:
                    self._wait(request, 1)
            assert isinstance(request.outcome, Relay | NobodyServes)

    # -- how it is done

    def _spend(self, seconds: float) -> None:
        self.now += seconds
        self.timer += seconds
        self.latest = max(self.latest, self.now)

    def _load(self, names: list[str], selection: Selection) -> None:
        identities = []
        for name in names:
            text = f"at-test-{name}-{self.generation[name]}"
            identity = unverified(name, text, at=self.now)
            self.tokens.setdefault(identity.fingerprint, Token(text, OWNERS[name]))
            identities.append(identity)
        self.pool.replace_identities(identities, selection, self.now)

    def _ask(self, name: str, reachable: bool = True) -> None:
        identity = self.pool.identities.get(name)
        if identity is None or any(a.evidence.fingerprint == identity.fingerprint for a in self.askings):
            return
        token = self.tokens[identity.fingerprint]
        word = token.whoami_finds_it if reachable else Word.UNREACHABLE
        self.askings.append(Asking(identity, word, asked(identity, self.now), token.owner))

    def _hear(self, asking: Asking) -> None:
        self.askings.remove(asking)
        found = metadata(asking.owner) if asking.word is Word.HEALTHY else None
        self.pool.states.whoami_said(asking.identity.name, asking.word, asking.evidence, found)
        if asking.word is Word.REFUSED:
            present = self.pool.identities.get(asking.identity.name)
            if present is not None and present.fingerprint == asking.evidence.fingerprint:
                if present.status is Status.NEEDS_REPLACEMENT:
                    self.condemned.add(present.fingerprint)
                assert present.status is not Status.SUSPECT  # a request was refused as well: it is final

    def _own(self, session: str | None, path: str) -> Identity | None:
        """The identity a session is served by at present, if that can go on serving it."""
        able = serving(self.pool, path, self.now)
        key = bound(self.pool, session) if session is not None else None
        return next((i for i in able if i.metadata is not None and i.metadata.key == key), None)

    def _answer(self, request: Sent, mood: str) -> None:
        assert isinstance(request.step, Try)
        name = request.step.identity.name
        present = self.pool.identities.get(name)
        current = present is None or present.fingerprint == request.fingerprint
        answer = Answer(401, current, code="token_revoked")
        if self.tokens[request.fingerprint].endpoint_takes_it:
            answer = {
                "fair": Answer(200, current),
                "edge": Answer(401, current, from_edge=True),
                "not for PATs": Answer(401, current, code="no_matching_rule"),
                "overloaded": Answer(503, current, code="server_is_overloaded"),
                "in trouble": Answer(503, current, repeatable=True),
                "limited": Answer(429, current, code="usage_limit_reached"),
                "throttled": Answer(429, current),
                "not portable": Answer(400, current, code="invalid_encrypted_content", lightens=not request.lighter),
            }[mood]
        verdict = classify(answer)
        self._learn(request, name, verdict)
        self._go_on(request, verdict)

    def _learn(self, request: Sent, name: str, verdict: Verdict) -> None:
        match verdict.finding:
            case Finding.OK:
                self.pool.succeeded(name, request.sent_at, True)
            case Finding.LIMITED:
                limit = Limit(resets_in=30.0)
                self.pool.states.limited(name, metadata(OWNERS[name]).key, limit, self._evidence(request, 429))
            case Finding.THROTTLED:
                self.pool.states.throttled(name, self._evidence(request, 429), None)
            case Finding.UPSTREAM:
                self.pool.troubled(name, self.now)
            case Finding.NOT_FOR_THIS_CREDENTIAL if request.path != MODELS:
                not_for_endpoint(self.pool, name, request.path, self.now)
            case Finding.REFUSED:
                before = self.pool.identities.get(name)
                status = before.status if before is not None else None
                self.pool.states.refused(name, self._evidence(request, 401), request.sent_at)
                if before is not None and request.sent_at < before.vouched_at <= self.now:
                    assert before.status is status

    def _evidence(self, request: Sent, status: int) -> Evidence:
        return Evidence(self.now, "POST", request.path, status, fingerprint=request.fingerprint)

    def _wait(self, request: Sent, share: float) -> None:
        assert isinstance(request.step, Wait | Pause | Look)
        if isinstance(request.step, Look):
            assert request.step.identities
            for identity in request.step.identities:
                self._read(identity, is_open=share < 0.5)
        seconds = request.step.seconds * share
        self._spend(seconds)
        request.waited += seconds
        self._go_on(request, None)

    def _read(self, identity: Identity, is_open: bool) -> None:
        """Wham/usage has been asked about an identity, and says whether it may be used."""
        assert identity.metadata is not None
        usage, before = self.pool.states.usage(identity.metadata.key), identity.status
        usage.asked_at = usage.answered_at = self.now
        report = UsageReport((FamilyReport(MAIN, (), is_open),))
        self.pool.usage_read(identity.metadata.key, report, self.now, self.now)
        if before not in (Status.READY, Status.LIMITED, Status.RESTING):
            assert identity.status is before

    def _go_on(self, request: Sent, verdict: Verdict | None) -> None:
        try:
            request.step = request.steps.send(verdict)
        except StopIteration as end:
            request.step, request.outcome = None, end.value
            return
        if isinstance(request.step, Try):
            identity = request.step.identity
            assert self.pool.identities[identity.name] is identity
            assert identity.status is Status.READY
            assert identity.metadata is not None
            assert self.pool.is_for(identity, Asked(None, request.path), self.now)
            if request.session is not None and request.path == MODELS and not request.tries:
                assert bound(self.pool, request.session) == identity.metadata.key
            request.fingerprint, request.sent_at = identity.fingerprint, self.now
            request.tries.append(identity.fingerprint)
            request.lighter = request.step.lighter


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
