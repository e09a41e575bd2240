"""A command's token: taken as it is printed, and whatever goes wrong is told in the command's own words."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from codexpool.credentials import NoTokenNowError, Renewal
from codexpool.credentials.command import Command, CommandLine, output
from codexpool.tokens.bearer import Bearer

TOKEN = "corp-token-0123456789.abcdef"


def line(folder: Path, *lines: str, **more: int) -> CommandLine:
    program = folder / "program"
    program.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    program.chmod(0o700)
    return CommandLine((str(program), "an argument; with $HOME"), folder, **more)


def lives(pid: int) -> bool:
    """Whether a process is there, and not only waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_the_token_is_the_trimmed_output(tmp_path: Path) -> None:
    """The program runs without a shell."""
    command = Command(line(tmp_path, f'[ "$1" = "an argument; with \\$HOME" ] && printf "\\n {TOKEN} \\n"'))
    assert command.bearer() is None

    assert await command.renewed(None, refused=True) == Renewal(Bearer.of(TOKEN), issued=True)

    assert command.bearer() == Bearer.of(TOKEN)


async def test_it_runs_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "corp"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    program = line(tmp_path, "cat token")
    assert await output(CommandLine(program.argv, folder)) == TOKEN


async def test_the_same_token_once_more_after_a_refusal_is_none(tmp_path: Path) -> None:
    command = Command(line(tmp_path, f"echo {TOKEN}"))
    renewal = await command.renewed(None, refused=False)
    assert renewal is not None
    assert await command.renewed(renewal.bearer, refused=True) is None
    assert await command.renewed(renewal.bearer, refused=False) == renewal  # only looked at again


async def test_it_wants_to_be_run_again_after_its_interval(tmp_path: Path) -> None:
    command = Command(line(tmp_path, f"echo {TOKEN}", refresh_interval_ms=60_000))
    assert command.due_at() is None
    await command.renewed(None, refused=False)
    due_at = command.due_at()
    assert due_at is not None
    assert 55 < due_at - time.time() <= 60
    never = Command(line(tmp_path, f"echo {TOKEN}", refresh_interval_ms=0))
    await never.renewed(None, refused=False)
    assert never.due_at() is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("exit 3",), "ended with exit code 3"),
        (("echo no session >&2; exit 1",), "ended with exit code 1. It said: no session"),
        ((f"echo bad {'at-test-secret-0123456789'} >&2; exit 1",), "It said: bad <PAT 25 chars sha256:"),
        (("kill -9 $$",), "was ended by signal 9"),
        (("true",), "printed nothing"),
        (("echo only on the other one >&2",), "printed nothing. It said: only on the other one"),
        (("echo a; echo b",), "printed 2 lines instead of a token"),
        (("echo '<html>not logged in</html>'",), "printed something that is not a token (26 characters)"),
        (("echo 'Error: log in first, please'",), "printed something that is not a token"),
        (("echo short",), "printed something that is not a token (5 characters)"),
        (("echo 1",), "printed something that is not a token (1 character)"),
        (("printf '\\377\\376'",), "printed something that is not a token"),
        (("head -c 100000 /dev/zero | tr '\\0' a",), "printed something that is not a token"),
    ],
)
async def test_what_goes_wrong_is_told(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(NoTokenNowError) as error:
        await output(line(tmp_path, *lines))
    assert said in str(error.value)
    assert "at-test-secret" not in str(error.value)
    assert str(error.value).isprintable()


async def test_a_slow_program_is_killed_with_its_children(tmp_path: Path) -> None:
    slow = line(tmp_path, "echo waiting for you >&2", 'sleep 60 & echo $! > "$PWD/child"', "wait", timeout_ms=700)
    begun = time.monotonic()
    with pytest.raises(NoTokenNowError, match=r"did not end within 700 ms. It said: waiting for you"):
        await output(slow)
    assert time.monotonic() - begun < 10
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not lives(child):
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("its child lives on")


async def test_a_program_that_talks_without_end_is_ended(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(NoTokenNowError, match="did not end within 1000 ms"):
        await output(line(tmp_path, "exec yes at-test-and-on-and-on", timeout_ms=1000))
    with pytest.raises(NoTokenNowError, match="is not a token"):
        await output(line(tmp_path, "head -c 2000000 /dev/zero | tr '\\0' a"))
    assert time.monotonic() - begun < 10


async def test_a_run_in_its_interval_is_no_issued_token(tmp_path: Path) -> None:
    command = Command(line(tmp_path, f"echo {TOKEN}"))
    assert await command.renewed(None, refused=False) == Renewal(Bearer.of(TOKEN), issued=False)


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoTokenNowError, match="cannot be started: No such file"):
        await output(CommandLine(("/no/such/program",), tmp_path))
    with pytest.raises(NoTokenNowError, match="cannot be started"):
        await output(CommandLine(("true",), tmp_path / "no-such-folder"))


async def test_background_processes_are_left_alone(tmp_path: Path) -> None:
    """They are neither waited for nor killed."""
    daemon = line(tmp_path, 'sleep 3 >/dev/null 2>&1 & echo $! > "$PWD/child"', f"echo {TOKEN}")
    begun = time.monotonic()
    assert await output(daemon) == TOKEN
    assert time.monotonic() - begun < 2
    assert lives(int((tmp_path / "child").read_text()))
