"""An agent identity: one task, kept and signed for; nothing but the backend's own word ends it."""

from __future__ import annotations

import asyncio
import base64
import calendar
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from codexpool.common.clock_skew import Clock
from codexpool.common.private_files import UnusableError
from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, agent_api, auth_json
from codexpool.credentials.agent import Agent
from codexpool.credentials.agent_api import AgentApi, keys_in, task_of
from codexpool.credentials.agent_identity import AgentIdentity, is_agent_jwt, of_jwt, of_record
from codexpool.credentials.http_client import Route
from codexpool.pool.identity import Metadata, Word
from codexpool.pool.verdict import DEAD_TOKEN_CODES
from codexpool.redaction import describe_secret, find_secrets, redact_tokens
from codexpool.tokens.agent_key import AgentKey, AgentTask
from tests.running import pat
from tests.standin import CLOUDFLARE_PAGE, Answer, StandIn, error_body
from tests.standin.agents import JWKS, KID, jwk, make, signed
from tests.standin.agents import Agent as Theirs

NEW_YEAR = float(calendar.timegm((2026, 1, 1, 0, 0, 0)))
SEED = base64.b64encode(bytes.fromhex("302e020100300506032b657004220420") + bytes([7]) * 32).decode()


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield standin
    assert standin.refusals == []
    assert standin.leaks == []


@pytest.fixture
def theirs(standin: StandIn) -> Theirs:
    return standin.agent(pat("bot"))


def api(standin: StandIn, folder: Path, clock: Clock | None = None) -> AgentApi:
    route = Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file))
    return AgentApi(route, {}, clock or Clock(), lambda: folder / "agents")


def credential(standin: StandIn, folder: Path, theirs: Theirs) -> Agent:
    return Agent(of_jwt(theirs.jwt()), api(standin, folder))


def identity(expires_at: float | None = None) -> AgentIdentity:
    return AgentIdentity(AgentKey.of("agent-123", SEED), Metadata("acc", "user", ""), expires_at=expires_at)


def registrations(standin: StandIn) -> list[Any]:
    return [seen for seen in standin.seen if seen.path.endswith("/task/register")]


# -- the key


def test_what_an_agent_signs_is_what_codex_signs() -> None:
    """The key is that of openai/codex's own tests; its signatures were checked against theirs."""
    key = AgentKey.of("agent-123", SEED)

    authorization, secrets = key.assertion("task-123", NEW_YEAR)

    signature = "WCu9HffZ7sv+s6cbW/G6Xi/jZWDlxUZOIvrnKyMAO8ivSxMfwJze/Og4meeCba+k6gqpPLA8Cqjm1RYxAlPnAg=="
    scheme, _, assertion = authorization.partition(" ")
    assert (scheme, secrets) == ("AgentAssertion", (assertion, signature))
    assert "=" not in assertion
    assert (
        base64.urlsafe_b64decode(assertion + "==")
        == json.dumps(
            {
                "agent_runtime_id": "agent-123",
                "signature": signature,
                "task_id": "task-123",
                "timestamp": "2026-01-01T00:00:00Z",
            },
            separators=(",", ":"),
        ).encode()
    )
    assert key.registration(NEW_YEAR) == {
        "timestamp": "2026-01-01T00:00:00Z",
        "signature": "Flknh7SWLL/jUyVKZQjttm200nc5G+vsgozrIQ99ZZaBu0g9PEVxafDZXp+4i+BufsLPHiogzE/Gl77j1alHBA==",
    }


def test_neither_key_nor_task_shows_a_secret() -> None:
    key = AgentKey.of("agent-123", SEED)
    task = AgentTask.of_key(key, "task-123", Clock())

    assert SEED not in f"{key!r} {task!r} {task} {identity()!r}"
    for secret in (SEED, make(pat("bot")).token.token):
        [found] = find_secrets(f"a key: {secret}")
        assert (found.text, redact_tokens(f"key={secret}").count("sha256:")) == (secret, 1)
        assert describe_secret(secret).startswith("private key ")


def test_another_task_is_another_fingerprint_of_the_same_key() -> None:
    key = AgentKey.of("agent-123", SEED)
    one, other = (AgentTask.of_key(key, task, Clock()) for task in ("task-1", "task-2"))
    assert one.fingerprint != other.fingerprint
    assert one == AgentTask.of_key(AgentKey.of("agent-123", SEED), "task-1", Clock())
    assert key.fingerprint != AgentKey.of("agent-124", SEED).fingerprint


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()), st.text())
def test_a_key_that_is_none_is_refused_without_quoting_it(text: str, runtime: str) -> None:
    with pytest.raises(ValueError, match=r"^(its agent_|is )") as refused:
        AgentKey.of(runtime, text)
    assert len(text) < 6 or text not in str(refused.value)


