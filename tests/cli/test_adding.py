"""Adding: what is pasted is recognized, what is in the pool already is found, and what would break is refused."""

from __future__ import annotations

import errno
import json
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest

from codexpool.cli import new_identity, tokens
from codexpool.cli.common import open_the_state
from codexpool.pool.identity import PAUSED_IN_FILE, Condition, Evidence, IdentityKey, Status
from codexpool.state.notes import PINNED, USAGE
from codexpool.views.formatting import local_time
from tests.cli.pools import Pool, fake_codex
from tests.config.unwritable import unwritable
from tests.e2e.logins import TOKEN_ENDPOINT, login_of, owner, write_private
from tests.running import key_of, member, pat
from tests.standin import WHOAMI, StandIn

OWNER = json.dumps(IdentityKey("acc-work", "user-work"))


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield Pool(standin, tmp_path, monkeypatch)


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "can_ask", lambda: True)


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str]:
    """The keyring, by service and user."""
    ring: dict[tuple[str, str], str] = {}
    monkeypatch.setattr(keyring, "get_password", lambda *pair: ring.get(pair))
    monkeypatch.setattr(keyring, "set_password", lambda service, user, secret: ring.update({(service, user): secret}))
    monkeypatch.setattr(keyring, "delete_password", lambda *pair: ring.pop(pair))
    return ring


def entries(pool: Pool) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in tomllib.loads(pool.text)["identity"]}


def test_a_token_is_taken_without_what_was_copied_with_it(pool: Pool) -> None:
    work = pool.secret(pat("work").token)
    pool.standin.add(pat("work"))

    result = pool.run("add", "work", "--token-stdin", stdin=f' "Bearer {work}"\r\n')

    assert entries(pool)["work"]["token"] == work
    assert 'took the token without the quotes and "Bearer" around it' in result.stderr


@pytest.mark.usefixtures("at_terminal")
def test_at_a_prompt_one_may_try_again(pool: Pool) -> None:
    """After something that is no token, one that the backend refuses, and one of another identity."""
    for token in (pat("work"), pat("dead", alive=False)):
        pool.standin.add(token)
        pool.secret(token.token)
    pool.add(pat("spare"))
    typed = ["sk-proj-0123456789", pat("dead").token, pat("spare").token, pat("work").token]

    result = pool.run("add", "work", stdin="\n".join(typed))

    assert "the token is an API key" in result.stderr
    assert "the backend refused this token" in result.stderr
    assert "is in the pool, as spare" in result.stderr
    assert result.stderr.count("try again, or press Ctrl-C") == 3
    assert entries(pool)["work"]["token"] == pat("work").token


def test_the_same_token_twice_is_found_without_asking(pool: Pool) -> None:
    pool.add(pat("work"))
    file = write_private(pool.folder / "token", pat("work").token)
    pool.standin.kill(pat("work").token)
    before, asked = pool.text, len(pool.standin.requests(WHOAMI))

    for source in (("--token-stdin",), ("--file", str(file))):
        result = pool.run("add", "other", *source, stdin=pat("work").token, code=1)

        assert "is in the pool, as work (codexpool rename changes its name). Nothing was changed" in result.stderr
    assert pool.text == before
    assert len(pool.standin.requests(WHOAMI)) == asked


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["add", "dry run"])
def test_a_clients_own_login_is_refused_and_not_renewed(pool: Pool, more: tuple[str, ...]) -> None:
    login = login_of(pool.standin, pool.folder, owner("mine"), lifetime=-10)
    own = pool.folder / ".codex" / "auth.json"
    own.parent.mkdir()
    login.path.rename(own)
    before = own.read_text()

    result = pool.run("add", "mine", "--auth-json", str(own), *more, code=1)

    assert "is also the login of your Codex client: two programs that renew one login break it" in result.stderr
    assert "codexpool login mine (or insist with --force)" in result.stderr
    assert (own.read_text(), pool.path.exists()) == (before, False)
    assert pool.standin.requests(TOKEN_ENDPOINT) == []


def test_force_adds_a_clients_own_login(pool: Pool) -> None:
    login = login_of(pool.standin, pool.folder, owner("mine"))
    own = pool.folder / ".codex" / "auth.json"
    own.parent.mkdir()
    login.path.rename(own)

    pool.run("add", "mine", "--auth-json", str(own), "--force")

    assert pool.list()["mine"]["status"] == "ready"


