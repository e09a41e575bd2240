"""pool.toml is read whole or refused, with every mistake and its line."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.config.model import (
    ConfigError,
    Flag,
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    FromState,
    IdentitySpec,
    Inline,
    Notify,
    Problem,
)
from codexpool.config.read import load, parse
from codexpool.credentials.command import CommandLine
from codexpool.pool.identity import Kind
from codexpool.pool.selection import Selection
from codexpool.protocol.routes import route_of
from tests.config.conftest import WritePrivate, needs_a_plain_user
from tests.config.texts import Written, pool_texts

POOL = Path("/pools/pool.toml")
SECRET = "at-test-0123456789abcdef"
WHOLE = f"""\
[pool]
selection = "drain-first"

[[identity]]
name = "work"
token = "{SECRET}"
needs_replacement = {{ since = 2026-11-20T15:02:11+01:00, reason = "401", token = "sha256:1a2b3c4d5e6f" }}

[[identity]]
name = "spare"
token = {{ env = "SPARE" }}

[[identity]]
token.file = "tokens/third"
name = "third"
"""


def lines_said(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(text, Path("pool.toml"))
    return [str(problem) for problem in refused.value.problems]


def test_a_login_may_be_in_the_state() -> None:
    text = '[[identity]]\nname = "spare"\nlogin = "state"\naccount_id = "acc-1"\nuser_id = "user-1"\n'
    (spec,) = parse(text, POOL).identities
    assert (spec.source, spec.kind, spec.source_key, spec.line) == (FromState(), Kind.OAUTH, "login", 3)


def test_a_whole_file_is_read() -> None:
    config = parse(WHOLE, POOL)

    flag = Flag(datetime(2026, 11, 20, 14, 2, 11, tzinfo=UTC), "401", "sha256:1a2b3c4d5e6f")
    assert config.selection is Selection.DRAIN_FIRST
    assert config.identities == (
        IdentitySpec("work", Inline(SECRET), 6, flag),
        IdentitySpec("spare", FromEnv("SPARE"), 11, None),
        IdentitySpec("third", FromFile(Path("/pools/tokens/third")), 14, None),
    )
    assert config.files == (POOL, Path("/pools/tokens/third"))


def test_every_kind_of_credential_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/kim")
    text = """
[pool]
notify = { command = ["tell", "me"], webhook = "https://hooks.example.invalid/x" }

[[identity]]
name = "login"
auth_json = "~/.codex-spare/auth.json"
account_id = "acc"
user_id = "user"
paused = true

[[identity]]
name = "sso"
token = { command = ["corp-login", "codex"], timeout_ms = 100, refresh_interval_ms = 0, cwd = "~/corp" }
expires = 2026-12-31T10:00:00+01:00

