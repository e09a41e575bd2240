"""`codexpool --help`, and what a mistyped command is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from codexpool.cli.main import COMMANDS, GROUPS, main

LONGEST_SUMMARY = 80 - len("  addon-path  ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_table_says(name: str) -> None:
    assert isinstance(COMMANDS[name].load(), click.Command)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_summary_fits_a_line_of_80_columns(name: str) -> None:
    assert len(COMMANDS[name].summary) <= LONGEST_SUMMARY


def test_help_shows_each_command_in_one_line_of_its_group() -> None:
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).output

    for title, commands in GROUPS.items():
        _, _, section = shown.partition(f"\n{title}:\n")
        lines = section.partition("\n\n")[0].splitlines()
        assert [line.split(maxsplit=1) for line in lines] == [
            [name, entry.summary] for name, entry in commands.items()
        ]


def _every_command(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from _every_command(command, *path, name)


@pytest.mark.parametrize("path", list(_every_command(main)), ids=" ".join)
def test_help_fits_a_terminal_of_80_columns(path: tuple[str, ...]) -> None:
    """Examples are not wrapped, and summaries would end in three dots."""
    shown = CliRunner().invoke(main, [*path, "--help"], terminal_width=80, prog_name="codexpool").output

    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert [line for line in shown.partition("\nCommands:")[2].splitlines() if line.endswith("...")] == []


def test_help_imports_no_command() -> None:
    code = (
        "import sys\n"
        "from codexpool.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print([name for name in sys.modules if name.startswith(('codexpool.cli.commands', 'rich', 'httpx'))])"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("typed", "meant"), [("lst", "list"), ("chekc", "check"), ("mebmer", "member")])
def test_a_mistyped_command_is_told_what_was_meant(typed: str, meant: str) -> None:
    result = CliRunner().invoke(main, [typed])

    assert result.exit_code == 2
    assert "Did you mean" in result.output
    assert meant in result.output


def test_ls_is_list() -> None:
    result = CliRunner().invoke(main, ["ls", "--help"])

    assert result.exit_code == 0
    assert "List the identities" in result.output
