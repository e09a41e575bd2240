"""Completion: what a shell is offered for a word, and that the person who types sees nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from codexpool.cli import completions
from codexpool.cli.commands.completion import SHELLS
from codexpool.cli.main import main
from tests.cli import fakeproxy
from tests.running import ROOT

PATIENCE = 30.0  # A busy machine takes longer than a person would wait.

POOL = """
[[identity]]
name = "work"
token = "at-work"
paused = true
[[identity]]
name = "spare"
no_such_key = 1
[[identity]]
name = "$(reboot)"
[[identity]]
name = []
[[member]]
name = "ann"
"""


@pytest.fixture(autouse=True)
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool.toml, invalid but TOML; no proxy runs."""
    path = tmp_path / "pool.toml"
    path.write_text(POOL)
    monkeypatch.setenv("CODEXPOOL_CONFIG", str(path))
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "state.sqlite3"))
    monkeypatch.setenv("CODEXPOOL_PROXY", "127.0.0.1:9")
    monkeypatch.setattr(completions, "SECONDS", PATIENCE)
    return path


def offered(*words: str) -> list[str]:
    """What is offered for the last of some words after `codexpool`."""
    items = ShellComplete(main, {}, "codexpool", "_").get_completions(list(words[:-1]), words[-1])
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]


@pytest.mark.parametrize("command", ["show", "check", "replace", "rename", "pause", "resume", "reset", "remove"])
def test_identities_of_the_pool_are_offered(command: str) -> None:
    assert offered(command, "") == ["work", "spare"]
    assert offered(command, "sp") == ["spare"]


def test_an_identity_that_was_typed_is_not_offered_again() -> None:
    assert offered("check", "work", "") == ["spare"]


@pytest.mark.parametrize("words", [("tail", "--identity"), ("env", "--ca", "x", "--identity"), ("pin", "01a1")])
def test_an_option_or_second_word_offers_identities(words: tuple[str, ...]) -> None:
    assert offered(*words, "w") == ["work"]


@pytest.mark.parametrize("command", ["rotate", "revoke", "expires"])
def test_members_are_offered(command: str) -> None:
    assert offered("member", command, "") == ["ann"]


def test_names_come_from_the_pool_that_the_line_names(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[[identity]]\nname = "third"\n')

    assert offered("pause", "--config", str(other), "") == ["third"]


@pytest.mark.parametrize("content", ["[[identity", 'identity = "work"', "\0"])
def test_a_broken_pool_offers_nothing_and_prints_nothing(
    pool: Path, content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pool.write_text(content)

    assert offered("pause", "") == []
    assert capfd.readouterr() == ("", "")


def test_without_a_pool_nothing_is_offered_or_printed(pool: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pool.unlink()

    assert offered("pause", "") == []
    assert capfd.readouterr() == ("", "")


def test_requests_and_sessions_of_the_running_proxy_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    with fakeproxy.running() as proxy:
        monkeypatch.setenv("CODEXPOOL_PROXY", proxy.url)
        flow = {"id": "0d5f1234-5678", "method": "POST", "path": "/codex/responses", "answer": {"status": 200}}
        proxy.flows.append(flow)
        proxy.status["sessions"] = [fakeproxy.session(key="ann/01a1fc00-1234"), fakeproxy.session(key="; rm -r")]

        assert offered("explain", "") == ["last", "0d5f1234"]
        assert offered("diff", "last", "0") == ["0d5f1234"]
        assert offered("tail", "--session", "") == ["01a1fc00-1234"]


def test_where_no_request_fits_files_are_offered() -> None:
    assert offered("explain", "flo") == ["<file>"]
    assert offered("diff", "--identities", "s") == ["spare"]


@pytest.mark.parametrize(
    "words",
    [("run", "-s"), ("record", "out.har", "-w"), ("add", "sso", "--command", "--"), ("replace", "work", "--file")],
)
def test_files_are_offered_where_other_programs_offer_them(words: tuple[str, ...]) -> None:
    assert offered(*words, "my") == ["<file>"]


def test_patterns_of_a_member_are_names_of_identities() -> None:
    assert offered("member", "add", "ann", "--identities", "") == ["work", "spare"]


def test_what_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, reached, never = [], threading.Event(), threading.Event()

    def join(_: threading.Thread, seconds: float) -> None:
        waited.append(seconds)
        assert reached.wait(PATIENCE)

    monkeypatch.setattr(threading.Thread, "join", join)

    def slow(context: click.Context) -> Iterator[tuple[str, str]]:
        yield "first", ""
        reached.set()
        never.wait()
        yield "second", ""

    items = completions.completer(slow)(click.Context(main), click.Argument(["name"]), "")

    never.set()
    assert [item.value for item in items] == ["first"]
    assert waited == [completions.SECONDS]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_discards_what_the_command_prints_to_stderr(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])

    assert result.exit_code == 0
    assert result.stdout.count("2>/dev/null)") == 1
    assert "_CODEXPOOL_COMPLETE" in result.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "codexpool"
    code = (
        'import sys; sys.argv[0] = "codexpool"; from codexpool.cli import completions, main; '
        f"completions.SECONDS = {PATIENCE}; main()"
    )
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    program.chmod(0o700)
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    asked = 'COMP_WORDS=(codexpool pause sp) COMP_CWORD=2; _codexpool_completion codexpool; echo "${COMPREPLY[@]}"'
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    run = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{asked}"], env=environ, capture_output=True, text=True, timeout=60
    )

    assert (run.stdout, run.stderr) == ("spare\n", "")