# -- the credential


def test_a_jwt_and_a_record_name_the_same_owner() -> None:
    theirs = make(pat("bot", fedramp=True))
    owner = Metadata("acc-bot", "user-bot", "business", fedramp=True)

    from_jwt = of_jwt(theirs.jwt(lifetime=3600))
    from_file = auth_json.parse(json.dumps(theirs.auth_json()))
    wrapped = auth_json.parse(json.dumps(theirs.auth_json(as_jwt=True)))

    assert isinstance(from_file, AgentIdentity)
    assert isinstance(wrapped, AgentIdentity)
    assert from_jwt.metadata == from_file.metadata == wrapped.metadata == owner
    assert from_jwt.key == from_file.key == wrapped.key
    assert from_jwt.expires_at == pytest.approx(time.time() + 3600, abs=5)
    assert (from_file.jwt, from_file.expires_at) == ("", None)


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({"alg": "none"}, {}),
        ({"kid": None}, {}),
        ({}, {"iss": "https://elsewhere"}),
        ({}, {"aud": ["other"]}),
        ({}, {"exp": True}),
        ({}, {"exp": float("nan")}),
        ({}, {"account_id": ""}),
        ({}, {"account_id": "a\r\nb"}),
        ({}, {"chatgpt_user_id": 7}),
        ({}, {"chatgpt_account_is_fedramp": "yes"}),
        ({}, {"agent_private_key": "AAAA"}),
        ({}, {"agent_runtime_id": "a b"}),
    ],
)
def test_a_jwt_that_codex_would_not_take_is_refused(header: dict[str, Any], claims: dict[str, Any]) -> None:
    good = {"iss": agent_identity_iss(), "aud": "codex-app-server", "exp": 2e9, **make(pat("bot")).claims}
    jwt = signed({"alg": "RS256", "kid": KID, **header}, {**good, **claims})

    with pytest.raises(UnusableError, match="is not the JWT of an agent identity") as refused:
        of_jwt(jwt)
    assert jwt not in f"{refused.value} {refused.value.remedy}"


def agent_identity_iss() -> str:
    return "https://chatgpt.com/codex-backend/agent-identity"


@given(st.recursive(st.none() | st.booleans() | st.text() | st.integers(), lambda inner: st.lists(inner)) | st.text())
def test_whatever_a_file_has_in_its_place_is_an_error_in_words(value: object) -> None:
    with pytest.raises(UnusableError):
        of_record(value)


def test_a_jwt_of_a_login_is_no_agent() -> None:
    assert not is_agent_jwt(signed({"alg": "RS256"}, {"sub": "someone"}))
    assert not is_agent_jwt("at-test-of-the-pool")
    assert is_agent_jwt(make(pat("bot")).jwt())


# -- its task


