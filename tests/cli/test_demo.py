"""`codexpool demo`: what it shows, what it leaves behind, and when it fails."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codexpool.cli import main
from codexpool.cli.demo import stage, story
from codexpool.cli.demo.backend import Seen, StandIn, Token
from codexpool.cli.demo.clients import signs_of_trouble
from codexpool.protocol.endpoints import ACCOUNTS_CHECK, HOST, RESPONSES
from tests.cli.running import World
from tests.running import ROOT, until

STEPS = (
    "A pool of two personal access tokens",
    "First turn",
    "token dies",
    "Second turn",
    "asks whoami",
    "flagged in pool.toml",
    "Nothing leaked",
)


@pytest.fixture(scope="module")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, subprocess.CompletedProcess[str]]:
    """One whole demo with the built-in client, for all tests that look at it."""
    world = World(tmp_path_factory.mktemp("demo"))
    return world, world.run("demo", "--client", "built-in")


Shown = tuple[World, subprocess.CompletedProcess[str]]


def test_demo_passes_every_step(built_in: Shown) -> None:
    _, run = built_in

    assert run.returncode == 0, run.stdout + run.stderr
    assert [heading for heading in STEPS if heading not in run.stdout] == []
    assert "NOT  " not in run.stdout
    assert run.stdout.rstrip().splitlines()[-1].startswith("All 12 checks passed")


def test_demo_shows_how_headers_changed(built_in: Shown) -> None:
    _, run = built_in

    changes = set(re.findall(r"^   ([~+-]) (\S+)$", run.stdout, re.MULTILINE))

    assert {
        ("~", "authorization"),
        ("~", "chatgpt-account-id"),
        ("+", "x-openai-account-routing-override"),
        ("-", "openai-organization"),
    } <= changes
    assert "others, as the client sent them" in run.stdout


def test_demo_shows_the_flag_as_the_only_change(built_in: Shown) -> None:
    _, run = built_in

    added = re.findall(r"^   \+[^+ ].*", run.stdout, re.MULTILINE)

    assert len(added) == 1
    assert "needs_replacement = {" in added[0]


def test_no_token_is_shown(built_in: Shown) -> None:
    _, run = built_in

    assert "at-demo-" not in run.stdout + run.stderr
    assert len(set(re.findall(r"sha256:[0-9a-f]{12}", run.stdout))) == 3


def test_demo_is_plain_text_in_a_pipe(built_in: Shown) -> None:
    _, run = built_in

    assert "\x1b" not in run.stdout + run.stderr
    assert run.stderr == ""


def test_demo_leaves_nothing_behind(built_in: Shown) -> None:
    world, _ = built_in

    assert world.left_behind() == []


def proxy_is_starting(world: World, _: subprocess.Popen[str]) -> None:
    until(lambda: list(world.temporary.glob("*/proxy.log")), 30, "the proxy to be started")


def shown(words: str) -> Callable[[World, subprocess.Popen[str]], None]:
    def moment(_: World, demo: subprocess.Popen[str]) -> None:
        assert demo.stdout is not None
        assert any(words in line for line in demo.stdout), f"the demo never said {words!r}"

    return moment


@pytest.mark.parametrize(
    ("moment", "signals", "code"),
    [
        pytest.param(proxy_is_starting, [signal.SIGINT], 130, id="Ctrl-C while the proxy starts"),
        pytest.param(shown("> say hi echo:second"), [signal.SIGINT] * 3, 130, id="an impatient Ctrl-C"),
        pytest.param(shown("token dies"), [signal.SIGTERM], 143, id="terminated"),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path,
    moment: Callable[[World, subprocess.Popen[str]], None],
    signals: list[signal.Signals],
    code: int,
) -> None:
    world = World(tmp_path)
    demo = world.start("demo", "--client", "built-in")
    try:
        moment(world, demo)
        for number in signals:
            demo.send_signal(number)
        _, errors = demo.communicate(timeout=30)
    finally:
        demo.kill()

    assert demo.returncode == code
    assert "Traceback" not in errors
    assert world.left_behind() == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Result]:
    """The demo in this process, where it can be tampered with."""
    monkeypatch.setattr(story, "SETTLED", 0.2)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return lambda: CliRunner().invoke(main, ["demo", "--client", "built-in"])


def test_demo_fails_if_the_token_lives_on(
    quick: Callable[[], Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(StandIn, "kill", lambda *_: None)

    result = quick()

    assert result.exit_code == 1
    assert "checks failed" in result.stderr
    assert "exactly one request was refused (0)" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_request_beside_the_turn_does_not_spoil_the_story(
    quick: Callable[[], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codex asks for its account at any time, also just before the turn that is to be refused."""
    kill, asked = StandIn.kill, []

    def kill_and_ask(standin: StandIn, token: str) -> None:
        kill(standin, token)
        headers = [("authorization", f"Bearer {token}"), ("chatgpt-account-id", standin.tokens[token].account_id)]
        asked.append(standin.receive(Seen("GET", HOST, ACCOUNTS_CHECK, headers), b""))

    monkeypatch.setattr(StandIn, "kill", kill_and_ask)

    result = quick()

    assert result.exit_code == 0, result.output
    assert [token is not None for token in asked] == [True]


