"""A credential that is not available leaves out its identity; the rest of the pool serves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from codexpool.common.clock_skew import Clock
from codexpool.common.private_files import UnusableError
from codexpool.config.model import Access, PoolConfig, Problem
from codexpool.config.read import load, parse
from codexpool.config.sources import CachedKeyring, Resolved, Sources, credential_of, resolve
from codexpool.credentials import Pat
from codexpool.credentials.agent import Agent
from codexpool.credentials.agent_api import AgentApi
from codexpool.credentials.http_client import Route
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.member_key import new_key
from tests.config.conftest import WritePrivate
from tests.credentials.shared import MemoryLogins, MemoryState
from tests.running import pat
from tests.standin.agents import make

GOOD = "at-test-0123456789abcdef"
OTHER = "at-test-fedcba9876543210"


def pool(*sources: str, folder: Path = Path("/pools")) -> PoolConfig:
    text = "".join(f'[[identity]]\nname = "i{n}"\ntoken = {source}\n' for n, source in enumerate(sources, 1))
    return parse(text, folder / "pool.toml")


def sources(environ: dict[str, str] | None = None, keyring: dict[tuple[str, str], str] | None = None) -> Sources:
    """Where tokens come from; ``keyring`` in place of this machine's own."""
    known = keyring or {}

    def read(service: str, name: str) -> str:
        if (service, name) not in known:
            raise UnusableError("the keyring has nothing", "store it")
        return known[service, name]

    agents = AgentApi(Route(), {}, Clock(), lambda: Path("/nowhere"))
    return Sources(environ or {}, TokenEndpoint(Route(), {}), agents, MemoryLogins(MemoryState()), read)


def bearers(resolved: Resolved) -> dict[str, Bearer | None]:
    return {name: credential.bearer() for name, credential in resolved.credentials.items()}


def left_out(source: str, environ: dict[str, str] | None = None, folder: Path = Path("/pools")) -> Problem:
    """The one problem of identity 2, ``source``, while the one before it serves."""
    resolved = resolve(pool(f'"{GOOD}"', source, folder=folder), sources(environ))
    assert bearers(resolved) == {"i1": Bearer.of(GOOD)}
    (problem,) = resolved.problems
    assert problem.file == folder / "pool.toml"
    assert (problem.line, problem.key) == (6, "identity[2].token")
    assert problem.what.endswith('; identity "i2" is left out')
    return problem


def test_the_jwt_of_an_agent_is_known_by_its_claims_wherever_it_is(write: WritePrivate) -> None:
    jwt = make(pat("bot")).jwt()
    config = pool(f'"{jwt}"', '{ env = "BOT" }', f'{{ file = "{write("bot", jwt)}" }}', '{ keyring = "codexpool" }')
    for spec in config.identities:
        credential = credential_of(spec, sources({"BOT": jwt}, {("codexpool", "i4"): jwt}))
        assert isinstance(credential, Agent)
        assert credential.identity.metadata.account_id == "acc-bot"
        assert credential.bearer() is None


def test_a_token_is_read_from_text_variable_or_file(write: WritePrivate) -> None:
    path = write("third", "\n at-test-third \r\n")
    config = pool(f'"{GOOD}"', '{ env = "SPARE" }', '{ file = "third" }', folder=path.parent)

    resolved = resolve(config, sources({"SPARE": OTHER}))

    assert bearers(resolved) == {"i1": Bearer.of(GOOD), "i2": Bearer.of(OTHER), "i3": Bearer.of("at-test-third")}
    assert resolved.problems == ()


def test_a_token_is_read_from_the_keyring() -> None:
    config = pool(f'"{GOOD}"', '{ keyring = "codexpool" }')
    assert bearers(resolve(config, sources(keyring={("codexpool", "i2"): OTHER})))["i2"] == Bearer.of(OTHER)
    assert "the keyring has nothing" in left_out('{ keyring = "codexpool" }').what


def test_an_unread_keyring_entry_is_pending_not_a_problem() -> None:
    config = pool(f'"{GOOD}"', '{ keyring = "codexpool" }')
    resolved = resolve(config, sources()._replace(keyring=CachedKeyring()))
    assert (bearers(resolved), resolved.problems) == ({"i1": Bearer.of(GOOD)}, ())
    assert resolved.pending == {"i2"}


def test_a_command_has_no_token_before_it_is_run() -> None:
    resolved = resolve(pool(f'"{GOOD}"', '{ command = ["/no/such/program"] }'), sources())
    assert bearers(resolved) == {"i1": Bearer.of(GOOD), "i2": None}
    assert resolved.problems == ()


def test_an_auth_json_gives_its_token(write: WritePrivate) -> None:
    path = write("auth.json", json.dumps({"personal_access_token": OTHER}))
    text = f'[[identity]]\nname = "i1"\nauth_json = "{path}"\n[[identity]]\nname = "i2"\nauth_json = "none.json"\n'
    resolved = resolve(parse(text, path.with_name("pool.toml")), sources())
    assert resolved.credentials["i1"] == Pat(Bearer.of(OTHER))
    (problem,) = resolved.problems
    assert str(problem).startswith(f"{path.with_name('pool.toml')}:6: identity[2].auth_json: {path.parent}/none.json")
    assert problem.what.endswith('there is no such file; identity "i2" is left out')