def test_a_clients_own_access_token_is_no_login_to_break(pool: Pool) -> None:
    pool.standin.add(pat("mine"))
    own = pool.folder / ".codex" / "auth.json"
    write_private(own, json.dumps({"personal_access_token": pool.secret(pat("mine").token)}))

    pool.run("add", "mine", "--auth-json", str(own))

    assert pool.list()["mine"]["status"] == "ready"


def test_a_dry_run_prints_the_toml_of_the_table(pool: Pool) -> None:
    result = pool.add(pat("work"), "--dry-run", "--expires", "2999-12-31", "--priority", "2")

    [table] = tomllib.loads(result.stdout)["identity"]
    token = table.pop("token")
    assert token.startswith("(sha256:")
    assert str(table.pop("expires")) == "2999-12-31"
    assert table == {"name": "work", "account_id": "acc-work", "user_id": "user-work", "priority": 2}
    assert not pool.path.exists()


def test_expiry_and_priority_are_written(pool: Pool) -> None:
    result = pool.add(pat("work"), "--expires", "2999-12-31", "--priority", "2")
    new = pat("work-fresh")
    new = type(new)(new.token, "acc-work", "user-work", name="work")
    pool.standin.add(new)

    assert (str(entries(pool)["work"]["expires"]), entries(pool)["work"]["priority"]) == ("2999-12-31", 2)
    assert 'a priority counts only with selection = "drain-first"' in result.stderr

    pool.run("replace", "work", "--expires", "2999-01-31", "--token-stdin", stdin=pool.secret(new.token))

    assert (str(entries(pool)["work"]["expires"]), entries(pool)["work"]["token"]) == ("2999-01-31", new.token)


def test_an_end_that_has_passed_is_a_usage_error(pool: Pool) -> None:
    result = pool.add(pat("work"), "--expires", "2020-01-01", code=2)
    assert "2020-01-01 has passed" in result.stderr


NAMES = {
    "-x": "begins with -",
    "..": "begins with .",
    ".hidden": "begins with .",
    "_x": "begins with _",
    "WORK": "differs from identity",
    "nul.x": "not a name for a folder on Windows",
    "work.": "not a name for a folder on Windows",
    "a/b": "is not a valid name",
    "": "is empty",
}


@pytest.mark.parametrize(("name", "said"), NAMES.items(), ids=map(str, range(len(NAMES))))
def test_a_name_that_no_folder_or_option_can_bear_is_refused(pool: Pool, name: str, said: str) -> None:
    pool.add(pat("work"))
    before = pool.text

    for command in (["add", "--token-stdin"], ["login"], ["rename", "work"]):
        if command[0] == "rename" and name == "WORK":
            continue  # It may change the case of its own name.
        result = pool.run(*command, "--", name, code=2)
        assert said in result.stderr
    assert pool.text == before


