"""Programs that codexpool runs do not see the secrets of the pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from codexpool.config.read import parse
from codexpool.config.sources import environ_of_programs, resolve, secret_variables
from codexpool.credentials.command import Command
from tests.config.test_sources import GOOD, OTHER, sources

SEEN = {
    "PATH": "/bin",
    "HOME": "/home/kim",
    "CORP_LOGIN_PASSWORD": "is the command's own",
    "CODEXPOOL_CONFIG": "/etc/codexpool/pool.toml",
    "CODEXPOOL_STATE": "/var/lib/codexpool/state.sqlite3",
    "CODEX_HOME": "/home/kim/.codex",
}
HIDDEN = {
    "WORK": GOOD,
    "CODEXPOOL_WORK_TOKEN": OTHER,
    "CODEXPOOL_ANYTHING_ELSE": "may be a secret",
    "CODEXPOOL_PROXY": "http://team:secret@proxy:8080",
}


def test_tokens_and_our_own_variables_are_not_seen() -> None:
    assert environ_of_programs({**SEEN, **HIDDEN}, frozenset({"WORK"})) == SEEN


def test_a_state_url_may_have_a_password() -> None:
    for address in ("postgresql://pool:secret@db/pool", "pool:secret@db/pool", "host=db password=secret"):
        assert environ_of_programs({"CODEXPOOL_STATE": address}, frozenset()) == {}


def test_the_password_of_the_states_database_is_not_seen() -> None:
    environ = {"CODEXPOOL_STATE": "postgresql://pool@db/pool", "PGPASSWORD": "secret", "PATH": "/bin"}

    assert environ_of_programs(environ, frozenset()) == {"PATH": "/bin"}


def test_the_password_of_another_database_is_the_programs_own() -> None:
    environ = {"CODEXPOOL_STATE": "/var/lib/codexpool/state.sqlite3", "PGPASSWORD": "the command's own"}

    assert environ_of_programs(environ, frozenset()) == environ


PRINT = 'token = { command = ["/bin/sh", "-c", "echo corp-token-${WORK:-hidden}-${ADDED:-hidden}-0123456789"] }'


def config(*variables: str) -> str:
    tokens = [f'token = {{ env = "{variable}" }}' for variable in variables]
    return "".join(f'[[identity]]\nname = "i{n}"\n{token}\n' for n, token in enumerate([*tokens, PRINT]))


async def test_a_token_command_sees_no_token_of_another_identity(tmp_path: Path) -> None:
    environ = {"WORK": GOOD, "ADDED": OTHER, "PATH": "/bin:/usr/bin"}
    before = parse(config("WORK"), tmp_path / "pool.toml")
    after = parse(config("WORK", "ADDED"), tmp_path / "pool.toml")
    assert secret_variables(after) == {"WORK", "ADDED"}

    running = resolve(before, sources(environ)).credentials["i1"]
    first = await running.renewed(None, refused=False)
    # when: pool.toml names another variable, and the running command stays in use
    running = resolve(after, sources(environ)).credentials["i2"].after(running)
    second = await running.renewed(None, refused=False)

    assert isinstance(running, Command)
    assert first is not None
    assert first.bearer.token == f"corp-token-hidden-{OTHER}-0123456789"
    assert second is not None
    assert second.bearer.token == "corp-token-hidden-hidden-0123456789"


@pytest.mark.parametrize("environ", [{}, {"CODEXPOOL_CONFIG": "pool.toml"}])
def test_an_environment_without_secrets_is_as_it_was(environ: dict[str, str]) -> None:
    assert environ_of_programs(environ, frozenset()) == environ
