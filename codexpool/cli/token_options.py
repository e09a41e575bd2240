"""The options of `add` and `replace` that name the source of a token."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from codexpool.config.identities import VARIABLE
from codexpool.config.model import FromAuthJson, FromCommand, FromEnv, FromFile, FromKeyring, Inline, Source
from codexpool.config.tables import Value
from codexpool.credentials.command import CommandLine

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option("--token-stdin", is_flag=True, help="Read a personal access token from standard input."),
    click.option("--env", "variable", metavar="VAR", help="Use the token in this environment variable."),
    click.option("--file", metavar="PATH", type=click.Path(path_type=Path), help="Use the token in this file."),
    click.option("--keyring", metavar="SERVICE", help="Use the keyring's entry for this service and NAME."),
    click.option(
        "--auth-json",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="Use the login in this auth.json. It must belong to the pool alone.",
    ),
    click.option("--command", "is_command", is_flag=True, help="Run ARGV, after --, to get the token."),
    click.argument("argv", metavar="[-- ARGV...]", nargs=-1, type=click.UNPROCESSED),
)


def token_options(command: F) -> F:
    """Add the options that name a token's source; without any, the command prompts."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class GivenToken:
    """Where the token is, and the keys of pool.toml that record it."""

    source: Source
    keys: Mapping[str, Value]


def given_token(
    name: str,
    folder: Path,
    *,
    token_stdin: bool,
    variable: str | None,
    file: Path | None,
    keyring: str | None,
    auth_json: Path | None,
    is_command: bool,
    argv: tuple[str, ...],
) -> GivenToken:
    """Return the source the options name; without any, prompt for the token. Raises click.UsageError."""
    options = {
        "--token-stdin": token_stdin,
        "--env": variable is not None,
        "--file": file is not None,
        "--keyring": keyring is not None,
        "--auth-json": auth_json is not None,
        "--command": is_command,
    }
    given = [option for option, is_given in options.items() if is_given]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} cannot be combined: a token has one source")
    if argv and not is_command:
        raise click.UsageError("a token cannot be an argument: other users could see it. Use --token-stdin")
    if variable is not None:
        if not VARIABLE.fullmatch(variable):
            raise click.UsageError("--env: not the name of an environment variable")
        return GivenToken(FromEnv(variable), {"token": {"env": variable}})
    if file is not None:
        return GivenToken(FromFile(file.expanduser().absolute()), {"token": {"file": _with_tilde(file)}})
    if keyring is not None:
        return GivenToken(FromKeyring(keyring), {"token": {"keyring": keyring}})
    if auth_json is not None:
        return GivenToken(FromAuthJson(auth_json.expanduser().absolute()), {"auth_json": _with_tilde(auth_json)})
    if is_command:
        if not argv:
            raise click.UsageError("--command: put the program and its arguments after --")
        return GivenToken(FromCommand(CommandLine(argv, folder)), {"token": {"command": list(argv)}})
    token = _read_token(f"Personal access token of {name}", token_stdin)
    return GivenToken(Inline(token), {"token": token})


def _read_token(prompt: str, from_stdin: bool) -> str:
    if from_stdin:
        lines = sys.stdin.read().strip().splitlines()
        if len(lines) != 1:
            what = "nothing" if not lines else f"{len(lines)} lines"
            raise click.UsageError(f"--token-stdin: got {what} on standard input; write the token only")
        return lines[0].strip()
    if not sys.stdin.isatty():
        raise click.UsageError("no token given. Use --token-stdin, or another source (see --help)")
    return str(click.prompt(prompt, hide_input=True, err=True)).strip()


def _with_tilde(path: Path) -> str:
    """Return the absolute path, with ~ for the home folder."""
    whole, home = path.expanduser().absolute(), Path.home()
    return f"~/{whole.relative_to(home)}" if whole.is_relative_to(home) else str(whole)