def test_demo_fails_if_the_client_sees_the_refusal(
    quick: Callable[[], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_all(standin: StandIn, _: str) -> None:
        for token in standin.tokens.values():
            token.alive = token.own

    monkeypatch.setattr(StandIn, "kill", kill_all)

    result = quick()

    assert result.exit_code == 1
    assert "exactly one request was refused (2)" in result.stderr


def test_demo_prints_the_output_of_a_proxy_that_does_not_start(
    quick: Callable[[], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "entry", lambda: ROOT / "no-such-addon")

    result = quick()

    assert result.exit_code == 1
    assert "No such script" in result.stderr


def test_demo_without_a_codex_says_what_to_set(tmp_path: Path) -> None:
    world = World(tmp_path, PATH=str(tmp_path), CODEXPOOL_CODEX="")

    run = world.run("demo", "--client", "codex")

    assert run.returncode == 2
    assert "CODEXPOOL_CODEX" in run.stderr


def test_codexpool_codex_must_name_a_program(tmp_path: Path) -> None:
    world = World(tmp_path, CODEXPOOL_CODEX=str(tmp_path / "nowhere"))

    run = world.run("demo")

    assert run.returncode == 2
    assert "nowhere is not a program" in run.stderr


def test_a_codex_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "codex"
    broken.write_text("#!/bin/sh\necho 'this codex is broken' >&2\nexit 3\n")
    broken.chmod(0o755)
    world = World(tmp_path, CODEXPOOL_CODEX=str(broken))

    run = world.run("demo")

    assert run.returncode == 1
    assert "this codex is broken" in run.stderr
    assert "--client built-in" in run.stderr
    assert world.left_behind() == []


@pytest.mark.real_client
def test_demo_with_the_real_client_passes(tmp_path: Path) -> None:
    world = World(tmp_path)

    run = world.run("demo", "--client", "codex")

    assert run.returncode == 0, run.stdout + run.stderr
    assert "attempt 2: WebSocket" in run.stdout
    assert "at-demo-" not in run.stdout + run.stderr
    assert world.left_behind() == []


def test_what_users_do_not_see_is_no_trouble() -> None:
    noted = [
        "2026-11-25T05:33:19Z ERROR codex_models_manager::manager: failed to load models cache: EOF while parsing",
        "session id: 01a211cd-addd-7931-a486-1b1c55e0b401",
    ]
    shown = "ERROR: unexpected status 401 Unauthorized: token_revoked"

    assert signs_of_trouble("\n".join([*noted, shown])) == [shown]


GOOD = {"chatgpt-account-id": "acc-work", "x-openai-account-routing-override": "us"}
POOLED = Token("at-demo-pooled", "work", routing_override="us")
OWN = Token("at-demo-own", "client", own=True)


def seen_with(token: Token, headers: dict[str, str]) -> Seen:
    sent = [("authorization", f"Bearer {token.token}"), *headers.items()]
    return Seen("POST", "chatgpt.com", RESPONSES, sent)


@pytest.mark.parametrize(
    ("token", "headers", "problem"),
    [
        (POOLED, GOOD | {"chatgpt-account-id": "acc-client"}, "chatgpt-account-id is"),
        (POOLED, {"chatgpt-account-id": "acc-work"}, "x-openai-account-routing-override is None"),
        (POOLED, GOOD | {"openai-organization": "org"}, "openai-organization must not be sent"),
        (POOLED, GOOD | {"x-note": "<codexpool:work>"}, "a placeholder"),
        (OWN, {"chatgpt-account-id": "acc-client"}, "does not belong on this path"),
    ],
)
def test_the_backend_reports_headers_that_do_not_match(
    tmp_path: Path, token: Token, headers: dict[str, str], problem: str
) -> None:
    """The demo's checks mean something only if its stand-in notices a header that does not fit the token."""
    with StandIn([POOLED, OWN], tmp_path) as standin:
        assert standin.receive(seen_with(POOLED, GOOD), b"") is POOLED
        assert standin.problems == []
        standin.receive(seen_with(token, headers), b"")

    (found,) = standin.problems
    assert problem in found


@pytest.mark.parametrize(
    ("path", "more", "body"),
    [
        (RESPONSES, [("x-note", POOLED.token)], b""),
        (RESPONSES, [], POOLED.token.encode()),
        ("/backend-api/wham/settings/user", [], b""),
    ],
)
def test_the_backend_notices_a_leak(tmp_path: Path, path: str, more: list[tuple[str, str]], body: bytes) -> None:
    seen = seen_with(POOLED, GOOD)
    with StandIn([POOLED], tmp_path) as standin:
        standin.receive(replace(seen, path=path, headers=[*seen.headers, *more]), body)

    assert "a token of the pool where it does not belong" in standin.problems[0]
