"""An operator's day: identities are added, looked at, replaced, paused and removed, and no secret is shown."""

from __future__ import annotations

import errno
import json
import re
import stat
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from click import unstyle

from codexpool.cli.common import moment, open_the_state
from codexpool.config import editing
from codexpool.pool.exclusions import Exclusion, Kind, subjects
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.pool.usage import Limit, ResetCredits, Usage, Window
from codexpool.state.notes import BREAKER, NOT_FOR, RESUMED, USAGE
from codexpool.views.formatting import local_time
from tests.cli.pools import Pool, fake_codex
from tests.config.unwritable import unwritable
from tests.e2e.logins import FOREIGN, login_of, owner, write_private
from tests.running import pat
from tests.standin import RESPONSES, WHOAMI, Answer, StandIn, Token
from tests.standin import USAGE as USAGE_PATH

DAY = 86_400.0


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield Pool(standin, tmp_path, monkeypatch)


def fresh(name: str, of: Token) -> Token:
    """Another token of the same account and user."""
    return Token(f"at-test-{name}-fresh-0123456789abcdef", of.account_id, of.user_id, name=of.name)


def script(folder: Path, *lines: str) -> Path:
    path = folder / "program"
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o700)
    return path


# -- add


def test_add_creates_a_private_pool_toml(pool: Pool) -> None:
    result = pool.add(pat("work"))

    assert "added work to" in result.output
    assert "user-work@example.invalid, account acc-work, user user-work, business" in result.output
    assert stat.S_IMODE(pool.path.stat().st_mode) == 0o600
    [entry] = tomllib.loads(pool.text)["identity"]
    assert entry == {"name": "work", "token": pat("work").token, "account_id": "acc-work", "user_id": "user-work"}
    assert pool.list()["work"]["status"] == "ready"


def test_add_keeps_every_byte_of_the_file_it_adds_to(pool: Pool) -> None:
    pool.add(pat("work"))
    before = "# mine\n\n[pool]  # odd\nselection = 'round-robin'\n\n" + pool.text + "# the end\n\n"
    pool.path.write_text(before)

    pool.add(pat("spare"))

    assert pool.text.startswith(before)
    assert [entry["name"] for entry in tomllib.loads(pool.text)["identity"]] == ["work", "spare"]


def test_add_takes_a_token_from_each_source(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {name: pat(name) for name in ("env", "file", "ring", "sso")}
    for token in tokens.values():
        pool.standin.add(token)
        pool.secret(token.token)
    monkeypatch.setenv("MY_TOKEN", tokens["env"].token)
    file = write_private(pool.folder / "token", tokens["file"].token)
    monkeypatch.setattr(keyring, "get_password", lambda service, name: {"ring": tokens["ring"].token}.get(name))
    program = script(pool.folder, f"echo {tokens['sso'].token}")

    pool.run("add", "env", "--env", "MY_TOKEN")
    pool.run("add", "file", "--file", str(file))
    pool.run("add", "ring", "--keyring", "codexpool")
    pool.run("add", "sso", "--command", "--", str(program), "codex")

    entries = {entry["name"]: entry["token"] for entry in tomllib.loads(pool.text)["identity"]}
    assert entries == {
        "env": {"env": "MY_TOKEN"},
        "file": {"file": "~/token"},
        "ring": {"keyring": "codexpool"},
        "sso": {"command": [str(program), "codex"]},
    }
    assert {name: row["status"] for name, row in pool.list().items()} == dict.fromkeys(entries, "ready")
    assert {row["kind"] for row in pool.list().values()} == {"pat", "command"}


def test_add_identifies_a_login_by_its_claims(pool: Pool) -> None:
    login = login_of(pool.standin, pool.folder, owner("spare"))

    pool.run("add", "spare", "--auth-json", str(login.path))

    row = pool.list()["spare"]
    assert (row["kind"], row["account_id"], row["user_id"], row["status"]) == (
        "oauth",
        "acc-spare",
        "user-spare",
        "ready",
    )
    assert row["email"] == "user-spare@example.invalid"
    assert login.document == login.first
    assert pool.standin.requests(WHOAMI) == []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"OPENAI_API_KEY": "sk-test"}, "has an API key, which is for api.openai.com"),
        ({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-test"}, "has an API key"),
        ({"agent_identity": "x"}, "has an unusable agent identity"),
        ({"auth_mode": "chatgptAuthTokens", "tokens": {}}, "another program lends to Codex"),
        ({"bedrock_api_key": {}, "OPENAI_API_KEY": None}, "has no login"),
        ({}, "has no login"),
        ([], "it is not a JSON object"),
    ],
)
def test_an_unusable_login_is_refused_with_the_reason(pool: Pool, document: object, said: str) -> None:
    path = write_private(pool.folder / "auth.json", json.dumps(document))

    result = pool.run("add", "x", "--auth-json", str(path), code=1)

    assert said in result.stderr
    assert not pool.path.exists()