def test_a_members_name_is_as_strict(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.path.write_text(pool.text + member("ann"))
    pool.secret(key_of("ann"))

    assert "begins with ." in pool.run("member", "add", "--", "..", code=2).stderr
    assert 'differs from member "ann" in case only' in pool.run("member", "add", "Ann", code=2).stderr


def test_names_that_a_file_has_already_stay_valid(pool: Pool) -> None:
    """An upgrade makes no pool.toml invalid."""
    pool.add(pat("work"))
    pool.path.write_text(pool.text.replace('"work"', '"_x"'))

    assert list(pool.list()) == ["_x"]


def test_a_variable_is_for_the_running_proxy_too(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", pool.secret(pat("work").token))
    monkeypatch.setattr(new_identity, "any_announced", lambda: True)
    pool.standin.add(pat("work"))

    assert "the running proxy needs MY_TOKEN, too" in pool.run("add", "work", "--env", "MY_TOKEN").stderr


def test_a_place_that_cannot_be_written_is_no_reason_to_ask_again(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, at_terminal: None
) -> None:
    monkeypatch.setenv("MY_TOKEN", pool.secret(pat("work").token))
    pool.standin.add(pat("work"))
    pool.run("add", "work", "--env", "MY_TOKEN")

    result = pool.run("replace", "work", stdin=f"{pat('work').token}\n", code=1)

    assert "set it where the proxy is started" in result.stderr
    assert "try again" not in result.stderr


# -- the keyring


def test_what_is_given_with_keyring_is_stored_there(pool: Pool, ring: dict[tuple[str, str], str]) -> None:
    pool.add(pat("work"), "--keyring", "codexpool")

    assert ring == {("codexpool", "work"): pat("work").token}
    assert entries(pool)["work"]["token"] == {"keyring": "codexpool"}
    assert pat("work").token not in pool.text
    assert pool.list()["work"]["status"] == "ready"


@pytest.mark.usefixtures("at_terminal")
def test_a_keyring_without_an_entry_asks_for_one(pool: Pool, ring: dict[tuple[str, str], str]) -> None:
    pool.standin.add(pat("work"))

    result = pool.run("add", "work", "--keyring", "codexpool", stdin=f"{pool.secret(pat('work').token)}\n")

    assert "to be stored in the keyring, service codexpool" in result.stderr
    assert ring == {("codexpool", "work"): pat("work").token}
    assert entries(pool)["work"]["token"] == {"keyring": "codexpool"}


def test_a_refused_token_is_not_stored_in_the_keyring(pool: Pool, ring: dict[tuple[str, str], str]) -> None:
    ring["codexpool", "work"] = "earlier"

    pool.add(pat("work", alive=False), "--keyring", "codexpool", code=1)
    pool.folder.joinpath("file").touch()
    pool.add(pat("spare"), "--keyring", "codexpool", "--config", str(pool.folder / "file" / "pool.toml"), code=1)
    pool.add(pat("other"), "--keyring", "codexpool", "--dry-run")

    assert ring == {("codexpool", "work"): "earlier"}


def test_replace_moves_a_token_to_the_keyring(pool: Pool, ring: dict[tuple[str, str], str]) -> None:
    pool.add(pat("work"))

    pool.run("replace", "work", "--keyring", "codexpool", "--token-stdin", stdin=pat("work").token)

    assert ring == {("codexpool", "work"): pat("work").token}
    assert pat("work").token not in pool.text


# -- rename


def test_rename_takes_all_that_goes_by_the_name_along(pool: Pool, ring: dict[tuple[str, str], str]) -> None:
    # given: an identity that a session is pinned to, that a member may use, and that is flagged and in the keyring
    pool.add(pat("work"), "--keyring", "codexpool")
    pool.add(pat("spare"))
    pool.path.write_text("# mine\n" + pool.text + member("ann", identities='["spare", "work"]'))
    pool.secret(key_of("ann"))
    session = "0123abcd-0000-4000-8000-0123456789ab"
    pool.run("pin", session, "work")
    pool.run("pin", session.replace("0123abcd", "4567abcd"), "spare")
    pool.standin.kill(pat("work").token)
    pool.run("check", code=1)
    before, row = pool.text, pool.list()["work"]

    result = pool.run("rename", "work", "office")

    assert pool.text == before.replace('"work"', '"office"')
    after = pool.list()
    assert list(after) == ["office", "spare"]
    assert after["office"] == {**row, "name": "office", "needs": row["needs"].replace("work", "office")}
    assert ring == {("codexpool", "office"): pat("work").token}
    with open_the_state() as state:
        known = state.load()
    notes = {name.rpartition("#")[2][:4]: note for (kind, name), note in known.notes.items() if kind == PINNED}
    assert {session: note["identity"] for session, note in notes.items()} == {"0123": "office", "4567": "spare"}
    assert notes["0123"]["was"] == "work"  # For proxies that have not read pool.toml again.
    assert {name.rpartition("#")[2] for name in known.records} == {"office", "spare"}
    assert "member ann" not in result.stderr


def test_rename_tells_which_members_it_concerns(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.path.write_text(pool.text + member("ann", identities='["w*"]') + member("bob", identities='["o*"]'))

    said = pool.run("rename", "work", "office").stderr

    assert "member ann may not use it any more" in said
    assert "member bob may use it now" in said
    assert "terminals with codexpool env --identity work need the new name" in said


def test_a_name_may_change_its_case(pool: Pool) -> None:
    pool.add(pat("work"))

    pool.run("rename", "work", "Work")

    assert list(pool.list()) == ["Work"]


def test_rename_changes_nothing_if_it_fails(pool: Pool, ring: dict[tuple[str, str], str]) -> None:
    pool.add(pat("work"), "--keyring", "codexpool")
    pool.add(pat("spare"))
    before, entries = pool.text, {**ring, ("codexpool", "taken"): "of another pool"}
    ring.update(entries)

    assert "identity spare already exists" in pool.run("rename", "work", "spare", code=1).stderr
    assert "work is its name already" in pool.run("rename", "work", "work", code=1).stderr
    assert 'no identity "none"' in pool.run("rename", "none", "other", code=2).stderr
    assert "the keyring has another entry" in pool.run("rename", "work", "taken", code=1).stderr
    with unwritable(errno.EROFS):
        pool.run("rename", "work", "other", code=1)

    assert (pool.text, ring) == (before, entries)


# -- several names


def test_several_are_paused_and_resumed_at_once_or_not_at_all(pool: Pool) -> None:
    for name in ("work", "spare", "third"):
        pool.add(pat(name))
    before = pool.text

    assert 'no identity "none"' in pool.run("pause", "work", "none", code=2).stderr
    assert pool.text == before

    assert pool.run("pause", "work", "spare", "work").stdout == "work is paused\nspare is paused\n"
    assert [name for name, row in pool.list().items() if row["status"] == "paused"] == ["work", "spare"]
    assert pool.run("pause", "third", "work").stdout == "third is paused\nwork is already paused\n"

    resumed = pool.run("resume", "work", "spare", "third").stdout
    assert resumed == "work is resumed\nspare is resumed\nthird is resumed\n"
    assert pool.text == before


def test_resume_says_that_a_limit_goes_on(pool: Pool) -> None:
    pool.add(pat("work"))
    fingerprint, now = pool.list()["work"]["fingerprint"], time.time()
    with open_the_state() as state:
        # what a proxy has noted: the pause, and the limit of the account
        state.put_condition(fingerprint, Condition(Status.PAUSED, now, None, Evidence(now, note=PAUSED_IN_FILE)))
        state.put_note(USAGE, OWNER, {"windows": [], "limited": {"codex": now + 3600}})
    pool.run("pause", "work")

    said = pool.run("resume", "work").stdout

    until = local_time(now + 3600)
    assert f"work is no longer paused, but its limit goes on until {until}" in said
    assert "codexpool resume work" in said
    assert pool.list()["work"]["limited"]

    assert f"it was limited until {until}, and may refuse it again" in pool.run("resume", "work").stdout
    assert not pool.list()["work"]["limited"]


def test_resume_says_what_a_dead_identity_needs(pool: Pool) -> None:
    pool.add(pat("work"))
    pool.standin.kill(pat("work").token)
    pool.run("check", code=1)
    pool.run("pause", "work")

    said = pool.run("resume", "work").stdout

    assert "work is no longer paused, but is needs_replacement. See: codexpool show work" in said


# -- remove --purge


def test_purge_deletes_the_login_and_the_next_one_gets_its_folder(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = login_of(pool.standin, pool.folder, owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{login.path}" "$CODEX_HOME/auth.json"')
    folder = pool.folder / "data" / "codexpool" / "logins" / "spare"
    pool.run("login", "spare")
    (folder / ".auth.json.lock").touch()

    result = pool.run("remove", "spare", "--purge")

    assert f"deleted {folder}" in result.stdout
    assert not folder.exists()
    pool.run("login", "spare")
    assert (folder / "auth.json").exists()


def test_a_login_that_is_interrupted_leaves_its_folder_to_the_next(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = login_of(pool.standin, pool.folder, owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{login.path}" "$CODEX_HOME/auth.json"')
    folder = pool.folder / "data" / "codexpool" / "logins" / "spare"

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(new_identity, "verify", interrupted)
        pool.run("login", "spare", code=130)
    assert not folder.exists()

    with monkeypatch.context() as patch:  # What is in pool.toml by then is kept.
        patch.setattr(new_identity, "remember_new", interrupted)
        pool.run("login", "spare", code=130)
    assert pool.list()["spare"]["kind"] == "oauth"
    assert (folder / "auth.json").exists()


def test_purge_deletes_an_entry_of_the_keyring(pool: Pool, ring: dict[tuple[str, str], str]) -> None:
    pool.add(pat("work"), "--keyring", "codexpool")

    assert "deleted its entry in the keyring" in pool.run("remove", "work", "--purge").stdout
    assert ring == {}


def test_purge_deletes_nothing_that_codexpool_has_not_made(pool: Pool) -> None:
    login = login_of(pool.standin, pool.folder, owner("spare"))
    logins = pool.folder / "data" / "codexpool" / "logins"
    logins.mkdir(parents=True)
    shutil.copy(login.path, logins.parent)
    pool.run("add", "spare", "--auth-json", str(logins / ".." / "auth.json"))
    pool.add(pat("work"))

    for name in ("spare", "work"):
        said = pool.run("remove", name, "--purge", code=2).stderr
        assert "has no folder made by codexpool login, and no entry in the keyring" in said
    assert (logins.parent / "auth.json").exists()
    assert list(pool.list()) == ["spare", "work"]