async def test_a_task_is_registered_once_and_kept(standin: StandIn, theirs: Theirs, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = credential(standin, folder, theirs)
    assert first.bearer() is None

    renewal = await first.renewed(None, refused=False)
    again = await first.renewed(None, refused=False)
    restarted = credential(standin, folder, theirs)

    assert renewal is not None
    assert again is not None
    assert renewal.bearer == again.bearer == first.bearer() == restarted.bearer()
    assert theirs.registered == 1
    [kept] = (folder / "agents").glob("*.json")
    assert json.loads(kept.read_text()) == {"task_id": f"task-{theirs.runtime_id}-1"}
    assert [path.stat().st_mode & 0o077 for path in (kept, kept.parent, kept.parent.parent)] == [0, 0, 0]


async def test_a_sealed_task_is_opened(standin: StandIn, tmp_path: Path) -> None:
    theirs = standin.agent(pat("bot"), sealed=True)
    renewal = await credential(standin, tmp_path, theirs).renewed(None, refused=False)
    assert renewal is not None
    assert isinstance(renewal.bearer, AgentTask)
    assert renewal.bearer.task_id in theirs.tasks


async def test_of_many_processes_one_registers(standin: StandIn, theirs: Theirs, tmp_path: Path) -> None:
    several = [credential(standin, tmp_path, theirs) for _ in range(5)]
    first = await asyncio.gather(*(one.renewed(None, refused=False) for one in several))
    second = await asyncio.gather(*(one.renewed(one.bearer(), refused=True) for one in several))

    assert len({renewal.bearer for renewal in first if renewal is not None}) == 1
    assert len({renewal.bearer for renewal in second if renewal is not None}) == 1
    assert [renewal.issued for renewal in second if renewal is not None].count(True) == 1
    assert theirs.registered == 2


async def test_a_record_begins_with_its_own_task(standin: StandIn, theirs: Theirs, tmp_path: Path) -> None:
    record = of_record({**theirs.claims, "task_id": "task-of-the-file"})
    agent = Agent(record, api(standin, tmp_path))
    begun = agent.bearer()

    renewal = await agent.renewed(begun, refused=True)

    assert begun is not None
    assert begun.task_id == "task-of-the-file"
    assert renewal is not None
    assert renewal.bearer != begun
    assert Agent(record, api(standin, tmp_path)).bearer() == renewal.bearer


async def test_an_unwritable_folder_costs_a_task_after_a_restart_and_no_more(
    standin: StandIn, theirs: Theirs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "agents").write_text("in the way")
    agent = credential(standin, tmp_path, theirs)

    renewal = await agent.renewed(None, refused=False)

    assert renewal is not None
    assert renewal.bearer == agent.bearer()
    assert "after a restart, another task is registered" in caplog.text


@pytest.mark.parametrize("content", [b"", b"[]", b'{"task_id": 7}', b'{"task_id": "a b"}', b"\xff", b"[" * 5000])
def test_a_damaged_file_is_as_none(standin: StandIn, theirs: Theirs, tmp_path: Path, content: bytes) -> None:
    agent = credential(standin, tmp_path, theirs)
    agent._path.parent.mkdir()
    agent._path.write_bytes(content)
    assert credential(standin, tmp_path, theirs).bearer() is None


async def test_a_reload_of_the_same_credential_keeps_the_task(
    standin: StandIn, theirs: Theirs, tmp_path: Path
) -> None:
    jwt = theirs.jwt()
    before = Agent(of_jwt(jwt), api(standin, tmp_path))
    await before.renewed(None, refused=False)
    other = Agent(of_jwt(standin.agent(pat("other")).jwt()), api(standin, tmp_path))

    assert Agent(of_jwt(jwt), api(standin, tmp_path)).after(before) is before
    assert other.after(before) is other


async def test_three_attempts_are_made_on_passing_trouble(
    standin: StandIn, theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_api, "PAUSES", (0.0, 0.0))
    agent = credential(standin, tmp_path, theirs)
    several: list[dict[str, Any]] = [{"status": 429}, {"status": 503}, {"cut": "head"}]
    for trouble in several:
        standin.plan(Answer(host="auth.openai.com", times=2, **trouble))
        assert await agent.renewed(agent.bearer(), refused=True) is not None
    standin.plan(Answer(host="auth.openai.com", times=3, status=500))
    with pytest.raises(NoTokenNowError, match="the registration of a task answers 500"):
        await agent.renewed(agent.bearer(), refused=True)


async def test_a_wrong_clock_is_learned_from_a_refusal(
    standin: StandIn, theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt, and every request, is signed with the backend's time."""
    now = time.time
    monkeypatch.setattr(agent_api, "time", _Shifted(lambda: now() + 3600))
    clock = Clock()
    agent = Agent(of_jwt(theirs.jwt()), api(standin, tmp_path, clock))

    renewal = await agent.renewed(None, refused=False)

    assert renewal is not None
    assert clock.offset == pytest.approx(3600, abs=5)
    assert [seen.status for seen in registrations(standin)] == [401, 200]


class _Shifted:
    """The module `time`, on a machine with a wrong clock."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, now: Any) -> None:
        self.time = now


# -- what ends it, and what does not


def response(status: int, document: object = None, **headers: str) -> httpx.Response:
    if isinstance(document, str):
        return httpx.Response(status, headers=headers, text=document)
    return httpx.Response(status, headers=headers, json=document)


@pytest.mark.parametrize("code", DEAD_TOKEN_CODES)
def test_a_refusal_with_the_code_of_a_dead_credential_is_final(code: str) -> None:
    with pytest.raises(NoTokenAnyMoreError):
        task_of(response(401, error_body(code, "no")), identity(), NEW_YEAR)


def test_an_expired_jwt_is_over_when_the_backend_refuses_it() -> None:
    refusal = response(401, error_body("nobody_knows", "no"))
    with pytest.raises(NoTokenAnyMoreError, match="its JWT has expired"):
        task_of(refusal, identity(NEW_YEAR - 1), NEW_YEAR)
    with pytest.raises(NoTokenNowError):
        task_of(refusal, identity(NEW_YEAR + 1), NEW_YEAR)
    assert task_of(response(200, {"taskId": "t"}), identity(NEW_YEAR - 1), NEW_YEAR) == "t"


@given(
    st.sampled_from([200, 201, 302, 400, 401, 403, 404, 409, 422, 429, 500, 503]),
    st.sampled_from(["", "agent_not_found", "invalid_signature", "invalid_timestamp", "task_expired", "forbidden"]),
    st.sampled_from([{}, {"content-type": "text/html"}, {"cf-mitigated": "challenge"}]),
    st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.dictionaries(st.text(), st.integers()),
)
def test_no_odd_answer_ends_an_agent(status: int, code: str, headers: dict[str, str], other: object) -> None:
    for document in (error_body(code, "no"), other, CLOUDFLARE_PAGE, {"encrypted_task_id": "AAAA"}):
        with pytest.raises(NoTokenNowError):
            task_of(response(status, document, **headers), identity(), NEW_YEAR)


async def test_a_task_that_nobody_uses_confirms_the_key(standin: StandIn, theirs: Theirs, tmp_path: Path) -> None:
    agent = credential(standin, tmp_path, theirs)
    await agent.renewed(None, refused=False)
    task = agent.bearer()

    await agent.confirm()
    standin.kill(theirs.token.token)
    with pytest.raises(NoTokenAnyMoreError):
        await agent.confirm()

    assert agent.bearer() == task == credential(standin, tmp_path, theirs).bearer()


# -- the signature of a JWT


async def test_published_keys_are_asked_for_once_without_a_credential(
    standin: StandIn, theirs: Theirs, tmp_path: Path
) -> None:
    shared = api(standin, tmp_path)
    several = [Agent(of_jwt(theirs.jwt(lifetime=lifetime)), shared) for lifetime in (60, 120, 180)]

    task = AgentTask.of_key(several[0].identity.key, "t", Clock())
    answers = await asyncio.gather(*(agent.owner(task) for agent in several))

    assert [answer.word for answer in answers] == [Word.HEALTHY] * 3
    assert {answer.metadata for answer in answers} == {Metadata("acc-bot", "user-bot", "business")}
    assert all(agent._is_signed for agent in several)
    [asked] = standin.requests(JWKS)
    assert asked.header("authorization") is None


async def test_a_wrong_signature_is_told_and_condemns_nobody(
    standin: StandIn, theirs: Theirs, tmp_path: Path
) -> None:
    jwt = theirs.jwt()
    forged = jwt.rpartition(".")[0] + "." + theirs.jwt(account_id="acc-other").rpartition(".")[2]
    agent = Agent(of_jwt(forged), api(standin, tmp_path))

    answer = await agent.owner(AgentTask.of_key(agent.identity.key, "t", Clock()))

    assert (answer.word, answer.metadata) == (Word.UNREACHABLE, None)
    assert "wrong signature" in str(answer.evidence)


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 500},
        {"status": 403, "body": CLOUDFLARE_PAGE},
        {"status": 200, "body": {"keys": "none"}},
        {"status": 200, "body": {"keys": []}},
        {"cut": "head"},
    ],
)
async def test_without_the_key_a_jwt_is_believed(
    standin: StandIn, theirs: Theirs, tmp_path: Path, trouble: dict[str, Any]
) -> None:
    """The backend checks every request. A key may have been retired."""
    standin.plan(Answer(path=JWKS, times=None, **trouble))
    agent = credential(standin, tmp_path, theirs)
    assert (await agent.owner(AgentTask.of_key(agent.identity.key, "t", Clock()))).word is Word.HEALTHY


def test_only_usable_keys_are_taken() -> None:
    small = generate_private_key(65537, 1024)
    good = jwk()
    rows = [{**jwk(small), "kid": "small"}, {**good, "n": 5}, {**good, "e": "A" * 99}, {**good, "kid": ""}, "x", good]

    assert set(keys_in({"keys": rows})) == {KID}
    assert keys_in({"keys": [{}] * agent_api.MOST_KEYS + [good]}) == {}
    assert partial(keys_in, None)() == keys_in([good]) == keys_in({"keys": good}) == {}