def test_a_second_token_of_one_user_is_refused_with_a_remedy(pool: Pool) -> None:
    """Two tokens of one account and user share every limit."""
    pool.add(pat("work"))
    before = pool.text
    second = Token("at-test-second-0123456789abcdef", "acc-work", "user-work", name="second")

    result = pool.add(second, code=1)

    assert "the same account and user as work (acc-work, user-work)" in result.stderr
    assert "codexpool replace work" in result.stderr
    assert pool.text == before


def test_a_dead_token_is_not_added(pool: Pool) -> None:
    result = pool.add(pat("work", alive=False), code=1)
    assert "the backend refused this token: 401 token_revoked" in result.stderr
    assert not pool.path.exists()


def test_nothing_is_added_while_whoami_fails(pool: Pool) -> None:
    pool.standin.plan(Answer(path=WHOAMI, times=None, status=503, body={"error": "busy"}))
    result = pool.add(pat("work"), code=1)
    assert "could not verify the token; try again: whoami answers 503" in result.stderr
    assert not pool.path.exists()


def test_where_a_companys_proxy_may_be_missing_that_is_said(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.add(pat("work"))
    pool.standin.plan(Answer(path=WHOAMI, times=None, status=503, body={"error": "busy"}))
    monkeypatch.setenv("HTTPS_PROXY", "http://kim:hunter2@corp.example:3128")

    for result in (pool.add(pat("spare"), code=1), pool.run("check", code=1)):
        assert result.stderr.count("use --via URL, or set CODEXPOOL_UPSTREAM_PROXY") == 1
        assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("add", "a b", "--token-stdin"), "x", "is not a valid name"),
        (("add", "at-test-name", "--token-stdin"), "x", "looks like a token"),
        (("add", "work", "at-test-on-the-command-line"), "", "a token cannot be an argument"),
        (("add", "work", "--token-stdin", "--env", "X"), "", "--token-stdin and --env cannot be combined"),
        (("add", "work"), "", "no token given"),
        (("add", "work", "--token-stdin"), "", "got nothing on standard input"),
        (("add", "work", "--token-stdin"), "a\nb", "got 2 lines on standard input"),
        (("add", "work", "--command"), "", "put the program and its arguments after --"),
        (("add", "work", "--env", "A B"), "", "not the name of an environment variable"),
        (("list", "--config", "/no/such/pool.toml"), "", "no such file"),
    ],
)
def test_a_usage_error_exits_with_2(pool: Pool, arguments: tuple[str, ...], stdin: str, said: str) -> None:
    result = pool.run(*arguments, stdin=stdin, code=2)
    assert said in result.stderr
    assert not pool.path.exists()


# -- list, show, check


