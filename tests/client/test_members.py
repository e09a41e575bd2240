"""The real Codex CLI with a member key and no login: what a person sees, and what reaches the backend."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codexpool.protocol.member_keys import SHOWN
from tests.client.conftest import World
from tests.client.screen import Screen, tmux
from tests.running import Codex, Proxy, answered, codex, finished, key_of, member, pat, pool_toml, trouble
from tests.standin import RESPONSES, WHOAMI, Seen, StandIn
from tests.standin.paths import LENT, SWAPPED

pytestmark = pytest.mark.real_client

MEMBERS = member("ann") + member("bob", revoked="2026-01-01T00:00:00Z") + member("eve", turns_a_day=1)
WRONG = "at-pool-test-guessed-0123456789abcdefghijklmnopq"

CACHE_ERROR = "failed to load models cache: EOF"
"""The client logs this if one of its tasks reads a file that another one is writing."""

UPGRADE_ERROR = "failed to connect to Responses WebSocket"
"""The client logs this for every upgrade that gets a 426."""

AT_ONCE = 5.0
"""Seconds within which a refused client must end."""


@pytest.fixture
def team(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A pool for members only. The stand-in accepts no token of a client, so each one that leaves is an error."""
    transport = request.getfixturevalue("transport") if "transport" in request.fixturenames else "websocket"
    tokens = pat("work", plan="enterprise"), pat("spare", plan="enterprise")
    folder = tmp_path / "proxy"
    folder.mkdir()
    pool_toml(folder, *tokens, head='[pool]\naccess = "members"\n', tail=MEMBERS)
    with (
        StandIn(tokens, folder=folder, websockets=transport == "websocket") as standin,
        Proxy(standin, folder, "-w", str(folder / "flows")) as proxy,
    ):
        for token in tokens:
            proxy.says(f"{token.name} is ready")
        yield World(standin, proxy, client_of(proxy, tmp_path, key_of("ann")), tokens)


def client_of(proxy: Proxy, folder: Path, key: str | None) -> Codex:
    """Return a client with its own, empty home."""
    folder.mkdir(exist_ok=True)
    return Codex(proxy, folder, {"CODEX_ACCESS_TOKEN": key} if key is not None else {})


