"""How commands end: their exit code, and one line on standard error in place of a traceback."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from codexpool.cli.entry import CODEXPOOL
from codexpool.cli.log_output import Log
from codexpool.cli.main import Commands, main
from codexpool.cli.output import console
from tests.cli.terminals import environ


def ending(body: Callable[[], object]) -> tuple[int, str]:
    """The exit code of a command with that body, and its last line on standard error."""
    command = click.Command("it", callback=body)

    class Only(Commands):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return command

    result = CliRunner().invoke(Only("codexpool"), ["list"])
    assert isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr.strip()


def raises(error: BaseException) -> Callable[..., object]:
    def body(*_: object) -> object:
        raise error

    return body


def test_ctrl_c_ends_any_command_with_130() -> None:
    assert ending(raises(KeyboardInterrupt())) == (130, "")


def test_ctrl_c_at_a_prompt_is_130_and_an_end_of_input_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        monkeypatch.setattr(click.termui, "visible_prompt_func", raises(KeyboardInterrupt()))
        click.prompt("Token")

    assert ending(interrupted)[0] == 130
    assert ending(lambda: click.prompt("Token"))[0] == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    code, said = ending(lambda: (tmp_path / "file" / "folder").mkdir())

    assert code == 1
    assert said.startswith(
        f"codexpool: {tmp_path / 'file' / 'folder'}: Not a directory: a part of this path is a file"
    )


@pytest.mark.parametrize("wrong", [["{}"], ["list", "{}"], ["list", "--{}"], ["list", "--config", "/x/{}"]])
def test_a_token_in_the_wrong_place_is_not_shown(wrong: list[str]) -> None:
    token = "at-secret0secret0secret0secret0"

    result = CliRunner().invoke(main, [word.format(token) for word in wrong])

    assert result.exit_code == 2
    assert "sha256:" in result.output
    assert token not in result.output


def test_a_broken_pipe_that_is_not_its_output_is_an_error() -> None:
    assert ending(raises(BrokenPipeError(32, "Broken pipe"))) == (1, "codexpool: Broken pipe")


def test_a_console_whose_reader_is_gone_raises_an_error_as_any_output_does() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    out = console()
    out.file = Gone()

    with pytest.raises(BrokenPipeError):
        out.print("a line")


def test_a_proxy_whose_folder_cannot_be_made_says_so_and_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    result = CliRunner().invoke(main, ["run", "--set", f"confdir={tmp_path / 'file' / 'folder'}"])

    assert result.exit_code == 1
    assert result.output == (
        f"codexpool: {tmp_path / 'file'}: Not a directory. The proxy needs a folder it can write to: "
        "codexpool run --set confdir=PATH\n"
    )


def test_a_proxy_outlives_a_full_disk_of_its_log_and_ends_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)

    for number in (full, writer):
        with Log(number, "w") as log:
            assert log.write(b"a line\n") == 7

    assert sent == [signal.SIGTERM]


STREAMS = """
import os, subprocess, sys
command = sys.argv[1:]
def run(arguments, **streams):
    done = subprocess.run(command + arguments, stderr=subprocess.PIPE, text=True, **streams)
    print(done.returncode, done.stderr.strip().splitlines())
with open("/dev/full", "w") as full:
    run(["config", "path"], stdout=full)
    run(["list", "--help"], stdout=full)
run(["config", "path"], preexec_fn=lambda: os.close(1))
read, write = os.pipe()
os.close(read)
run(["config", "path"], stdout=write)
run(["--help"], stdout=write)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A full disk, a closed stream, and a pipe without a reader: one process each, which only they can show."""
    told = subprocess.run(
        [sys.executable, "-c", STREAMS, *CODEXPOOL],
        env=environ(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    full = "1 ['codexpool: cannot write to standard output: No space left on device: free some space']"
    closed = "1 ['codexpool: cannot write to standard output: Bad file descriptor']"
    assert told.stdout.splitlines() == [full, full, closed, "0 []", "0 []"]
