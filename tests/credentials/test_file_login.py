"""A refresh token is spent once, by one, and what it gave is on the disk before anybody is told."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codexpool.common.atomic_replace import Replacement
from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, UnusableTokenError, file_login, token_endpoint
from codexpool.credentials.auth_json import Login, parse
from codexpool.credentials.file_login import FileLogin
from codexpool.credentials.http_client import Route
from codexpool.credentials.oauth import EARLY, JITTER
from codexpool.credentials.token_endpoint import TokenEndpoint
from tests.config.conftest import needs_a_plain_user
from tests.credentials.killing import Killer, undisturbed
from tests.e2e.logins import TOKEN_ENDPOINT, login_of, owner
from tests.e2e.logins import Login as File
from tests.running import until
from tests.standin import CLOUDFLARE_PAGE, Answer, StandIn, error_body


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield standin


@pytest.fixture
def file(standin: StandIn, tmp_path: Path) -> File:
    return login_of(standin, tmp_path, owner("spare"))


def read(file: File) -> Login:
    login = parse(file.path.read_text())
    assert isinstance(login, Login)
    return login


def route(standin: StandIn) -> Route:
    return Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file))


def credential(standin: StandIn, file: File, **environ: str) -> FileLogin:
    return FileLogin(file.path, read(file), TokenEndpoint(route(standin), environ))


async def test_a_renewal_is_asked_for_as_codex_does(standin: StandIn, file: File) -> None:
    """It is written before it is used."""
    oauth = credential(standin, file)
    stale = oauth.bearer()

    renewal = await oauth.renewed(stale, refused=True)

    assert renewal is not None
    assert renewal.issued
    assert renewal.bearer == oauth.bearer() == read(file).access != stale
    assert file.was_renewed
    assert file.is_whole()
    [asked] = standin.requests(TOKEN_ENDPOINT)
    assert json.loads(asked.body or b"") == {
        "client_id": "app_EMoamEEZ73f0CkXaXp7hrann",
        "grant_type": "refresh_token",
        "refresh_reason": "unauthorized_recovery",
        "refresh_token": file.first["tokens"]["refresh_token"],
    }
    assert asked.header("authorization") is None
    assert standin.refusals == []


async def test_a_newer_login_on_the_disk_is_used(standin: StandIn, file: File) -> None:
    """The token endpoint is not asked."""
    oauth = credential(standin, file)
    newer = login_of(standin, file.path.parent.parent / "newer", owner("spare"))
    file.path.write_text(newer.path.read_text())

    renewal = await oauth.renewed(oauth.bearer(), refused=True)

    assert renewal is not None
    assert (renewal.bearer, renewal.issued) == (read(newer).access, False)
    assert standin.refreshes == 0


async def test_what_the_disk_has_is_renewed_if_it_has_ended_too(standin: StandIn, file: File) -> None:
    oauth = credential(standin, file)
    ended = login_of(standin, file.path.parent.parent / "ended", owner("spare"), lifetime=10)
    file.path.write_text(ended.path.read_text())
    renewal = await oauth.renewed(oauth.bearer(), refused=False)
    assert renewal is not None
    assert not renewal.issued  # its time had come, and nobody has refused it
    assert standin.refreshes == 1


async def test_of_many_who_renew_at_once_one_asks(standin: StandIn, file: File) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, times=None, delay=0.2))
    several = [credential(standin, file) for _ in range(6)]
    renewals = await asyncio.gather(*(oauth.renewed(oauth.bearer(), refused=True) for oauth in several))
    assert standin.refreshes == 1
    assert {renewal.bearer for renewal in renewals if renewal is not None} == {read(file).access}
    assert [renewal.issued for renewal in renewals if renewal is not None].count(True) == 1


def test_it_is_renewed_some_minutes_before_its_end(standin: StandIn, file: File) -> None:
    expires_at = read(file).expires_at
    due_at = credential(standin, file).due_at()
    assert expires_at is not None
    assert due_at is not None
    assert EARLY <= expires_at - due_at <= EARLY + JITTER
    several = {credential(standin, file).due_at() for _ in range(5)}
    assert len(several) == 5  # not all in the same second


async def test_short_lived_tokens_are_not_renewed_endlessly(standin: StandIn, file: File) -> None:
    short = login_of(standin, file.path.parent.parent / "short", owner("spare"), lifetime=100)
    oauth = credential(standin, short)
    due_at = oauth.due_at()
    assert due_at is not None
    assert due_at < time.time()
    standin.plan(Answer(path=TOKEN_ENDPOINT, status=200, body=standin.login(owner("spare"), lifetime=100)["tokens"]))

    await oauth.renewed(oauth.bearer(), refused=False)

    due_at = oauth.due_at()
    assert due_at is not None
    assert due_at > time.time() + 30
    assert not oauth.is_over(time.time() + 5)


async def test_a_login_made_during_a_renewal_counts(standin: StandIn, file: File) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, delay=0.5))
    theirs = login_of(standin, file.path.parent.parent / "theirs", owner("spare"))
    oauth = credential(standin, file)
    renewing = asyncio.create_task(oauth.renewed(oauth.bearer(), refused=True))
    await asyncio.sleep(0.2)
    file.path.write_text(theirs.path.read_text())

    renewal = await renewing

    assert renewal is not None
    assert (renewal.bearer, renewal.issued) == (read(theirs).access, False)
    assert file.document == theirs.first


async def test_a_field_written_during_a_renewal_is_kept(standin: StandIn, file: File) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, delay=0.5))
    oauth = credential(standin, file)
    renewing = asyncio.create_task(oauth.renewed(oauth.bearer(), refused=True))
    await asyncio.sleep(0.2)
    file.path.write_text(json.dumps({**file.first, "new_field": 1}))
    await renewing
    assert file.was_renewed
    assert file.document["new_field"] == 1


async def test_somewhere_else_may_be_asked_as_codex_lets_one_say(standin: StandIn, file: File) -> None:
    oauth = credential(standin, file, CODEX_REFRESH_TOKEN_URL_OVERRIDE="https://auth.openai.com/oauth/elsewhere")
    with pytest.raises(NoTokenNowError, match="answers 404"):
        await oauth.renewed(oauth.bearer(), refused=True)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "refresh_token_expired"),
        (400, "refresh_token_reused"),
        (401, "Refresh_Token_Invalidated"),
        (400, "invalid_grant"),
        (400, "app_session_terminated"),
        (401, "token_expired"),
    ],
)
async def test_a_permanent_failure_is_told_and_the_file_stays(
    standin: StandIn, file: File, status: int, code: str
) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, status=status, body=error_body(code, "no")))
    oauth = credential(standin, file)
    with pytest.raises(NoTokenAnyMoreError) as error:
        await oauth.renewed(oauth.bearer(), refused=True)
    assert error.value.code == code.lower()
    assert f"answers {status} {code.lower()}" in str(error.value)
    assert file.document == file.first


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=503, body=error_body("refresh_token_expired", "no")),
        Answer(status=429, body=error_body("slow_down", "no")),
        Answer(status=400, body=error_body("invalid_request", "no")),
        Answer(status=401, body=CLOUDFLARE_PAGE),
        Answer(status=401, body=error_body("whatever", "no")),
        Answer(status=401, body={"detail": "Unauthorized"}),
        Answer(status=401, headers={"cf-mitigated": "challenge"}, body=error_body("refresh_token_expired", "no")),
        Answer(status=200, body={"id_token": "x"}),
        Answer(status=200, body={"access_token": "unsendable\u00e9 token"}),
        Answer(status=200, body=b"not json"),
        Answer(cut="head"),
        Answer(status=200, body={"access_token": "x"}, cut="body"),
    ],
)
async def test_anything_else_is_worth_another_try_and_the_file_stays(
    standin: StandIn, file: File, answer: Answer
) -> None:
    standin.plan(replace(answer, path=TOKEN_ENDPOINT))
    oauth = credential(standin, file)
    with pytest.raises(NoTokenNowError):
        await oauth.renewed(oauth.bearer(), refused=True)
    assert file.document == file.first


def claims(**said: object) -> str:
    """A JWT that says this, and nothing of an account if that is not among it."""
    head, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, said)
    )
    return f"{head}.{payload}.x"


KILLS = int(os.environ.get("CODEXPOOL_KILLS", "80"))

UNUSABLE = {
    "unsendable": {"access_token": "not\u00e9 sendable\n"},
    "opaque, and the id_token says nothing": {"access_token": "opaque-token", "id_token": claims(sub="nobody")},
    "opaque, and the id_token is none": {"access_token": "opaque-token", "id_token": "opaque"},
    "none at all": {},
}


@pytest.mark.parametrize("kind", UNUSABLE)
async def test_the_refresh_token_of_an_unusable_answer_is_kept(standin: StandIn, file: File, kind: str) -> None:
    """The next renewal spends it."""
    # given an answer of the backend whose access token is of no use, and whose refresh token is good
    fresh = standin.login(owner("spare"))["tokens"]["refresh_token"]
    standin.plan(Answer(path=TOKEN_ENDPOINT, status=200, body={**UNUSABLE[kind], "refresh_token": fresh}))
    oauth = credential(standin, file)
    stale = oauth.bearer()

    with pytest.raises(UnusableTokenError, match="its new refresh token is kept for the next try"):
        await oauth.renewed(stale, refused=True)

    assert file.document == {**file.first, "tokens": {**file.first["tokens"], "refresh_token": fresh}}
    assert file.is_whole()
    assert oauth.bearer() == stale
    # when it is tried again, that one is spent
    renewal = await oauth.renewed(stale, refused=True)
    assert renewal is not None
    assert renewal.bearer == read(file).access != stale
    assert [json.loads(seen.body or b"")["refresh_token"] for seen in standin.requests(TOKEN_ENDPOINT)] == [
        file.first["tokens"]["refresh_token"],
        fresh,
    ]


async def test_the_same_where_the_disk_does_not_take_it(
    standin: StandIn, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = standin.login(owner("spare"))["tokens"]["refresh_token"]
    standin.plan(Answer(path=TOKEN_ENDPOINT, status=200, body={"access_token": "\x00", "refresh_token": fresh}))
    oauth = credential(standin, file)

    def broken(self: Replacement, content: bytes, instead_of: bytes | None = None) -> bool:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Replacement, "put", broken)
        with pytest.raises(UnusableTokenError):
            await oauth.renewed(oauth.bearer(), refused=True)

    renewal = await oauth.renewed(oauth.bearer(), refused=True)

    assert renewal is not None
    assert read(file).access == renewal.bearer


async def test_tokens_of_another_account_keep_the_old_file(standin: StandIn, file: File) -> None:
    text = file.path.read_text()
    standin.backend.refresh_tokens.hand_over(file.first["tokens"]["refresh_token"], owner("stranger"))
    oauth = credential(standin, file)

    renewal = await oauth.renewed(oauth.bearer(), refused=True)

    assert renewal is not None
    assert renewal.previous_owner == ("acc-spare", "user-spare")
    [kept] = file.path.parent.glob("auth.json.before-*")
    assert str(kept) in renewal.backup
    assert kept.read_text() == text
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert read(file).key == ("acc-stranger", "user-stranger")


async def test_tokens_of_the_same_account_leave_nothing_beside_the_file(standin: StandIn, file: File) -> None:
    oauth = credential(standin, file)
    renewal = await oauth.renewed(oauth.bearer(), refused=True)
    assert renewal is not None
    assert (renewal.previous_owner, renewal.backup) == (("", ""), "")
    assert list(file.path.parent.glob("auth.json.before-*")) == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=200, body=b" ", endless=0.1),
        Answer(status=401, body=b" " * 60_000, endless=0.0),
        Answer(delay=60.0),
    ],
    ids=["drips", "without end", "silent"],
)
async def test_an_answer_without_an_end_is_given_up_and_asked_for_again(
    standin: StandIn, file: File, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(token_endpoint, "TIMEOUT", 1.0)
    standin.plan(replace(answer, path=TOKEN_ENDPOINT))
    oauth = credential(standin, file)

    async with asyncio.timeout(20):
        with pytest.raises(NoTokenNowError, match="cannot be reached"):
            await oauth.renewed(oauth.bearer(), refused=True)

    assert file.document == file.first
    standin.unplan()
    if not answer.delay:  # The backend has not spent the refresh token.
        assert await oauth.renewed(oauth.bearer(), refused=True) is not None


@needs_a_plain_user
async def test_no_refresh_token_is_spent_in_a_read_only_folder(standin: StandIn, file: File) -> None:
    file.path.parent.chmod(0o500)
    try:
        oauth = credential(standin, file)
        with pytest.raises(NoTokenNowError, match="cannot be"):
            await oauth.renewed(oauth.bearer(), refused=True)
    finally:
        file.path.parent.chmod(0o700)
    assert standin.refreshes == 0


async def test_no_refresh_token_is_spent_on_a_full_disk(
    standin: StandIn, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    oauth = credential(standin, file)
    with pytest.raises(NoTokenNowError, match="cannot be written: No space left on device"):
        await oauth.renewed(oauth.bearer(), refused=True)
    assert standin.refreshes == 0


async def test_an_unwritten_login_serves_and_is_renewed(
    standin: StandIn, file: File, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    oauth = credential(standin, file)

    def broken(self: Replacement, content: bytes, instead_of: bytes | None = None) -> bool:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Replacement, "put", broken)
        first = await oauth.renewed(oauth.bearer(), refused=True)
    assert first is not None
    assert file.document == file.first
    assert "cannot be written (Input/output error); retrying. If the proxy ends before, log in again" in caplog.text

    second = await oauth.renewed(first.bearer, refused=True)

    assert second is not None
    assert read(file).access == second.bearer
    assert standin.refreshes == 2


def refused_by_the_disk(self: Replacement, content: bytes, instead_of: bytes | None = None) -> bool:
    raise OSError(5, "Input/output error")


async def test_an_unwritten_login_is_written_when_possible(
    standin: StandIn, file: File, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(file_login, "WRITE_PAUSES", (0.05, 0.1))
    oauth = credential(standin, file)
    with monkeypatch.context() as patch:
        patch.setattr(Replacement, "put", refused_by_the_disk)
        renewal = await oauth.renewed(oauth.bearer(), refused=True)
        await asyncio.sleep(0.5)
        assert file.document == file.first
    assert renewal is not None

    await asyncio.to_thread(until, lambda: "is written again" in caplog.text, 10, "the login to be written")

    assert read(file).access == renewal.bearer
    assert standin.refreshes == 1
    assert caplog.text.count("cannot be written") == 1


@pytest.mark.parametrize("how", ["another login", "a token", "removed"])
async def test_an_unwritten_login_overwrites_no_newer_file(
    standin: StandIn, file: File, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(file_login, "WRITE_PAUSES", (0.05, 0.1))
    oauth = credential(standin, file)
    with monkeypatch.context() as patch:
        patch.setattr(Replacement, "put", refused_by_the_disk)
        await oauth.renewed(oauth.bearer(), refused=True)
        match how:
            case "another login":
                newer = login_of(standin, file.path.parent.parent / "newer", owner("spare"))
                theirs = newer.path.read_text()
                file.path.write_text(theirs)
            case "a token":
                theirs = json.dumps({"personal_access_token": "at-test-0123456789abcdef0123456789"})
                file.path.write_text(theirs)
            case _:
                theirs = ""
                file.path.unlink()
    await asyncio.to_thread(until, lambda: not oauth._writes_again, 10, "the thread to end")

    assert (file.path.read_text() if file.path.exists() else "") == theirs


def test_a_file_read_before_a_renewal_does_not_undo_it(standin: StandIn, file: File) -> None:
    # given: the configuration is read, and a renewal ends before it is taken over
    in_use = credential(standin, file)
    read_before = credential(standin, file)
    renewal = asyncio.run(in_use.renewed(in_use.bearer(), refused=True))
    assert renewal is not None

    assert read_before.after(in_use) is in_use
    assert in_use.bearer() == renewal.bearer
    # what somebody else puts there afterwards counts
    newer = login_of(standin, file.path.parent.parent / "newer", owner("spare"))
    file.path.write_text(newer.path.read_text())
    assert credential(standin, file).after(in_use) is in_use
    assert in_use.bearer() == read(newer).access


def test_killed_at_any_moment_the_file_is_always_valid(standin: StandIn, file: File) -> None:
    killer = Killer(standin, str(file.path))
    try:
        duration = min(undisturbed(killer) for _ in range(5))
        seed = random.randrange(10**6)
        chance = random.Random(seed)
        killed = lost = 0
        spent = standin.refreshes
        for number in range(KILLS):
            before, earlier, spent = file.document, spent, standin.refreshes
            killed += killer.after(chance.uniform(0, 1.5 * duration)) == -9
            about = f"seed {seed}, moment {number}"
            assert file.is_whole(), about
            after = file.document
            refresh_token = after["tokens"]["refresh_token"]
            if refresh_token not in standin.backend.refresh_tokens._logins:
                # Lost: the server had spent the token, and what it gave had not taken the old one's place yet. (On a
                # busy machine the server may get to it when the next process has begun.)
                assert after == before, about
                assert standin.refreshes > earlier, about
                lost += 1
                file.path.write_text(json.dumps({**file.first, **standin.login(owner("spare"))}, indent=2))
            leftovers = {path.name for path in file.path.parent.iterdir()}
            assert leftovers <= {"auth.json", ".auth.json.new", ".auth.json.lock"}, about
        print(
            f"{killed} of {KILLS} were killed in time, {lost} lost their login;"
            f" a renewal takes {duration * 1000:.0f} ms"
        )
        assert killed > KILLS / 5
        assert killer.after(20.0) == 0  # what was left behind is no obstacle
        assert {path.name for path in file.path.parent.iterdir()} == {"auth.json", ".auth.json.lock"}
    finally:
        killer.end()
