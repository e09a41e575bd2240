"""The real Codex CLI of a member, with a key and no login: what a person sees, and what reaches the backend of it."""

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
from tests.running import Codex, Proxy, answered, codex, key_of, member, pat, pool_toml, trouble
from tests.standin import RESPONSES, WHOAMI, Seen, StandIn
from tests.standin.paths import LENT, SWAPPED

pytestmark = pytest.mark.real_client

MEMBERS = member("ann") + member("bob", revoked="2026-01-01T00:00:00Z") + member("eve", turns_a_day=1)
WRONG = "at-pool-test-guessed-0123456789abcdefghijklmnopq"

OF_ITS_CACHE = "failed to load models cache: EOF"
"""What the client logs where one of its tasks reads a file that another one is just writing."""

OF_AN_UPGRADE = "failed to connect to Responses WebSocket"
"""What the client notes of an upgrade that gets a 426, whoever answers it."""

AT_ONCE = 5.0
"""Seconds within which a client that gets nothing is to say so."""


@pytest.fixture
def team(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A pool for its members. The stand-in knows no token of a client: whatever comes with one breaks a rule."""
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
    """A client in a home of its own, which is empty."""
    folder.mkdir(exist_ok=True)
    return Codex(proxy, folder, {"CODEX_ACCESS_TOKEN": key} if key is not None else {})


def errors(run: subprocess.CompletedProcess[str]) -> list[str]:
    """What the client shows as an error; it shows its last one twice, whatever that is."""
    own = (OF_AN_UPGRADE, OF_ITS_CACHE)
    lines = [line for line in run.stderr.splitlines() if "ERROR" in line and not any(words in line for words in own)]
    return list(dict.fromkeys(lines))


def told(client: Codex, *arguments: str) -> str:
    """The one line of a run that gets nothing, at once and without any other sign of trouble.

    It may take longer on a machine that is busy, but not three times in a row.
    """
    for _ in range(3):
        begun = time.monotonic()
        run = client.exec(*arguments)
        seconds = time.monotonic() - begun
        assert run.returncode == 1, run.stdout
        assert trouble(run) == [], run.stderr
        lines = [line for line in errors(run) if line.startswith("ERROR: ")]  # The others are notes of its log.
        assert len(lines) == 1, run.stderr
        if seconds < AT_ONCE:
            return lines[0].removeprefix("ERROR: ")
    raise AssertionError(f"it took {seconds:.1f} s")


def login(client: Codex, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """``codex login`` with these arguments, and no key in the environment but the client's own."""
    command = [str(codex()), "login", *arguments]
    return subprocess.run(
        command,
        env=client.environ,
        cwd=client.home,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def revoke(world: World, name: str) -> None:
    pool = world.proxy.pool
    pool.write_text(
        pool.read_text().replace(f'name = "{name}"\n', f'name = "{name}"\nrevoked = 2026-11-25T04:12:00Z\n')
    )
    world.proxy.says("is in force", 10)


def requests(seen: list[Seen]) -> list[Seen]:
    """What the client was let through with. Tunnels that the stand-in refuses are its looks at GitHub."""
    return [one for one in seen if one.transport != "connect"]


def nothing_amiss(world: World) -> None:
    """Every request was as it should be: its ``Authorization`` only where one belongs, and nowhere a key."""
    assert world.standin.leaks == []
    assert [one.refusal for one in requests(world.standin.seen) if one.refusal] == []
    for one in world.standin.seen:
        assert b"at-pool" not in b"\n".join([repr((one.path, one.query, one.headers)).encode(), one.body or b""])
        if one.header("authorization") is not None:
            assert SWAPPED.fullmatch(one.path) or LENT.fullmatch(one.path) or one.path == WHOAMI


def written_by(proxy: Proxy) -> bytes:
    """All that a proxy has written, but for the pool, which has the hashes."""
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
    assert (OF_AN_UPGRADE in run.stderr) == (transport == "http")  # which this stand-in refuses then
    nothing_amiss(team)
    assert team.proxy.stop() == 0
    assert b"at-pool" not in written_by(team.proxy)


def test_a_member_can_have_codex_keep_the_key(team: World, tmp_path: Path) -> None:
    client = client_of(team.proxy, tmp_path / "kept", None)

    run = login(client, "--with-access-token", stdin=key_of("ann") + "\n")

    assert run.returncode == 0, run.stderr
    assert answered(client.exec("say hi echo:banana"), "banana")
    nothing_amiss(team)


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
def test_a_members_screen_shows_an_answer_and_no_warning(team: World, tmp_path: Path) -> None:
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
    nothing_amiss(team)


def test_a_key_in_a_commands_output_stays_here(team: World, transport: str) -> None:
    """A key that a command of the model prints does not reach the backend."""
    key = key_of("ann")

    run = team.client.exec(
        "--dangerously-bypass-approvals-and-sandbox", "say tools:1 printenv:CODEX_ACCESS_TOKEN echo:fig"
    )

    assert answered(run, "fig")
    assert key in run.stderr  # The command has printed it.
    bodies = [one.body or b"" for one in team.standin.requests(RESPONSES)]
    assert SHOWN in bodies[-1]
    nothing_amiss(team)


def test_a_member_at_a_bound_is_told_when_it_ends(team: World, tmp_path: Path, transport: str) -> None:
    client = client_of(team.proxy, tmp_path / "eve", key_of("eve"))
    answered(client.exec("say hi echo:banana"), "banana")

    said = told(client, "resume", "--last", "and now echo:apple")

    assert said.startswith("You’ve hit your usage limit. codexpool: eve has used today's 1 turn;")
    assert said.endswith("12:00 AM.")
    nothing_amiss(team)


# -- a key that opens nothing


def test_a_bad_key_ends_the_client_with_one_line(team: World, tmp_path: Path, transport: str) -> None:
    """It ends at once, and no request leaves."""
    wrong, revoked = (client_of(team.proxy, tmp_path / key[-8:], key) for key in (WRONG, key_of("bob")))
    before = len(team.standin.seen)

    said = {client: [told(client, "say hi") for _ in range(3)] for client in (wrong, revoked)}

    (of_the_wrong,), (of_the_revoked,) = (set(lines) for lines in said.values())  # however often it tries
    assert of_the_wrong.startswith(
        "codexpool: this is not the key of a member of this pool: correct CODEX_ACCESS_TOKEN"
    )
    assert of_the_revoked.startswith(
        "codexpool: this member key of bob is revoked (2026-01-01 00:00 UTC): ask whoever"
    )
    assert requests(team.standin.seen[before:]) == []
    nothing_amiss(team)
    assert team.proxy.stop() == 0
    assert b"at-pool" not in written_by(team.proxy)


def test_codex_does_not_keep_a_key_that_opens_nothing(team: World, tmp_path: Path) -> None:
    client = client_of(team.proxy, tmp_path / "kept", None)
    before = len(team.standin.seen)

    for key in (WRONG, key_of("bob")):
        run = login(client, "--with-access-token", stdin=f"{key}\n")
        assert run.returncode == 1
        assert "401 Unauthorized" in run.stderr

    assert not (client.home / "auth.json").exists()
    assert requests(team.standin.seen[before:]) == []


def test_a_key_revoked_between_prompts_ends_the_session(team: World, transport: str) -> None:
    answered(team.client.exec("say hi echo:banana"), "banana")
    revoke(team, "ann")
    before = len(team.standin.seen)

    said = told(team.client, "resume", "--last", "and now echo:apple")

    assert said.startswith("codexpool: this member key of ann is revoked (2026-11-25 04:12 UTC): ask whoever")
    assert requests(team.standin.seen[before:]) == []


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
def test_a_key_revoked_under_an_open_screen_is_told(team: World, tmp_path: Path) -> None:
    """Each prompt is answered with it."""
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
    nothing_amiss(team)
    assert not any(word in (one.body or b"") for one in team.standin.seen for word in (b"apple", b"cherry"))