def errors(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the errors that the client shows, each once. (It shows the last one twice.)"""
    harmless = (UPGRADE_ERROR, CACHE_ERROR)
    lines = [
        line for line in run.stderr.splitlines() if "ERROR" in line and not any(words in line for words in harmless)
    ]
    return list(dict.fromkeys(lines))


def refusal(client: Codex, *arguments: str) -> str:
    """Run a client that is refused, and return the one line that it shows, at once and without other trouble.

    On a busy machine it may take longer, but not three times in a row.
    """
    for _ in range(3):
        begun = time.monotonic()
        run = client.exec(*arguments)
        seconds = time.monotonic() - begun
        assert run.returncode == 1, run.stdout
        assert trouble(run) == [], run.stderr
        lines = [line for line in errors(run) if line.startswith("ERROR: ")]  # The others are log lines.
        assert len(lines) == 1, run.stderr
        if seconds < AT_ONCE:
            return lines[0].removeprefix("ERROR: ")
    raise AssertionError(f"it took {seconds:.1f} s")


def login(client: Codex, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``codex login`` in the client's environment."""
    return finished([str(codex()), "login", *arguments], client.environ, client.home, stdin)


def revoke(world: World, name: str) -> None:
    pool = world.proxy.pool
    pool.write_text(
        pool.read_text().replace(f'name = "{name}"\n', f'name = "{name}"\nrevoked = 2026-11-25T04:12:00Z\n')
    )
    world.proxy.says("was reloaded", 10)


def requests(seen: list[Seen]) -> list[Seen]:
    """Leave out tunnels. (The client tries one to GitHub, which the stand-in refuses.)"""
    return [one for one in seen if one.transport != "connect"]


def of_clients(seen: list[Seen]) -> list[Seen]:
    """Leave out what the pool asks for itself, too."""
    return [one for one in requests(seen) if not one.by_pool]


def check(world: World) -> None:
    """Check that nothing was refused, that no key left, and that ``Authorization`` is only where it belongs."""
    assert world.standin.leaks == []
    assert [one.refusal for one in requests(world.standin.seen) if one.refusal] == []
    for one in world.standin.seen:
        assert b"at-pool" not in b"\n".join([repr((one.path, one.query, one.headers)).encode(), one.body or b""])
        if one.header("authorization") is not None:
            assert SWAPPED.fullmatch(one.path) or LENT.fullmatch(one.path) or one.path == WHOAMI


def written_by(proxy: Proxy) -> bytes:
    """Return everything a proxy has written, except pool.toml, which has the hashes."""
    return b"".join(path.read_bytes() for path in proxy.folder.rglob("*") if path.is_file() and path != proxy.pool)


# -- a member


def test_a_key_is_enough_and_stays_with_the_proxy(team: World, transport: str) -> None:
    """A member with a key and no login gets an answer; the key does not leave."""
    assert list(team.client.home.iterdir()) == []

    status = login(team.client, "status")
    run = team.client.exec("say hi echo:banana")
    again = team.client.exec("resume", "--last", "and now echo:apple")

    assert status.returncode == 0
    assert "Logged in using personal access token" in status.stderr
    assert answered(run, "banana") == answered(again, "apple")
    assert errors(run) == errors(again) == []
    assert (UPGRADE_ERROR in run.stderr) == (transport == "http")  # the stand-in then refuses upgrades
    check(team)
    assert team.proxy.stop() == 0
    assert b"at-pool" not in written_by(team.proxy)


def test_codex_can_store_the_key(team: World, tmp_path: Path) -> None:
    client = client_of(team.proxy, tmp_path / "kept", None)

    run = login(client, "--with-access-token", stdin=key_of("ann") + "\n")

    assert run.returncode == 0, run.stderr
    assert answered(client.exec("say hi echo:banana"), "banana")
    check(team)


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
def test_the_tui_shows_an_answer_and_no_warning(team: World, tmp_path: Path) -> None:
    """Warnings about the machine itself are allowed."""
    with Screen(team.client, tmp_path) as screen:
        screen.shows("GPT")
        screen.types("say hi echo:banana")
        screen.shows(r"answer from \w+, request \d+, banana")
        warnings = re.findall(r"(\d+) warnings?", screen.text)
        screen.press("F2")
        screen.shows("Warnings|bubblewrap" if warnings else "")
        shown = screen.text
        screen.closes("Escape", r"esc dismiss")
        screen.types("/quit")
        screen.shows("ended with 0")

    assert warnings in ([], ["1"])
    assert not warnings or "Codex could not find bubblewrap on PATH" in shown
    assert not any(sign in shown for sign in ("■", "⚠ Failed", "error", "unexpected status"))
    check(team)


def test_a_key_in_a_commands_output_is_removed(team: World, transport: str) -> None:
    """A key that a command of the model prints does not reach the backend."""
    key = key_of("ann")

    run = team.client.exec(
        "--dangerously-bypass-approvals-and-sandbox", "say tools:1 printenv:CODEX_ACCESS_TOKEN echo:fig"
    )

    assert answered(run, "fig")
    assert key in run.stderr  # the command printed it
    bodies = [one.body or b"" for one in team.standin.requests(RESPONSES)]
    assert SHOWN in bodies[-1]
    check(team)


def test_a_member_at_a_limit_is_told_when_it_ends(team: World, tmp_path: Path, transport: str) -> None:
    client = client_of(team.proxy, tmp_path / "eve", key_of("eve"))
    answered(client.exec("say hi echo:banana"), "banana")

    line = refusal(client, "resume", "--last", "and now echo:apple")

    assert line.startswith("You’ve hit your usage limit. codexpool: eve has used today's 1 turn;")
    assert line.endswith("12:00 AM.")
    check(team)


# -- an invalid key


def test_a_bad_key_ends_the_client_with_one_line(team: World, tmp_path: Path, transport: str) -> None:
    """The client ends at once, and no request leaves."""
    wrong, revoked = (client_of(team.proxy, tmp_path / key[-8:], key) for key in (WRONG, key_of("bob")))
    before = len(team.standin.seen)

    shown = {client: [refusal(client, "say hi") for _ in range(3)] for client in (wrong, revoked)}

    (for_wrong,), (for_revoked,) = (set(lines) for lines in shown.values())  # the same line each time
    assert for_wrong.startswith("codexpool: this is not the key of a member of this pool: correct CODEX_ACCESS_TOKEN")
    assert for_revoked.startswith("codexpool: this member key of bob is revoked (2026-01-01 00:00 UTC): ask the")
    assert of_clients(team.standin.seen[before:]) == []
    check(team)
    assert team.proxy.stop() == 0
    assert b"at-pool" not in written_by(team.proxy)


def test_codex_does_not_store_an_invalid_key(team: World, tmp_path: Path) -> None:
    client = client_of(team.proxy, tmp_path / "kept", None)
    before = len(team.standin.seen)

    for key in (WRONG, key_of("bob")):
        run = login(client, "--with-access-token", stdin=f"{key}\n")
        assert run.returncode == 1
        assert "401 Unauthorized" in run.stderr

    assert not (client.home / "auth.json").exists()
    assert of_clients(team.standin.seen[before:]) == []


def test_a_key_revoked_between_prompts_ends_the_session(team: World, transport: str) -> None:
    answered(team.client.exec("say hi echo:banana"), "banana")
    revoke(team, "ann")
    before = len(team.standin.seen)

    line = refusal(team.client, "resume", "--last", "and now echo:apple")

    assert line.startswith("codexpool: this member key of ann is revoked (2026-11-25 04:12 UTC): ask the operator")
    assert of_clients(team.standin.seen[before:]) == []


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
def test_a_key_revoked_while_the_tui_is_open_is_reported(team: World, tmp_path: Path) -> None:
    """Each later prompt is answered with the reason."""
    with Screen(team.client, tmp_path) as screen:
        screen.shows("GPT")
        screen.types("say hi echo:banana")
        screen.shows(r"answer from \w+, request \d+, banana")
        revoke(team, "ann")
        for number, prompt in enumerate(("and now echo:apple", "and now echo:cherry"), 1):
            screen.types(prompt)
            screen.shows(rf"(?s)(■.*this member key of ann is revoked.*){{{number}}}", AT_ONCE)
        shown = screen.text

    assert "Reconnecting" not in shown
    assert shown.count("■") == 2
    check(team)
    assert not any(word in (one.body or b"") for one in team.standin.seen for word in (b"apple", b"cherry"))
