"""`codexpool member`: a key is shown once, and pool.toml stores its hash and changes nowhere else."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from codexpool.cli.commands.member import member
from codexpool.cli.common import Failure, Pool
from codexpool.config.read import load
from codexpool.tokens.member_key import PREFIX, hashed

BEFORE = '# mine\n\n[[identity]]  # odd\nname="team-a"\ntoken = { env = "A" }\n\n# the end\n'


class Members:
    """A pool.toml, and the command that edits its members; keys are on standard output or nowhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[str] = []

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(member, list(arguments))
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert PREFIX not in result.stderr
        assert PREFIX not in self.text
        return result

    def key(self, *arguments: str) -> str:
        """The key that a command prints, alone on standard output."""
        printed = self.run(*arguments).stdout
        assert re.fullmatch(r"at-pool-[A-Za-z0-9_-]{43}\n", printed), printed
        self.keys.append(printed.strip())
        return self.keys[-1]

    def list(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.run("list", "--json").stdout)["members"]}

    def entry(self, name: str = "ann") -> dict[str, Any]:
        return next(table for table in tomllib.loads(self.text)["member"] if table["name"] == name)

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Members:
    path = tmp_path / "pool.toml"
    path.write_text(BEFORE)
    path.chmod(0o600)
    monkeypatch.setenv("CODEXPOOL_CONFIG", str(path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return Members(path)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


# -- add


def test_add_prints_a_key_once_and_keeps_its_hash_only(members: Members) -> None:
    key = members.key("add", "ann")

    assert members.text == f'{BEFORE}\n[[member]]\nname = "ann"\nkey  = "{hashed(key)}"\n'
    assert stat.S_IMODE(members.path.stat().st_mode) == 0o600
    assert members.key("add", "bob") != key


def test_add_prints_instructions_on_standard_error(members: Members) -> None:
    said = members.run("add", "ann").stderr

    assert "CODEX_ACCESS_TOKEN" in said
    assert "codexpool env" in said
    assert "codexpool member rotate ann" in said


def test_add_writes_the_limits(members: Members) -> None:
    members.key(
        *("add", "ann", "--expires", "2099-01-31", "--identities", "team-*", "--identities", "spare"),
        *("--turns-at-once", "3", "--turns-a-day", "500"),
    )

    [ann] = load(members.path).members
    assert (ann.identities, ann.turns_at_once, ann.turns_a_day) == (("team-*", "spare"), 3, 500)
    assert ann.expires_at == datetime(2099, 2, 1, tzinfo=UTC).timestamp()


def test_a_pattern_that_matches_no_identity_is_reported(members: Members) -> None:
    said = members.run("add", "ann", "--identities", "team-*", "--identities", "tem-*").stderr
    assert '"tem-*" matches no identity' in said
    assert '"team-*"' not in said
    assert 'ann: "tem-*" matches no identity' in members.run("list").stderr


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ("", "on loopback only, a proxy serves clients without a key"),
        ('[pool]\naccess = "anyone"\n', 'access = "anyone": the proxy serves clients without a key'),
        ('[pool]\naccess = "members"\n', ""),
    ],
)
def test_a_pool_open_without_a_key_is_reported(members: Members, access: str, said: str) -> None:
    members.path.write_text(access + BEFORE)
    added, listed = members.run("add", "ann").stderr, members.run("list").stderr
    for text in (added, listed):
        assert said in text
        assert ("without a key" in text) == bool(said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "a b"),
        ("add", "at-pool-0123456789"),
        ("add", ""),
        ("add", "ann", "--turns-at-once", "0"),
        ("add", "ann", "--turns-a-day", "many"),
        ("add", "ann", "--identities", ""),
        ("add", "ann", "--expires", "2020-01-01"),
        ("add", "ann", "--expires", "2099-01-31T10:00:00"),
        ("add", "ann", "--expires", "soon"),
        ("revoke", "nobody"),
        ("rotate", "nobody"),
        ("rotate", "ann", "--grace", "24"),
        ("rotate", "ann", "--grace", "9999d"),
        ("expires", "nobody", "never"),
        ("expires", "ann", "2020-01-01"),
    ],
)
def test_a_usage_error_changes_nothing(members: Members, arguments: tuple[str, ...]) -> None:
    assert members.run(*arguments, code=2).stdout == ""
    assert members.text == BEFORE


def test_a_name_cannot_be_added_twice(members: Members) -> None:
    members.key("add", "ann")
    before = members.text

    result = members.run("add", "ann", code=1)

    assert f"member ann already exists ({members.path}:11)" in result.stderr
    assert "codexpool member rotate ann" in result.stderr
    assert (result.stdout, members.text) == ("", before)