@pytest.mark.parametrize(
    ("environ", "said"), [({}, "variable SPARE is not set;"), ({"SPARE": ""}, "variable SPARE is empty;")]
)
def test_a_variable_without_a_token_leaves_out_its_identity(environ: dict[str, str], said: str) -> None:
    assert said in left_out('{ env = "SPARE" }', environ).what


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "is empty"),
        ("sk-test-1", "is an API key"),
        (f"Bearer {OTHER}", "begins with Bearer"),
        (f"{OTHER}\\n", "has spaces or a line break around it"),
        (f"{OTHER} x", "has a space in it"),
        ("at-", "is not a complete token"),
        ("at-…", "is not a complete token"),
        (f"{OTHER}\\u0000", "is not a complete token"),
    ],
)
def test_an_invalid_token_is_left_out_and_not_shown(token: str, said: str) -> None:
    problem = left_out(f'"{token}"')
    assert said in problem.what
    assert OTHER not in str(problem)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (f"{OTHER}\n{OTHER}\n", "has more than one line"),
        (b"\xff\xfe", "is not UTF-8 text"),
        ("sk-test-1", "is an API key"),
    ],
)
def test_a_token_file_without_a_token_is_left_out(write: WritePrivate, content: str | bytes, said: str) -> None:
    path = write("token", content)
    problem = left_out('{ file = "token" }', folder=path.parent)
    assert said in problem.what
    assert str(path) in problem.what
    assert OTHER not in str(problem)


def test_a_member_key_is_never_an_identitys_token(write: WritePrivate) -> None:
    key = new_key()
    folder = write("token", key).parent
    write("auth.json", json.dumps({"personal_access_token": key}))
    found = [
        left_out(f'"{key}"'),
        left_out('{ env = "SPARE" }', {"SPARE": key}),
        left_out('{ file = "token" }', folder=folder),
    ]
    in_keyring = pool(f'"{GOOD}"', '{ keyring = "codexpool" }')
    found += resolve(in_keyring, sources(keyring={("codexpool", "i2"): key})).problems
    in_auth_json = parse('[[identity]]\nname = "a"\nauth_json = "auth.json"', folder / "pool.toml")
    found += resolve(in_auth_json, sources()).problems

    assert len(found) == 5
    for problem in found:
        assert "is the key of a member of a pool" in problem.what
        assert key not in str(problem)


def test_a_missing_token_file_is_left_out(tmp_path: Path) -> None:
    assert "there is no such file" in left_out('{ file = "none" }', folder=tmp_path).what
    (tmp_path / "folder").mkdir()
    assert "is a folder" in left_out('{ file = "folder" }', folder=tmp_path).what


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_token_file_open_to_others_is_left_out(write: WritePrivate) -> None:
    path = write("token", OTHER)
    path.chmod(0o640)
    problem = left_out('{ file = "token" }', folder=path.parent)
    assert "is open to other users" in problem.what
    assert problem.remedy == f"chmod 600 {path}"


def test_the_first_of_two_identities_keeps_a_shared_token() -> None:
    problem = left_out('{ env = "SPARE" }', {"SPARE": GOOD})
    assert problem.what.startswith('is also the token of "i1"')
    assert GOOD not in str(problem)


def test_the_example_loads(write: WritePrivate) -> None:
    example = Path(__file__).parents[2] / "config" / "pool.example.toml"
    config = load(write("pool.toml", example.read_bytes()))

    resolved = resolve(config, sources({"CODEXPOOL_WORK_TOKEN": GOOD}))

    assert bearers(resolved) == {"work": Bearer.of(GOOD)}
    assert resolved.problems == ()


def test_the_example_is_valid_with_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Path(__file__).parents[2] / "config" / "pool.example.toml"
    setting = re.compile(r"# (\[\[(identity|member)\]\]$|[a-z_]+ *= )")
    lines = [line.removeprefix("# ") if setting.match(line) else line for line in example.read_text().splitlines()]
    config = parse("\n".join(lines), example)
    names = ["work", "spare", "third", "fourth", "login", "shared", "bot", "sso", "careful"]
    assert [identity.name for identity in config.identities] == names
    assert len({type(identity.source) for identity in config.identities}) == 7
    assert config.notify.command
    careful = config.identities[-1]
    assert careful.flag
    assert careful.paused
    assert careful.expires_at
    assert (config.access, config.turns_at_once) == (Access.MEMBERS, 40)
    [ann] = config.members
    assert ann.previous
    assert ann.expires_at
    assert ann.revoked_at
    assert ann.identities == ("team-*", "spare")
    assert (ann.turns_at_once, ann.turns_a_day) == (3, 500)