def test_list_shows_what_each_identity_is_and_needs(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.add(pat("spare"))
    pool.standin.kill(pat("spare").token)

    checked = pool.run("check", "--json", code=1)

    rows = {row["name"]: row for row in json.loads(checked.stdout)["identities"]}
    assert {name: row["status"] for name, row in rows.items()} == {"work": "ready", "spare": "needs_replacement"}
    assert set(rows["work"]) == {
        *("name", "kind", "account_id", "user_id", "email", "plan", "status"),
        *("since", "until", "evidence", "not_for", "fingerprint", "last_used"),
        *("limits", "limited", "reset_credits", "needs", "checked"),
    }
    assert "401 token_revoked" in rows["spare"]["evidence"]
    # it is flagged, as a proxy would do it, and a list knows it without asking
    flags = [entry.get("needs_replacement") for entry in tomllib.loads(pool.text)["identity"]]
    assert [flag is not None for flag in flags] == [False, True]
    asked = len(pool.standin.seen)
    assert pool.list()["spare"]["status"] == "needs_replacement"
    assert pool.list()["spare"]["since"] == rows["spare"]["since"]
    shown = pool.run("list").output
    assert "\tneeds_replacement since 20" in shown
    remedy = pool.list()["spare"]["needs"]
    assert remedy.endswith(", or: codexpool replace spare")
    assert f": 401 token_revoked on whoami. {remedy}\t" in shown
    assert len(pool.standin.seen) == asked


def test_check_flags_nothing_if_whoami_refuses_several(pool: Pool) -> None:
    """Whoami itself may be wrong then."""
    # given one that is dead and flagged, and two that whoami refuses at the same time
    for name in ("dead", "work", "spare"):
        pool.add(pat(name))
    pool.standin.kill(pat("dead").token)
    pool.run("check", code=1)
    for name in ("work", "spare"):
        pool.standin.kill(pat(name).token)

    result = pool.run("check", code=1)

    assert "whoami may be wrong" in result.output
    flags = {entry["name"]: entry.get("needs_replacement") for entry in tomllib.loads(pool.text)["identity"]}
    assert [name for name, flag in flags.items() if flag is not None] == ["dead"]
    statuses = {name: row["status"] for name, row in pool.list().items()}
    assert statuses == {"dead": "needs_replacement", "work": "ready", "spare": "ready"}


def test_check_removes_the_flag_of_a_good_token(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.standin.kill(pat("work").token)
    pool.run("check", code=1)
    assert "needs_replacement" in pool.text
    pool.standin.revive(pat("work").token)

    pool.run("check", "work")

    assert "needs_replacement" not in pool.text
    assert pool.list()["work"]["status"] == "ready"


def test_check_verifies_only_the_names_given(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.add(pat("spare"))
    pool.standin.kill(pat("spare").token)
    pool.standin.seen.clear()

    pool.run("check", "work")

    assert {seen.name for seen in pool.standin.seen} == {"work"}
    assert 'no identity "nobody"' in pool.run("check", "nobody", code=2).stderr


def test_check_without_an_answer_condemns_nothing_and_fails(pool: Pool) -> None:
    pool.add(pat("work"))
    before = pool.text
    pool.standin.plan(Answer(path=WHOAMI, times=None, status=503, body={"error": "busy"}))

    result = pool.run("check", code=1)

    assert "\tnot checked: whoami answers 503" in result.output
    assert pool.text == before
    assert not json.loads(pool.run("check", "--json", code=1).stdout)["identities"][0]["checked"]
    assert pool.list()["work"]["status"] == "ready"


def test_check_reads_what_each_account_has_left(pool: Pool) -> None:
    """A limit counts from then on, and no longer once it was lifted; a reading that fails changes nothing."""
    for name in ("work", "spare"):
        pool.add(pat(name, used_percent=12.0))
    pool.standin.limit(pat("work").token, time.time() + 3600)

    def checked() -> dict[str, Any]:
        rows = {row["name"]: row for row in json.loads(pool.run("check", "--json").stdout)["identities"]}
        listed = pool.list()
        assert {n: row["status"] for n, row in rows.items()} == {n: row["status"] for n, row in listed.items()}
        return listed

    limited = checked()
    assert [limited[name]["status"] for name in ("work", "spare")] == ["limited", "ready"]
    assert limited["spare"]["limits"][0]["used_percent"] == 12
    assert "its account has reached a limit" in pool.run("list").output

    pool.standin.plan(Answer(path=USAGE_PATH, times=2, status=503, body={"error": "busy"}))
    assert "cannot read what it has left" in pool.run("check").stderr
    assert pool.list()["work"]["status"] == "limited"

    pool.standin.unlimit(pat("work").token)
    lifted = checked()
    assert (lifted["work"]["status"], lifted["work"]["limited"]) == ("ready", {})


def test_check_renews_an_expired_login_and_reports_a_lost_one(pool: Pool) -> None:
    ended = login_of(pool.standin, pool.folder, owner("ended"), lifetime=10)
    lost = login_of(pool.standin, pool.folder, owner("lost"), lifetime=10 * DAY)
    pool.run("add", "ended", "--auth-json", str(ended.path))
    pool.run("add", "lost", "--auth-json", str(lost.path))
    assert ended.was_renewed
    assert ended.is_whole()
    pool.standin.backend.refresh_tokens.revoke(lost.first["tokens"]["refresh_token"])
    pool.standin.kill(lost.first["tokens"]["access_token"])

    rows = {row["name"]: row for row in json.loads(pool.run("check", "--json", code=1).stdout)["identities"]}

    assert {name: row["status"] for name, row in rows.items()} == {"ended": "ready", "lost": "needs_login"}
    assert "its refresh token was revoked" in rows["lost"]["evidence"]
    assert lost.document == lost.first


def test_an_identity_without_a_token_is_listed_with_the_reason(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.add(pat("work"))
    pool.path.write_text(pool.text + '\n[[identity]]\nname = "gone"\ntoken = { env = "NOT_SET" }\n')
    row = pool.list()["gone"]
    assert row["status"] == "unverified"
    assert "environment variable NOT_SET is not set" in row["evidence"]
    assert "NOT_SET is not set" in pool.run("check", code=1).output


def test_show_has_all_that_is_known_and_its_line(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.path.write_text(
        pool.text.replace('user_id    = "user-work"\n', 'user_id = "user-work"\nexpires = 2026-12-01\n')
    )
    document = json.loads(pool.run("show", "work", "--json").stdout)
    assert document["where"] == f"{pool.path}:6"
    assert (document["origin"], document["fedramp"]) == ("https://chatgpt.com", False)
    assert document["expires"] == "2026-12-02T00:00:00Z"
    assert "acc-work" in pool.run("show", "work").output


# -- a pool.toml that is mounted read-only


def test_what_check_finds_out_is_kept_in_the_state_of_a_read_only_pool(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.add(pat("spare"))
    before = pool.text
    pool.standin.kill(pat("work").token)

    with unwritable(errno.EROFS):
        result = pool.run("check", code=1)
        assert "cannot be written" not in result.stderr
        assert {name: row["status"] for name, row in pool.list().items()} == {
            "work": "needs_replacement",
            "spare": "ready",
        }
        assert "401 token_revoked on whoami" in pool.run("list").output
    assert pool.text == before


def test_a_flag_in_a_read_only_pool_is_said_to_be_in_the_way(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.standin.kill(pat("work").token)
    pool.run("check", code=1)
    pool.standin.revive(pat("work").token)

    with unwritable(errno.EROFS):
        result = pool.run("check", code=1)

    assert "cannot be written (Read-only file system); change it where it comes from" in result.stderr


@pytest.mark.parametrize(
    "command", [["pause", "work"], ["add", "new", "--token-stdin"], ["login", "new"], ["member", "add", "ann"]]
)
def test_a_command_that_must_write_a_read_only_pool_says_what_to_do(pool: Pool, command: list[str]) -> None:
    pool.add(pat("work"))
    before, asked = pool.text, len(pool.standin.seen)

    with unwritable(errno.EROFS):
        result = pool.run(*command, stdin="at-test-new-0123456789abcdef\n", code=1)

    assert f"{pool.path}: cannot be written" in result.stderr
    assert "change it where it comes from (a mounted secret)" in result.stderr
    assert (result.stdout, pool.text, len(pool.standin.seen)) == ("", before, asked)


def test_a_pool_that_cannot_be_created_is_told_without_a_traceback(pool: Pool) -> None:
    pool.folder.joinpath("file").touch()
    path = pool.folder / "file" / "folder" / "pool.toml"

    result = pool.add(pat("work"), "--config", str(path), code=1)

    assert f"cannot create {path}: Not a directory. Nothing was changed" in result.stderr


def test_a_token_in_a_file_of_its_own_is_replaced_although_the_pool_is_read_only(pool: Pool) -> None:
    work, file = pat("work"), pool.folder / "work.token"
    file.touch(mode=0o600)
    file.write_text(pool.secret(work.token))
    pool.standin.add(work)
    pool.run("add", "work", "--file", str(file))
    new = fresh("work", work)
    pool.standin.add(new)

    with unwritable(errno.EROFS):
        pool.run("replace", "work", "--token-stdin", stdin=pool.secret(new.token))

    assert file.read_text().strip() == new.token


# -- replace


def test_replace_changes_the_token_and_removes_the_flag(pool: Pool) -> None:
    work = pat("work")
    pool.add(work)
    pool.add(pat("spare"))
    pool.standin.kill(work.token)
    pool.run("check", code=1)
    before = pool.text
    new = fresh("work", work)
    pool.standin.add(new)

    result = pool.run("replace", "work", "--token-stdin", stdin=pool.secret(new.token))

    assert "of the same account and user" in result.output
    lines = [line for line in before.splitlines() if not line.startswith("needs_replacement")]
    assert pool.text.splitlines() == [line.replace(work.token, new.token) for line in lines]
    assert pool.list()["work"]["status"] == "ready"


def test_replace_with_another_account_changes_no_byte(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.standin.add(pat("stranger"))
    before, at = pool.path.read_bytes(), pool.path.stat().st_mtime_ns
    state = (pool.folder / "state.sqlite3").read_bytes()

    result = pool.run("replace", "work", "--token-stdin", stdin=pool.secret(pat("stranger").token), code=1)

    assert "work: account acc-work, user user-work" in result.stderr
    assert "new token: account acc-stranger, user user-stranger" in result.stderr
    assert (pool.path.read_bytes(), pool.path.stat().st_mtime_ns) == (before, at)
    assert (pool.folder / "state.sqlite3").read_bytes() == state


def test_replace_as_new_keeps_the_old_entry(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.standin.add(pat("other"))
    before = pool.text

    pool.run("replace", "work", "--as-new", "--token-stdin", stdin=pool.secret(pat("other").token))

    assert pool.text.startswith(before)
    assert pool.list()["work-2"]["account_id"] == "acc-other"


def test_replace_writes_to_where_the_old_token_is(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    work = pat("work")
    pool.standin.add(work)
    new = fresh("work", work)
    pool.standin.add(new)
    file = write_private(pool.folder / "token", pool.secret(work.token))
    pool.run("add", "work", "--file", str(file))
    before = pool.text

    pool.run("replace", "work", "--token-stdin", stdin=pool.secret(new.token))

    assert file.read_text() == f"{new.token}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert pool.text == before


def test_replace_names_the_place_it_cannot_write(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    work = pat("work")
    pool.standin.add(work)
    new = fresh("work", work)
    pool.standin.add(new)
    monkeypatch.setenv("MY_TOKEN", pool.secret(work.token))
    pool.run("add", "work", "--env", "MY_TOKEN")
    result = pool.run("replace", "work", "--token-stdin", stdin=pool.secret(new.token), code=1)
    assert "in the environment variable MY_TOKEN: set it where the proxy is started" in result.stderr
    # it may move to another place
    file = write_private(pool.folder / "token", new.token)
    pool.run("replace", "work", "--file", str(file))
    assert tomllib.loads(pool.text)["identity"][0]["token"] == {"file": "~/token"}


def test_replace_is_refused_if_the_old_owner_is_unknown(pool: Pool) -> None:
    work = pat("work", alive=False)
    pool.standin.add(work)
    new = fresh("work", work)
    pool.standin.add(new)
    write_private(pool.path, f'[[identity]]\nname = "work"\ntoken = "{pool.secret(work.token)}"\n')
    before = pool.text
    result = pool.run("replace", "work", "--token-stdin", stdin=pool.secret(new.token), code=1)
    assert "the owner of work's old token is unknown" in result.stderr
    assert "--as-new" in result.stderr
    assert pool.text == before


def test_replace_removes_the_old_expiry(pool: Pool) -> None:
    work = pat("work")
    pool.add(work)
    pool.path.write_text(pool.text + "expires = 2026-12-01\n")
    assert "is expected to expire on 2026-12-01" in pool.run("show", "work").output
    new = fresh("work", work)
    pool.standin.add(new)
    pool.run("replace", "work", "--token-stdin", stdin=pool.secret(new.token))
    assert "expires" not in pool.text


def test_list_and_show_say_what_is_left_as_a_proxy_has_seen_it(pool: Pool) -> None:
    # given: what a proxy has read, of an identity that has served no request
    pool.add(pat("work"))
    pool.add(pat("spare"))
    now = int(time.time())
    usage = Usage()
    usage.see(Window("codex", 10_080, 61.6, now + DAY, now))
    usage.see(Window("codex", 300, 18.0, now + 600, now))
    usage.see(Window("codex_spark", 300, 5.0, None, now))
    usage.limit(Limit("codex_spark", now + 600), now)
    usage.credits = ResetCredits(2, now + DAY, now, is_listed=True)
    with open_the_state() as state:
        state.put_note(USAGE, json.dumps(IdentityKey("acc-work", "user-work")), usage.document())
        state.put_note(USAGE, json.dumps(IdentityKey("acc-spare", "user-spare")), {"windows": 7})  # not ours

    rows, listed = pool.list(), pool.run("list").stdout
    shown = " ".join(pool.run("show", "work").stdout.split())  # Long lines are folded.

    soon, later = moment(now + 600), moment(now + DAY)
    assert rows["work"]["limits"] == [
        {"family": "codex", "minutes": 300, "used_percent": 18.0, "resets_at": soon},
        {"family": "codex", "minutes": 10_080, "used_percent": 61.6, "resets_at": later},
        {"family": "codex_spark", "minutes": 300, "used_percent": 5.0, "resets_at": None},
    ]
    assert rows["work"]["limited"] == {"codex_spark": soon}
    assert rows["work"]["reset_credits"] == {"available": 2, "expires_at": later}
    assert [rows["spare"][key] for key in ("limits", "limited", "reset_credits")] == [[], {}, None]
    assert re.search(r"work\tready\t5 h: 18 %, 7 d: 62 %, codex_spark 5 h: 5 %\t", listed)
    assert f"\t2 reset credits, the first until {local_time(later)}\n" in listed
    assert f"limits 5 h: 18 % used, resets {local_time(soon)}; 7 d: 62 % used, resets {local_time(later)}" in shown
    assert f"limited codex_spark until {local_time(soon)}" in shown
    assert f"reset credits 2 reset credits, the first until {local_time(later)}" in shown


def test_list_fits_a_narrow_terminal(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and statuses are not folded; what matters less is left out."""
    pool.add(pat("work"))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "40")

    title, _, row, *_ = unstyle(pool.run("list").stdout).splitlines()

    assert title.split()[:3] == ["name", "status", "limits"]
    assert row.split()[:2] == ["work", "ready"]


# -- pause, resume, remove


def test_pause_and_resume_give_back_the_same_bytes(pool: Pool) -> None:
    pool.add(pat("work"))
    before = pool.text
    pool.run("pause", "work")
    assert pool.list()["work"]["status"] == "paused"
    assert "already paused" in pool.run("pause", "work").output
    pool.run("resume", "work")
    assert pool.text == before
    assert "neither paused nor limited" in pool.run("resume", "work").output


def test_resume_ends_a_limit(pool: Pool) -> None:
    pool.add(pat("work"))
    fingerprint = pool.list()["work"]["fingerprint"]
    key = IdentityKey("acc-work", "user-work")
    with open_the_state() as state:
        evidence = Evidence(time.time(), "POST", RESPONSES, 429, "usage_limit_reached")
        limit = Condition(Status.LIMITED, time.time(), time.time() + 3600, evidence)
        state.put_condition(fingerprint, limit)
        state.put_note(USAGE, json.dumps(key), {"windows": [], "limited": {"codex": time.time() + 3600}})
    row = pool.list()["work"]
    assert row["status"] == "limited"
    assert "429 usage_limit_reached" in row["evidence"]
    # that its token is good changes nothing about it
    pool.standin.limit(pat("work").token, time.time() + 3600)
    assert json.loads(pool.run("check", "--json").stdout)["identities"][0]["status"] == "limited"
    assert pool.list()["work"]["status"] == "limited"

    assert "work is resumed" in pool.run("resume", "work").output

    assert pool.list()["work"]["status"] == "ready"
    with open_the_state() as state:
        assert state.load().notes[(USAGE, json.dumps(key))]["limited"] == {}
    assert "its status is ready" in pool.run("resume", "work").output


def test_resume_ends_exclusions_of_models_and_endpoints(pool: Pool) -> None:
    # given: an identity that is ready, and not for one model, and one endpoint
    pool.add(pat("work"))
    now, fingerprint = time.time(), pool.list()["work"]["fingerprint"]
    of_token, of_plan, _ = subjects(fingerprint, Metadata("acc-work", "user-work", "business"))
    with open_the_state() as state:
        for kind, subject, what in ((Kind.ENDPOINT, of_token, RESPONSES), (Kind.MODEL, of_plan, "gpt-x")):
            entry = Exclusion(kind, subject, what, now, now + 600, "because")
            state.put_note(NOT_FOR, subject, {"entries": [list(entry)]})
    row = pool.list()["work"]
    assert (row["status"], len(row["not_for"])) == ("ready", 2)

    assert "work is resumed" in pool.run("resume", "work").output

    assert pool.list()["work"]["not_for"] == []
    with open_the_state() as state:
        assert (RESUMED, fingerprint) in state.load().notes  # for proxies that run
    assert "its status is ready" in pool.run("resume", "work").output


def test_breaker_is_shown_and_closed(pool: Pool) -> None:
    pool.add(pat("work"))
    assert "closed" in pool.run("breaker").output
    opened = {"opened_at": time.time(), "until": time.time() + 60, "names": ["work", "spare"]}
    with open_the_state() as state:
        state.put_note(BREAKER, str(pool.path), opened)

    shown = pool.run("breaker", code=1).output
    assert "open" in shown
    assert "refused for good: work, spare" in shown
    document = json.loads(pool.run("breaker", "--json", code=1).stdout)
    assert (document["state"], document["names"]) == ("open", ["work", "spare"])
    assert "closed" in pool.run("breaker", "--close").output
    assert json.loads(pool.run("breaker", "--json").stdout) == {
        "version": 1,
        "state": "closed",
        "since": None,
        "names": [],
        "until": None,
    }


def test_remove_keeps_comments(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.add(pat("spare"))
    pool.path.write_text(pool.text.replace("[[identity]]", "# about the next\n[[identity]]"))

    pool.run("remove", "work")

    assert list(pool.list()) == ["spare"]
    assert pool.text.count("# about the next") == 2
    pool.run("remove", "spare")
    assert pool.list() == {}
    assert pool.text.count("# about the next") == 2
    assert 'no identity "work"' in pool.run("remove", "work", code=2).stderr


# -- a pool without identities

MEMBER = f'[[member]]\nname = "ann"\nkey = "sha256:{"0" * 64}"\n'


@pytest.mark.parametrize("text", [None, "", "# comments only\n", "[pool]\n", "identity = []\n", MEMBER])
def test_a_pool_without_identities_is_a_state_and_no_error(pool: Pool, text: str | None) -> None:
    # given no pool.toml yet, or one without identities
    if text is not None:
        pool.path.parent.mkdir(parents=True, exist_ok=True)
        write_private(pool.path, text)

    # then commands that only read say so to a person, and print nothing else
    for command in (("list",), ("check",)):
        result = pool.run(*command)
        said = ["codexpool: no identities yet: codexpool add NAME"]
        if text is None:  # A path that was mistyped looks the same.
            said.append(f"codexpool: CODEXPOOL_CONFIG names {pool.path}, which does not exist yet")
        assert result.stderr.splitlines() == said
    assert pool.list() == {}
    state = "valid" if text is not None else "does not exist yet"
    assert f": {state}, 0 identities" in pool.run("config", "check").stdout
    pool.run("member", "list")
    assert "no identities yet: codexpool add NAME" in pool.run("show", "work", code=2).stderr

    # and none of them creates a file, but what adds something does
    assert pool.path.exists() is (text is not None)
    pool.run("member", "add", "bob")
    pool.add(pat("work"))
    assert list(pool.list()) == ["work"]
    assert pool.path.stat().st_mode & 0o777 == 0o600


def test_a_pool_toml_that_a_failed_edit_created_is_removed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise editing.EditError(pool.path, "cannot be edited: disk full", "fix this")

    monkeypatch.setattr(editing, "edit", fail)
    result = pool.add(pat("work"), code=1)
    assert "disk full" in result.stderr
    assert not pool.path.exists()


# -- config check


def test_config_check_prints_the_path_and_the_problems(pool: Pool) -> None:
    pool.run("config", "check", "--config", str(pool.folder / "none"), code=2)
    pool.add(pat("work"))
    assert f"{pool.path}: valid, 1 identity" in pool.run("config", "check").output
    pool.path.write_text(pool.text + 'tokn = "x"\n')
    result = pool.run("config", "check", "--json", code=1)
    document = json.loads(result.stdout)
    assert (document["path"], document["holds"]) == (str(pool.path), False)
    assert document["problems"][0]["line"] == pool.text.count("\n")
    assert 'unknown key "tokn"; did you mean "token"?' in pool.run("config", "check", code=1).stderr
    pool.path.chmod(0o644)
    assert f"chmod 600 {pool.path}" in pool.run("config", "check", code=1).stderr


# -- login


def test_login_runs_codex_login_in_a_private_folder(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = login_of(pool.standin, pool.folder / "made", owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{made.path}" "$CODEX_HOME/auth.json"')

    pool.run("login", "spare", "--device-auth")

    assert (pool.folder / "asked").read_text() == "login --device-auth\n"
    kept = pool.folder / "data" / "codexpool" / "logins" / "spare" / "auth.json"
    assert json.loads(kept.read_text()) == made.first
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert pool.list()["spare"]["status"] == "ready"
    assert [path.name for path in kept.parent.parent.iterdir()] == ["spare"]


def test_login_replaces_an_existing_login(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = login_of(pool.standin, pool.folder / "made", owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{first.path}" "$CODEX_HOME/auth.json"')
    pool.run("login", "spare")
    before = pool.text
    again = login_of(pool.standin, pool.folder / "again", owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{again.path}" "$CODEX_HOME/auth.json"')

    pool.run("login", "spare")

    kept = pool.folder / "data" / "codexpool" / "logins" / "spare" / "auth.json"
    assert json.loads(kept.read_text()) == again.first
    assert pool.text == before

    stranger = login_of(pool.standin, pool.folder / "stranger", owner("stranger"))
    fake_codex(pool, monkeypatch, f'cp "{stranger.path}" "$CODEX_HOME/auth.json"')
    assert "the new token belongs to another account or user" in pool.run("login", "spare", code=1).stderr
    assert json.loads(kept.read_text()) == again.first


def test_login_never_overwrites_another_pools_login(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = login_of(pool.standin, pool.folder / "first", owner("one"))
    fake_codex(pool, monkeypatch, f'cp "{first.path}" "$CODEX_HOME/auth.json"')
    pool.run("login", "spare")
    other = pool.folder / "other.toml"
    second = login_of(pool.standin, pool.folder / "second", owner("two"))
    fake_codex(pool, monkeypatch, f'cp "{second.path}" "$CODEX_HOME/auth.json"')

    pool.run("login", "spare", "--config", str(other))

    logins = pool.folder / "data" / "codexpool" / "logins"
    assert json.loads((logins / "spare" / "auth.json").read_text()) == first.first
    assert json.loads((logins / "spare-2" / "auth.json").read_text()) == second.first
    # and one that is refused leaves both, and nothing else
    pool.run("login", "again", "--config", str(other), code=1)
    assert sorted(path.name for path in logins.iterdir()) == ["spare", "spare-2"]


def test_a_dry_run_spends_no_refresh_token(pool: Pool) -> None:
    login = login_of(pool.standin, pool.folder, owner("spare"), lifetime=200)
    pool.run("add", "spare", "--auth-json", str(login.path), "--dry-run")
    assert login.document == login.first
    assert pool.standin.refreshes == 0


def test_replace_does_not_write_to_a_readable_file(pool: Pool) -> None:
    work = pat("work")
    pool.standin.add(work)
    new = fresh("work", work)
    pool.standin.add(new)
    file = write_private(pool.folder / "token", pool.secret(work.token))
    pool.run("add", "work", "--file", str(file))
    file.chmod(0o644)
    result = pool.run("replace", "work", "--token-stdin", stdin=pool.secret(new.token), code=1)
    assert f"chmod 600 {file}" in result.stderr
    assert file.read_text() == work.token


def test_a_token_given_as_a_name_is_not_shown(pool: Pool) -> None:
    pool.add(pat("work"))
    for command in ("check", "show", "pause"):
        assert "at-test-slip" not in pool.run(command, pool.secret("at-test-slip-0123456789"), code=2).stderr


def test_a_login_that_fails_changes_nothing(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_codex(pool, monkeypatch, "exit 3")
    assert "failed with exit code 3. Nothing was changed" in pool.run("login", "spare", code=1).stderr
    assert not pool.path.exists()
    monkeypatch.setenv("PATH", str(pool.folder / "empty"))
    assert "npm install -g @openai/codex" in pool.run("login", "spare", code=1).stderr


def test_foreign_fields_of_a_login_are_kept(pool: Pool) -> None:
    login = login_of(pool.standin, pool.folder, owner("spare"), lifetime=10)
    pool.run("add", "spare", "--auth-json", str(login.path))
    assert {key: login.document[key] for key in FOREIGN} == FOREIGN