[[identity]]
name = "ring"
token = { keyring = "codexpool" }
expires = 2026-12-31
"""
    config = parse(text, POOL)

    login, sso, ring = config.identities
    assert config.notify == Notify(("tell", "me"), "https://hooks.example.invalid/x")
    assert login.source == FromAuthJson(Path("/home/kim/.codex-spare/auth.json"))
    assert (login.account_id, login.user_id, login.paused) == ("acc", "user", True)
    assert sso.source == FromCommand(CommandLine(("corp-login", "codex"), Path("/home/kim/corp"), 100, 0))
    assert sso.expires_at == datetime(2026, 12, 31, 9, tzinfo=UTC).timestamp()
    assert ring.source == FromKeyring("codexpool")
    assert ring.expires_at == datetime(2027, 1, 1, tzinfo=UTC).timestamp()  # valid on its last day, too
    assert config.files == (POOL, Path("/home/kim/.codex-spare/auth.json"))


def test_a_command_has_the_defaults_of_codex() -> None:
    config = parse('[[identity]]\nname = "a"\ntoken.command = ["./login"]', POOL)
    assert config.identities[0].source == FromCommand(CommandLine(("./login",), POOL.parent, 5000, 300_000))


def test_headroom_is_the_default() -> None:
    assert parse('[[identity]]\nname = "a"\ntoken = "x"', POOL).selection is Selection.HEADROOM


def test_breaker_and_priority_are_read() -> None:
    config = parse('[pool]\nbreaker = 5\n[[identity]]\nname = "a"\ntoken = "x"\npriority = -2', POOL)

    assert (config.breaker, config.identities[0].priority) == (5, -2)
    silent = parse('[[identity]]\nname = "a"\ntoken = "x"', POOL)
    assert (silent.breaker, silent.identities[0].priority) == (3, 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[pool]\nbreaker = 0", "2: pool.breaker: is 0; write a whole number, 1 or more"),
        ('[pool]\nbreaker = "3"', "2: pool.breaker: is a string; write a whole number, 1 or more"),
        ("[pool]\nbreaker = true", "2: pool.breaker: is a boolean; write a whole number, 1 or more"),
    ],
)
def test_an_invalid_breaker_is_reported_with_its_line(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f'{line}\n[[identity]]\nname = "a"\ntoken = "x"', POOL)

    assert str(error.value).endswith(said)


def test_an_invalid_priority_is_reported_with_its_line() -> None:
    with pytest.raises(ConfigError) as error:
        parse('[[identity]]\nname = "a"\ntoken = "x"\npriority = 1.5', POOL)

    assert "4: identity[1].priority: is a" in str(error.value)
    assert str(error.value).endswith("write a whole number")


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/kim")
    config = parse('[[identity]]\nname = "a"\ntoken = { file = "~/t" }', POOL)
    assert config.identities[0].source == FromFile(Path("/home/kim/t"))


def test_a_bom_and_crlf_are_accepted() -> None:
    assert parse("\ufeff" + WHOLE.replace("\n", "\r\n"), POOL) == parse(WHOLE, POOL)


@given(pool_texts())
def test_every_way_of_writing_is_read(written: Written) -> None:
    assert [identity.name for identity in parse(written.text, POOL).identities] == written.names


def test_no_secret_is_in_a_repr() -> None:
    assert SECRET not in repr(parse(WHOLE, POOL))


ACCEPTED_TOKEN = (
    'write token = "at-…", { env = "VARIABLE" }, { file = "PATH" }, { keyring = "SERVICE" } or '
    '{ command = ["PROGRAM"] }, auth_json = "PATH", or login = "state"'
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pool", "pool.toml:1: is not TOML: Expected ']' at the end of a table declaration"),
        ("a = 1\na = 2", "pool.toml:2: is not TOML: Cannot overwrite a value"),
        ('[pool]\nselection = "x', "pool.toml:2: is not TOML: Unterminated string"),
        ('[identity]\nname = "a"', "pool.toml:1: identity: is one table; write [[identity]], with two brackets"),
        ("\nidentity = 3", "pool.toml:2: identity: is an integer; write"),
        ("identity = [\n1]", "pool.toml:2: identity[1]: is an integer; write an [[identity]] table"),
        ('pool = "x"', "pool.toml:1: pool: is a string; write [pool]"),
        ('[[identity]]\ntoken = "x"', 'pool.toml:1: identity[1]: has no name; add name = "…"'),
        ('[[identity]]\nname = "a"', f"pool.toml:1: identity[1]: has no token; {ACCEPTED_TOKEN}"),
        ("[[identity]]\n\nname = 1", "pool.toml:3: identity[1].name: is an integer; write a string"),
        ('[[identity]]\nname = ""', "pool.toml:2: identity[1].name: is empty; give the identity a name"),
        ('[[identity]]\nname = "a b"', 'pool.toml:2: identity[1].name: "a b" is not a valid name; use at most'),
        ('[[identity]]\nname = "a\\nb"', 'pool.toml:2: identity[1].name: "a\\nb" is not a valid name; use at most'),
        (f'[[identity]]\nname = "{"a" * 65}"', "pool.toml:2: identity[1].name: (not shown, sha256:"),
        ("[[identity]]\ntoken = 2026-01-01", f"pool.toml:2: identity[1].token: is a date or time; {ACCEPTED_TOKEN}"),
        (
            "[[identity]]\ntoken = {}",
            "pool.toml:2: identity[1].token: has none of env, file, keyring, command; write",
        ),
        (
            '[[identity]]\ntoken.env = "A"\ntoken.file = "b"',
            f"pool.toml:2: identity[1].token: has both env and file; {ACCEPTED_TOKEN}",
        ),
        (
            '[[identity]]\ntoken = { keychain = "k" }',
            'pool.toml:2: identity[1].token: unknown key "keychain"; did you mean "keyring"?',
        ),
        ("[[identity]]\ntoken.keyring = 1", "pool.toml:2: identity[1].token.keyring: is an integer; write the name"),
        (
            "[[identity]]\ntoken.command = 'x'",
            "pool.toml:2: identity[1].token.command: is a string; write the",
        ),
        ("[[identity]]\ntoken.command = []", "pool.toml:2: identity[1].token.command: is not a program with its"),
        (
            "[[identity]]\ntoken.command = [1]",
            "pool.toml:2: identity[1].token.command: is not a program with its",
        ),
        (
            '[[identity]]\ntoken = { command = ["x"], timeout = 1 }',
            'pool.toml:2: identity[1].token: unknown key "timeout"; did you mean "timeout_ms"?',
        ),
        (
            '[[identity]]\ntoken = { command = ["x"], timeout_ms = 0 }',
            "pool.toml:2: identity[1].token.timeout_ms: is 0; write a whole number from 1 to",
        ),
        (
            '[[identity]]\ntoken = { command = ["x"], refresh_interval_ms = "5" }',
            "pool.toml:2: identity[1].token.refresh_interval_ms: is a string; write a whole number from 0 to",
        ),
        (
            '[[identity]]\ntoken = "x"\nauth_json = "y"',
            "pool.toml:3: identity[1].auth_json: is set beside a token; keep one",
        ),
        (
            '[[identity]]\nlogin = "file"\naccount_id = "a"\nuser_id = "u"',
            'pool.toml:2: identity[1].login: is "file"; accepted here: state',
        ),
        (
            '[[identity]]\nname = "a"\nlogin = "state"\naccount_id = "a"',
            "pool.toml:3: identity[1].login: needs user_id in the same table; codexpool login NAME --shared writes",
        ),
        (
            '[[identity]]\nauth_json = "y"\nlogin = "state"\naccount_id = "a"\nuser_id = "u"',
            "pool.toml:3: identity[1].login: is set beside auth_json; keep one",
        ),
        (
            "[[identity]]\nauth_json = 1",
            "pool.toml:2: identity[1].auth_json: is an integer; write the path",
        ),
        ("[[identity]]\nexpires = 1", "pool.toml:2: identity[1].expires: is not a date, nor a time with a zone"),
        ("[[identity]]\nexpires = 2026-12-31T00:00:00", "pool.toml:2: identity[1].expires: is not a date, nor"),
        (
            "[[identity]]\nneeds_replacement.since = 0001-01-01T00:00:00+14:00\n"
            'needs_replacement.reason = ""\nneeds_replacement.token = "sha256:1a2b3c4d5e6f"',
            "pool.toml:2: identity[1].needs_replacement.since: is not a time with a zone",
        ),
        ("[[identity]]\npaused = 1", "pool.toml:2: identity[1].paused: is an integer; write paused = true"),
        ("[[identity]]\naccount_id = 1", "pool.toml:2: identity[1].account_id: is an integer; write an id"),
        ("[pool]\nnotify = 1", "pool.toml:2: pool.notify: is an integer; write { command"),
        ("[pool]\nnotify = {}", "pool.toml:2: pool.notify: is empty; write { command"),
        (
            '[pool]\nnotify = { webhook = "http://x" }',
            "pool.toml:2: pool.notify.webhook: is not an https address; write",
        ),
        ('[pool]\nnotify = { comand = ["x"] }', 'pool.toml:2: pool.notify: unknown key "comand"; did you mean'),
        (
            "[[identity]]\n[identity.token]\nenv = 1",
            "pool.toml:3: identity[1].token.env: is an integer; write the name",
        ),
        ('[[identity]]\ntoken = { env = "A B" }', "pool.toml:2: identity[1].token.env: is not the name of an env"),
        ("[[identity]]\ntoken.file = []", "pool.toml:2: identity[1].token.file: is an array; write the path"),
        ('[[identity]]\ntoken.file = "a\\u0000"', "pool.toml:2: identity[1].token.file: is not the path of a file"),
        (
            '[[identity]]\ntoken.file = "~no-such-user/x"',
            "pool.toml:2: identity[1].token.file: starts with ~, but there is no such home folder; write the full",
        ),
        (
            '[[identity]]\nheadroom = "x"',
            'pool.toml:2: identity[1]: unknown key "headroom"; accepted here: name, token, auth_json, login, acc',
        ),
        ("[pool]\n# x\nselektion = 1", 'pool.toml:3: pool: unknown key "selektion"; did you mean "selection"?'),
        ("\n[pols]", 'pool.toml:2: unknown key "pols"; did you mean "pool"?'),
        ("[[identitys]]", 'pool.toml:1: unknown key "identitys"; did you mean "identity"?'),
        ('[pool]\nselection = "Headrom"', 'pool.toml:2: pool.selection: is "Headrom"; did you mean "headroom"?'),
        (
            "[pool]\nselection = true",
            "pool.toml:2: pool.selection: is a boolean; accepted here: headroom, round-robin, drain-first",
        ),
        (
            "[[identity]]\nneeds_replacement = true",
            "pool.toml:2: identity[1].needs_replacement: is a boolean; write { since",
        ),
        (
            '[[identity]]\nneeds_replacement.reason = ""',
            "pool.toml:2: identity[1].needs_replacement.since: is missing; write a time with a zone",
        ),
        (
            "[[identity]]\nneeds_replacement.since = 2026-01-01T00:00:00",
            "pool.toml:2: identity[1].needs_replacement.since: is not a time with a zone",
        ),
        (
            '[[identity]]\nneeds_replacement.token = "sha256:12"',
            'pool.toml:2: identity[1].needs_replacement.token: is not "sha256:" and 12 hexadecimal digits',
        ),
        (
            "[[identity]]\nneeds_replacement = { sins = 1 }",
            'pool.toml:2: identity[1].needs_replacement: unknown key "sins"; did you mean "since"?',
        ),
    ],
)
def test_a_mistake_is_reported_with_line_key_and_remedy(text: str, said: str) -> None:
    assert any(line.startswith(said) for line in lines_said(text)), lines_said(text)


def test_a_name_given_twice_names_both_lines() -> None:
    text = '[[identity]]\nname = "a"\ntoken = "x"\n[[identity]]\ntoken = "y"\nname = "a"\n'
    assert lines_said(text) == [
        'pool.toml:6: identity[2].name: "a" is also the name of the identity in line 2; '
        "give each identity a name of its own"
    ]


def test_all_mistakes_are_reported_in_file_order() -> None:
    text = '[[identity]]\nnmae = "a"\ntoken = 3\n[pool]\nselection = "random"\nspeed = 9\n'
    assert [line.split(":")[1] for line in lines_said(text)] == ["1", "2", "3", "5", "6"]


@pytest.mark.parametrize(
    "text",
    [
        f"[[identity]]\ntoken = {SECRET}",
        f'[[identity]]\nname = "{SECRET}"',
        f"[[identity]]\n{SECRET} = 1",
        f"[[identity]]\ntoken = {{ {SECRET} = 1 }}",
        f'[[identity]]\ntoken = {{ env = "{SECRET}" }}',
        f'[[identity]]\ntoken = {{ file = "{SECRET}" }}',
        f'[[identity]]\ntoken = {{ file = "Bearer {SECRET}" }}',
        f'[[identity]]\ntoken = ["{SECRET}"]',
        f'[pool]\nselection = "{SECRET}"',
        f'[[identity]]\nneeds_replacement = "{SECRET}"',
        f'[[identity]]\nneeds_replacement.token = "{SECRET}"',
        f'[[identity]]\nname = "a"\n[[identity]]\nname = "b"\n"{SECRET}".x = 1',
    ],
)
def test_a_token_in_the_wrong_place_is_refused_and_not_shown(text: str) -> None:
    assert SECRET not in "".join(lines_said(text))


@pytest.mark.parametrize("text", ["a = " + "[" * 9000 + "]" * 9000, "a = " + "1" * 5000, "\0", "a = 1\r"])
def test_a_hostile_text_is_a_problem_and_not_a_crash(text: str) -> None:
    assert len(lines_said(text)) == 1


@given(st.text(st.sampled_from("[]{}=.,'\"# \n\\at-identynmpol1")))
def test_each_problem_of_any_text_is_one_line(text: str) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        parse(text, POOL)
    except ConfigError as error:
        problems = error.problems
    assert all(len(str(problem).splitlines()) == 1 for problem in problems)


def test_a_problem_is_one_line() -> None:
    assert str(Problem(Path("p\n.toml"), 12, "identity[2].token", "a\rb", "c")) == (
        "p\\n.toml:12: identity[2].token: a\\rb; c"
    )


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        load(path)
    (problem,) = refused.value.problems
    return str(problem).removeprefix(str(path))


def test_a_private_file_is_loaded(write: WritePrivate) -> None:
    path = write("pool.toml", WHOLE)
    assert [identity.name for identity in load(path).identities] == ["work", "spare", "third"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_file_open_to_others_is_refused_with_a_chmod(write: WritePrivate, mode: int) -> None:
    path = write("my pool.toml", WHOLE)
    path.chmod(mode)

    assert refusal(path) == f": is open to other users (mode {mode:04o}); chmod 600 '{path}'"

    path.chmod(0o600)
    assert load(path).path == path


def test_an_unreadable_file_is_refused_with_the_reason(write: WritePrivate, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == ": there is no such file; create it, or correct the path"
    assert refusal(tmp_path) == ": is a folder; name a file"
    assert refusal(write("latin.toml", b'# ok\nname = "\xe9"')) == (
        ":2: is not UTF-8 text (line 2); save it as UTF-8"
    )
    assert refusal(write("a", "") / "pool.toml").startswith(": cannot be read: Not a directory")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pool.toml", 0o600)
    assert refusal(tmp_path / "pool.toml").startswith(": is not a regular file")


@needs_a_plain_user
def test_a_file_without_read_permission_is_refused(write: WritePrivate) -> None:
    path = write("pool.toml", WHOLE)
    path.chmod(0o200)
    assert refusal(path).startswith(": cannot be read: Permission denied; let the user")


USAGE = "/backend-api/wham/usage"


def test_routes_of_the_pool_are_read() -> None:
    moved = f'[pool.routes]\n"{USAGE}" = "own"\n"/backend-api/codex/images/" = "swap"\n{WHOLE}'.replace(
        "[pool]\n", ""
    )
    config = parse(moved.replace('selection = "drain-first"\n', ""), POOL)

    assert [(row.path, str(row.policy)) for row in config.routes.moved] == [
        ("/backend-api/codex/images/", "swap"),
        (USAGE, "own, lent to members"),
    ]
    assert parse(WHOLE, POOL).routes.moved == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f'"{USAGE}" = "mine"', f'"{USAGE}": is "mine"; accepted here: swap, own'),
        (f'"{USAGE}" = true', f'"{USAGE}": is a boolean; accepted here: swap, own'),
        (
            '"/backend-api/codex/responses" = "own"',
            "cannot be moved: the pool is there to serve it; remove",
        ),
        ('"/backend-api/wham/accounts/check" = "own"', "cannot be moved: an identity has to answer it"),
        ('"/backend-api/wham/rate-limit-reset-credits/consume" = "swap"', "cannot be moved: it acts for a person"),
        ('"/backend-api/wham/remote/control/" = "swap"', "cannot be moved: it acts for a person"),
        ('"/backend-api/codex/alpha/" = "swap"', "includes /backend-api/codex/alpha/notes: notes are a person's own"),
        (
            '"codex/images/" = "own"',
            '"codex/images/": is no path of the backend',
        ),
        ('wham = "own"', "pool.routes.wham: is no path of the backend: those begin with /backend-api/"),
        (f'"{USAGE}/" = "own"', "the / at its end is too much"),
        ('"/backend-api/codex/Models" = "own"', "has the client's own credential already"),
        ('"at-test-0123456789abcdef" = "own"', "pool.routes.(not shown, sha256:"),
    ],
)
def test_routes_that_cannot_be_moved_are_refused(line: str, said: str) -> None:
    identity = '[[identity]]\nname = "a"\ntoken = { env = "A" }\n'

    (problem,) = lines_said(f"[pool.routes]\n# a comment\n{line}\n{identity}")

    assert problem.startswith("pool.toml:3: pool.routes.")
    assert said in problem


def test_of_two_routes_that_fit_the_longer_one_counts() -> None:
    images, edits = '"/backend-api/codex/images/" = "own"', '"/backend-api/codex/images/edits" = "swap"'
    identity = '[[identity]]\nname = "a"\ntoken = { env = "A" }\n'
    for first, second in ((images, edits), (edits, images)):
        routes = parse(f"[pool.routes]\n{first}\n{second}\n{identity}", POOL).routes

        assert str(route_of("POST", "/backend-api/codex/images/edits", routes).policy) == "swap"
        assert str(route_of("POST", "/backend-api/codex/images/generations", routes).policy) == "own, lent to members"


@pytest.mark.parametrize("text", ["", "\ufeff", "# comments only\n", "[pool]\n", "identity = []\n", "member = []"])
def test_a_pool_toml_without_identities_is_valid(text: str) -> None:
    assert parse(text, POOL).identities == ()


def test_routes_are_a_table() -> None:
    (problem,) = lines_said('[pool]\nroutes = "own"\n[[identity]]\nname = "a"\ntoken = { env = "A" }\n')

    assert problem.startswith('pool.toml:2: pool.routes: is a string; write "PATH" = "own" or "swap"')