def test_the_first_member_may_come_before_the_first_identity(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODEXPOOL_CONFIG")
    monkeypatch.setattr("codexpool.cli.common.entry", lambda: None)
    members.path.unlink()
    result = CliRunner().invoke(member, ["add", "ann"])
    assert result.exit_code == 0
    assert load(members.path.with_name("codexpool") / "pool.toml").member("ann") is not None


def test_a_key_that_cannot_be_printed_is_not_stored(members: Members) -> None:
    program = "from codexpool.cli.commands.member import member; member(prog_name='codexpool member')"
    reading, writing = os.pipe()
    os.close(reading)

    ended = subprocess.run(
        [sys.executable, "-c", program, "add", "ann"], stdout=writing, stderr=subprocess.PIPE, check=False
    )

    os.close(writing)
    assert ended.returncode == 1
    [line] = ended.stderr.decode().splitlines()
    assert line == "codexpool: cannot write the key to standard output: Broken pipe. Nothing was changed"
    assert members.text == BEFORE


def test_a_key_whose_hash_is_not_stored_is_reported(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pool: Pool, change: object) -> None:
        raise Failure("pool.toml cannot be written")

    monkeypatch.setattr(Pool, "edit", refuse)

    assert "The printed key is not valid" in members.run("add", "ann", code=1).stderr
    assert members.text == BEFORE


# -- list


def test_list_shows_statuses_and_no_key(members: Members) -> None:
    ann = members.key("add", "ann", "--identities", "team-*", "--turns-at-once", "3")
    members.key("add", "bob")
    members.key("add", "cy")
    members.run("revoke", "bob")
    members.path.write_text(members.text + "expires = 2020-01-01\n")

    rows = members.list()

    assert {name: row["status"] for name, row in rows.items()} == {"ann": "valid", "bob": "revoked", "cy": "expired"}
    assert rows["ann"]["fingerprint"] == hashed(ann)[7:19]
    assert (rows["ann"]["identities"], rows["ann"]["turns_at_once"]) == (["team-*"], 3)
    assert rows["cy"]["expires"] == "2020-01-02T00:00:00Z"
    printed = members.run("list").stdout
    assert "\x1b" not in printed
    for text in (printed, json.dumps(rows)):
        assert not [key for key in members.keys if key in text or hashed(key) in text]


def test_an_empty_list_says_how_to_begin(members: Members) -> None:
    assert "codexpool member add NAME" in members.run("list").stderr
    assert members.list() == {}


# -- revoke, rotate, expires


def test_revoke_ends_all_keys_and_may_be_repeated(members: Members) -> None:
    members.key("add", "ann")
    members.key("rotate", "ann")

    members.run("revoke", "ann")

    assert "previous" not in members.entry()
    assert now() - members.entry()["revoked"] < timedelta(minutes=1)
    before = members.text
    assert "was already revoked at" in members.run("revoke", "ann").stdout
    assert members.text == before


@pytest.mark.parametrize(
    ("grace", "lasts"),
    [
        ((), timedelta(hours=24)),
        (("--grace", "90m"), timedelta(minutes=90)),
        (("--grace", "7d"), timedelta(days=7)),
    ],
)
def test_rotate_keeps_the_old_key_for_the_grace_period(
    members: Members, grace: tuple[str, ...], lasts: timedelta
) -> None:
    old = members.key("add", "ann")

    new = members.key("rotate", "ann", *grace)

    entry = members.entry()
    assert entry["key"] == hashed(new)
    assert entry["previous"]["key"] == hashed(old)
    assert timedelta() <= now() + lasts - entry["previous"]["until"] < timedelta(minutes=1)
    assert members.list()["ann"]["previous_until"]


def test_rotate_without_grace_ends_all_old_keys(members: Members) -> None:
    members.key("add", "ann")
    members.key("rotate", "ann")

    newest = members.key("rotate", "ann", "--grace", "0")

    assert members.entry() == {"name": "ann", "key": hashed(newest)}


def test_rotate_twice_keeps_the_newer_old_key(members: Members) -> None:
    members.key("add", "ann")
    second = members.key("rotate", "ann")

    members.key("rotate", "ann")

    assert members.entry()["previous"]["key"] == hashed(second)


def test_reinstate_issues_a_new_key_only(
    members: Members,
) -> None:
    members.key("add", "ann")
    members.run("revoke", "ann")
    before = members.text

    refused = members.run("rotate", "ann", code=1)
    assert "codexpool member rotate ann --reinstate" in refused.stderr
    assert (refused.stdout, members.text) == ("", before)

    new = members.key("rotate", "ann", "--reinstate")
    assert members.entry() == {"name": "ann", "key": hashed(new)}


def test_rotate_warns_if_the_member_has_expired(members: Members) -> None:
    members.key("add", "ann")
    members.path.write_text(members.text + "expires = 2020-01-01\n")
    assert "codexpool member expires ann never" in members.run("rotate", "ann").stderr


def test_expires_changes_no_other_byte(members: Members) -> None:
    members.key("add", "ann")
    members.path.write_text(members.text + "# ann is on the second floor\n")
    before = members.text

    members.run("expires", "ann", "2099-01-31")
    assert members.list()["ann"]["expires"] == "2099-02-01T00:00:00Z"
    members.run("expires", "ann", "2099-01-31T18:00:00+01:00")
    assert members.list()["ann"]["expires"] == "2099-01-31T17:00:00Z"
    members.run("expires", "ann", "never")

    assert members.text == before


# -- remove


def test_remove_leaves_nothing_of_a_member(members: Members) -> None:
    members.key("add", "ann", "--turns-a-day", "5")
    members.key("add", "bob")
    members.key("rotate", "ann")

    said = members.run("remove", "ann").stdout

    assert f"removed ann from {members.path}" in said
    assert set(members.list()) == {"bob"}
    assert members.text.startswith(BEFORE)
    members.run("remove", "ann", code=2)


def test_the_last_member_can_be_removed(members: Members) -> None:
    members.key("add", "ann")

    members.run("remove", "ann")

    assert members.text.strip() == BEFORE.strip()
