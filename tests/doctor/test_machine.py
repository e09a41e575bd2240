"""What is found on the machine: versions, modes of files, clocks, logins and pool.toml."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from codexpool.common.clock_skew import Clock, offset
from codexpool.config.sources import resolve
from codexpool.credentials import Pat
from codexpool.credentials.agent import Agent
from codexpool.credentials.agent_identity import of_jwt
from codexpool.credentials.authapi import AuthApi
from codexpool.credentials.http_client import Route
from codexpool.doctor import configuration, machine
from codexpool.doctor.findings import Level
from codexpool.doctor.machine import Kept
from codexpool.local.ca_files import KEY
from codexpool.pool.identity import IdentityKey
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.state_keys import new_key, state_keys
from tests.config.test_sources import sources
from tests.config.unwritable import unwritable
from tests.credentials.shared import MemoryLogins, MemoryState
from tests.doctor.fakes import client, running
from tests.running import pat
from tests.standin.agents import make

NOW = 1_764_000_000.0


def levels(findings: Any) -> list[Level]:
    return [finding.level for finding in findings]


# -- the client's version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("codex-cli 0.169.0\n", (0, 169, 0)),
        ("codex-cli 0.155.0-alpha.9.2", (0, 155, 0)),
        ("codex-cli", None),
        ("", None),
    ],
)
def test_the_version_is_parsed(text: str, version: tuple[int, ...] | None) -> None:
    assert machine.version_of(text) == version


def program(folder: Path, says: str, helps: str = "--with-access-token") -> Path:
    """A client that says its version, and how it can be logged in."""
    path = folder / "codex"
    path.write_text(f'#!/bin/sh\ncase "$1" in --version) echo "{says}";; login) echo "{helps}";; esac\n')
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("says", "helps", "expected"),
    [
        ("codex-cli 0.169.0", "--with-access-token", Level.OK),
        ("codex-cli 0.172.0", "--with-access-token", Level.OK),
        ("codex-cli 0.155.0", "--with-access-token", Level.NOTE),
        ("codex-cli 0.140.0", "", Level.WRONG),
        ("nothing", "", Level.NOTE),
    ],
)
def test_the_client_is_run_for_its_version(tmp_path: Path, says: str, helps: str, expected: Level) -> None:
    found = machine.check_client(program(tmp_path, says, helps), "at-test-0123456789abcdef")

    assert levels(found) == [expected]


def test_the_client_is_run_without_the_secrets_of_this_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "codex"
    path.write_text(f'#!/bin/sh\nenv > "{tmp_path}/environ"\necho codex-cli 0.171.0\n')
    path.chmod(0o700)
    monkeypatch.setenv("CODEXPOOL_STATE", "postgresql://codexpool:hidden-1@db/codexpool")
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", "hidden-2")
    monkeypatch.setenv("PGPASSWORD", "hidden-3")
    list(machine.check_client(path, ""))
    assert "hidden-" not in (tmp_path / "environ").read_text()


def test_no_client_is_a_note() -> None:
    assert machine.find_program(None, {"PATH": "/nowhere"}) is None
    assert levels(machine.check_client(None, "")) == [Level.NOTE]


# -- modes


FILE, FOLDER = stat.S_IFREG, stat.S_IFDIR


def status_of(mode: int, owner: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "level", "remedy"),
    [
        (FILE | 0o600, None, ""),
        (FILE | 0o640, Level.WRONG, "chmod 600 '/a b'"),
        (FILE | 0o400, None, ""),
        (FILE | 0o644, Level.WRONG, "chmod 600 '/a b'"),
        (FILE | 0o620, Level.WRONG, "chmod 600 '/a b'"),
        (FOLDER | 0o700, None, ""),
        (FOLDER | 0o755, Level.NOTE, "chmod 700 '/a b'"),
        (FOLDER | 0o711, Level.NOTE, "chmod 700 '/a b'"),
        (FOLDER | 0o770, Level.WRONG, "chmod 700 '/a b'"),
    ],
)
def test_a_mode_that_is_too_open_has_its_chmod(mode: int, level: Level | None, remedy: str) -> None:
    finding = machine.check_mode(Kept(Path("/a b"), "the state"), status_of(mode, owner=10001))

    assert (finding and finding.level, finding.remedy if finding else "") == (level, remedy)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_mounted_secret_of_root_may_be_readable_by_our_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 10001)
    kept = Kept(Path("/etc/codexpool/pool.toml"), "pool.toml")
    assert machine.check_mode(kept, status_of(FILE | 0o440, owner=0)) is None
    assert machine.check_mode(kept, status_of(FILE | 0o444, owner=0)) is not None


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_missing_files_have_no_finding(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / KEY).touch(0o600)

    def found(folder: Path) -> list[Level]:
        nowhere = folder / "none"
        return levels(machine.check_files(machine.secret_files([nowhere], nowhere, folder, nowhere, nowhere)))

    assert found(tmp_path) == [Level.OK]
    (tmp_path / KEY).chmod(0o640)
    assert found(tmp_path) == [Level.WRONG]
    assert found(tmp_path / "none") == []


# -- clocks


@pytest.mark.parametrize(
    ("at", "clock", "expected"),
    [
        (NOW, {"offset": 0.0}, [Level.OK]),
        (NOW, {"offset": None}, [Level.OK]),
        (NOW + 59, None, [Level.OK]),
        (NOW + 61, None, [Level.WRONG]),
        (NOW - 61, None, [Level.WRONG]),
        (NOW, {"offset": -300.0}, [Level.WRONG]),
        (NOW, {"offset": 61}, [Level.WRONG]),
    ],
)
def test_clocks_may_be_a_minute_apart(at: float, clock: Any, expected: list[Level]) -> None:
    findings = list(machine.check_clocks({"at": at, "clock": clock}, NOW, NOW))

    assert levels(findings) == expected


def test_it_says_which_clock_is_ahead() -> None:
    ahead, behind = ({"at": NOW, "clock": {"offset": seconds}} for seconds in (300.0, -300.0))

    assert "5 min ahead of the backend's" in next(machine.check_clocks(ahead, NOW, NOW)).text
    assert "5 min behind the backend's" in next(machine.check_clocks(behind, NOW, NOW)).text


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Mon, 24 Nov 2025 16:00:00 GMT", 0.0),
        ("Mon, 24 Nov 2025 16:00:02 GMT", 0.0),
        ("Mon, 24 Nov 2025 15:50:00 GMT", 599.0),
        ("Mon, 24 Nov 2025 16:10:00 GMT", -598.0),
        ("Mon, 24 Nov 2025 16:00:00 -0000", 0.0),
        ("yesterday", None),
        ("", None),
    ],
)
def test_the_offset_allows_for_the_time_of_the_request(date: str, expected: float | None) -> None:
    assert offset(date, NOW, NOW + 2) == expected


async def test_whoami_sets_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path) as backend:
        backend.shift = -600
        api = AuthApi(Route(), {"CODEX_AUTHAPI_BASE_URL": backend.url}, clock)
        await api.whoami(Bearer.of("at-test-0123456789abcdef"))

    assert clock.offset is not None
    assert 590 < clock.offset < 610


# -- pool.toml and logins


def pool(folder: Path, text: str) -> Path:
    path = folder / "pool.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


PAT = "at-test-0123456789abcdef"

ONE = f'[[identity]]\nname = "work"\ntoken = "{PAT}"\n'


def test_an_invalid_pool_says_where(tmp_path: Path) -> None:
    config, problems = configuration.read(pool(tmp_path, ONE))
    assert config is not None
    assert problems == []
    assert levels(configuration.check_config(config, resolve(config, sources()), {})) == [Level.OK]

    none, problems = configuration.read(pool(tmp_path, ONE + "nonsense = 1\n"))
    assert none is None
    assert levels(problems) == [Level.WRONG]
    assert "pool.toml:4" in problems[0].text
    assert PAT not in str(problems)


def test_a_pool_that_cannot_be_written_is_no_problem(tmp_path: Path) -> None:
    with unwritable(errno.EROFS):
        config, _ = configuration.read(pool(tmp_path, ONE))
    assert config is not None
    (finding,) = configuration.check_config(config, resolve(config, sources()), {})
    assert (finding.level, "the state keeps the flags" in finding.text) == (Level.OK, True)


def test_a_variable_that_only_the_proxy_has_is_a_note(tmp_path: Path) -> None:
    text = '[[identity]]\nname = "work"\ntoken = { env = "CODEXPOOL_TEST_TOKEN" }\n'
    config, _ = configuration.read(pool(tmp_path, text))
    assert config is not None

    assert levels(configuration.check_config(config, resolve(config, sources()), {})) == [Level.OK, Level.NOTE]


@pytest.mark.parametrize(
    ("environ", "expected"), [({}, Level.NOTE), ({"CODEXPOOL_STATE_KEY": new_key()}, Level.WRONG)]
)
def test_a_shared_login_whose_key_only_the_proxy_has_is_a_note(
    tmp_path: Path, environ: dict[str, str], expected: Level
) -> None:
    text = '[[identity]]\nname = "a"\nlogin = "state"\naccount_id = "acc-1"\nuser_id = "user-1"\n'
    config, _ = configuration.read(pool(tmp_path, text))
    assert config is not None
    state = MemoryState()
    state.log_in(IdentityKey("acc-1", "user-1"), "{}")
    logins = MemoryLogins(state, state_keys(environ))
    logins.heard = {key: row.stored for key, row in state.rows.items()}

    found = list(configuration.check_config(config, resolve(config, sources()._replace(logins=logins)), environ))

    assert levels(found) == [Level.OK, expected]
    assert "its login in the state is encrypted" in found[1].text


@pytest.mark.parametrize(
    ("environ", "auth_json", "expected"),
    [
        ({}, "", Level.OK),
        ({}, json.dumps({"personal_access_token": "at-test-another-0123"}), Level.OK),
        ({}, json.dumps({"personal_access_token": PAT}), Level.NOTE),
        ({"CODEX_ACCESS_TOKEN": PAT}, "", Level.NOTE),
    ],
)
def test_a_client_with_a_token_of_the_pool_is_a_note(
    tmp_path: Path, environ: dict[str, str], auth_json: str, expected: Level
) -> None:
    config, _ = configuration.read(pool(tmp_path, ONE))
    assert config is not None

    found = list(configuration.check_logins(config, {"work": Pat(Bearer.of(PAT))}, client(environ), auth_json))

    assert levels(found) == [expected]
    assert PAT not in str(found)


@pytest.mark.parametrize("where", ["variable", "file", "nowhere"])
def test_a_client_with_an_agent_of_the_pool_is_a_note(tmp_path: Path, where: str) -> None:
    config, _ = configuration.read(pool(tmp_path, ONE))
    assert config is not None
    theirs = make(pat("work"))
    agent = Agent(of_jwt(theirs.jwt()), sources().agents)
    environ = {"CODEX_ACCESS_TOKEN": theirs.jwt() if where == "variable" else make(pat("other")).jwt()}
    auth_json = json.dumps(theirs.auth_json()) if where == "file" else ""

    found = list(configuration.check_logins(config, {"work": agent}, client(environ), auth_json))

    assert levels(found) == [Level.OK if where == "nowhere" else Level.NOTE]
    assert theirs.token.token not in str(found)
