"""Tokens that a command prints, through a real proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.logins import write_private
from tests.e2e.world import E2EProxy, World, served_by
from tests.running import CLIENT, pat, pool_toml, until
from tests.standin import RESPONSES, StandIn, Token

FIRST, SECOND = "corp-token-first-0123456789abcdef", "corp-token-second-0123456789abcdef"


class CommandWorld(World):
    """A world whose first identity has its token from a program, which prints what `tell` says."""

    def __init__(self, standin: StandIn, proxy: E2EProxy, folder: Path) -> None:
        super().__init__(standin, proxy, tuple(standin.backend.pool.values()))
        self.folder = folder

    def tell(self, text: str, code: int = 0) -> None:
        write_private(self.folder / "said", text)
        (self.folder / "code").write_text(str(code))

    @property
    def runs(self) -> int:
        path = self.folder / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def turn_by(self, session: str = "s") -> str:
        with self.proxy.client() as client:
            answer = self.turn(client, session)
            return served_by(answer) if answer.status_code == 200 else answer.text


@contextmanager
def a_command_world(
    folder: Path, *others: Token, more: str = 'account_id = "acc-sso"', keys: str = "", ready: int | None = None
) -> Iterator[CommandWorld]:
    with ExitStack() as stack:
        own = [Token(token, "acc-sso", "user-sso", name="sso") for token in (FIRST, SECOND)]
        standin = stack.enter_context(StandIn([*own, *others], clients=[CLIENT], folder=folder))
        program = write_private(folder / "program", '#!/bin/sh\necho x >> runs\ncat said\nexit "$(cat code)"\n')
        program.chmod(0o700)
        entry = f'\n[[identity]]\nname = "sso"\ntoken = {{ command = ["./program"]{keys} }}\n{more}\n'
        pool_toml(folder, *others, head='[pool]\nselection = "drain-first"\n' + entry)
        proxy = E2EProxy(standin, folder, ready=1 + len(others) if ready is None else ready)
        world = CommandWorld(standin, proxy, folder)
        world.tell(FIRST)
        proxy.start(wait=False)
        stack.callback(proxy.stop)
        if ready != 0:
            proxy.listens()
        yield world


def test_a_command_is_run_before_it_serves_and_again_after_a_401(tmp_path: Path) -> None:
    with a_command_world(tmp_path, pat("work")) as world:
        assert world.turn_by() == "sso"
        assert world.runs == 1
        world.standin.kill(FIRST)
        world.tell(SECOND)

        assert world.turn_by() == "sso"

        assert world.runs == 2
        assert [seen.status for seen in world.standin.requests(RESPONSES)] == [200, 401, 200]
        world.check()
        assert "corp-token" not in world.proxy.log


def test_a_command_that_repeats_a_refused_token_moves_the_turn(tmp_path: Path) -> None:
    """The identity rests."""
    with a_command_world(tmp_path, pat("work")) as world:
        assert world.turn_by() == "sso"
        world.standin.kill(FIRST)

        assert world.turn_by() == "work"

        world.proxy.says("sso rests until")
        assert world.runs == 2
        # after its rest it is tried again, and by then the backend may have come to like it
        world.standin.revive(FIRST)
        until(lambda: world.turn_by(f"{time.monotonic()}") == "sso", 15, "the rest to end")
        assert "needs_" not in world.proxy.log


def test_a_failing_command_moves_the_turn_and_is_retried(tmp_path: Path) -> None:
    with a_command_world(tmp_path, pat("work")) as world:
        assert world.turn_by() == "sso"
        world.standin.kill(FIRST)
        world.tell("log in at the front desk\n", code=1)

        assert world.turn_by() == "work"

        world.proxy.says("sso: ./program ended with exit code 1")
        world.proxy.says("sso rests until")
        until(lambda: world.runs >= 3, 20, "another run")
        assert world.standin.requests(RESPONSES, "sso")[-1].status == 401
        refused = len(world.standin.requests(RESPONSES, "sso"))
        world.tell(SECOND)
        until(lambda: world.turn_by(f"{time.monotonic()}") == "sso", 20, "the command to work")
        # meanwhile the refused token was not sent once more
        assert [seen.status for seen in world.standin.requests(RESPONSES, "sso")[refused:]] == [200]


def test_a_command_that_fails_at_the_start_is_named(tmp_path: Path) -> None:
    with a_command_world(tmp_path, ready=0) as world:
        world.tell("", code=7)
        world.proxy.stop()
        world.proxy.start(wait=False)
        until(world.proxy._listening, 30, "the proxy")
        said = world.turn_by()
        assert "sso: resting until" in said
        assert "./program ended with exit code 7" in said
        world.tell(FIRST)
        world.proxy.says("sso is ready: command token sha256:")
        assert world.turn_by() == "sso"


def test_a_command_that_is_corrected_in_pool_toml_is_run_at_once(tmp_path: Path) -> None:
    with a_command_world(tmp_path, ready=0) as world:
        world.proxy.stop()
        text = world.proxy.pool.read_text()
        world.proxy.pool.write_text(text.replace("./program", "./progrem"))
        world.proxy.start(wait=False)
        world.proxy.says("./progrem cannot be started: No such file")
        world.proxy.pool.write_text(text)
        world.proxy.says("sso is ready", 10)
        until(world.proxy._listening, 30, "the proxy")
        assert world.turn_by() == "sso"


def test_a_command_runs_in_its_interval(tmp_path: Path) -> None:
    with a_command_world(tmp_path, keys=", refresh_interval_ms = 1500") as world:
        assert world.turn_by() == "sso"
        world.tell(SECOND)
        world.proxy.says("sso has a new token")
        world.standin.kill(FIRST)
        assert world.turn_by() == "sso"
        assert {seen.status for seen in world.standin.requests(RESPONSES)} == {200}


def test_a_failed_interval_keeps_the_current_token(tmp_path: Path) -> None:
    with a_command_world(tmp_path, keys=", refresh_interval_ms = 1000") as world:
        world.tell("", code=1)
        world.proxy.says("ended with exit code 1")
        assert world.turn_by() == "sso"


def test_a_pat_from_a_command_is_matched_by_what_whoami_says(tmp_path: Path) -> None:
    with a_command_world(tmp_path, pat("work"), more="", ready=0) as world:
        world.standin.add(pat("corp"))
        world.tell(pat("corp").token)
        world.proxy.stop()
        world.proxy.ready = 2
        world.proxy.start()
        assert world.turn_by() == "corp"
        # and one of another account is not used
        world.standin.kill(pat("corp").token)
        world.standin.add(pat("stranger"))
        world.tell(pat("stranger").token)
        assert world.turn_by() == "work"
        world.proxy.says("sso is in conflict: its token is of account acc-stranger")
        assert world.standin.requests(RESPONSES, "stranger") == []
