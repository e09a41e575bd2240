"""The options of `add` and `replace` that name the source of a token."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from codexpool.config.model import FromAuthJson, FromCommand, FromEnv, FromFile, FromKeyring, Inline, Source
from codexpool.config.read import VARIABLE
from codexpool.config.tables import Value
from codexpool.credentials.command import CommandLine

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class GivenToken:
    """Where the token is, and the keys of pool.toml that record it."""

    source: Source
    keys: Mapping[str, Value]


def _from_env(variable: str) -> GivenToken:
    if not VARIABLE.fullmatch(variable):
        raise click.BadParameter("not the name of an environment variable")
    return GivenToken(FromEnv(variable), {"token": {"env": variable}})


def _from_file(file: Path) -> GivenToken:
    return GivenToken(FromFile(file.expanduser().absolute()), {"token": {"file": _with_tilde(file)}})


def _from_auth_json(file: Path) -> GivenToken:
    return GivenToken(FromAuthJson(file.expanduser().absolute()), {"auth_json": _with_tilde(file)})


def _from_keyring(service: str) -> GivenToken:
    return GivenToken(FromKeyring(service), {"token": {"keyring": service}})


def _source(option: str, metavar: str, make: Callable[[Any], GivenToken], help: str) -> Callable[[F], F]:
    kind = click.Path(path_type=Path) if metavar == "PATH" else None

    def given(context: click.Context, parameter: click.Parameter, value: Any) -> GivenToken | None:
        return None if value is None else make(value)

    return click.option(option, metavar=metavar, type=kind, callback=given, help=help)


OPTIONS = (
    click.option("--token-stdin", is_flag=True, help="Read a personal access token from standard input."),
    _source("--env", "VAR", _from_env, "Use the token in this environment variable."),
    _source("--file", "PATH", _from_file, "Use the token in this file."),
    _source("--keyring", "SERVICE", _from_keyring, "Use the keyring's entry for this service and NAME."),
    _source("--auth-json", "PATH", _from_auth_json, "Use the login in this auth.json, made for the pool only."),
    click.option("--command", is_flag=True, help="Run ARGV, after --, to get the token."),
    click.argument("argv", metavar="[-- ARGV...]", nargs=-1, type=click.UNPROCESSED),
)


def token_options(command: F) -> F:
    """Add the options that name a token's source; without any, the command prompts."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given_token(name: str, folder: Path, argv: tuple[str, ...], **options: Any) -> GivenToken:
    """Return the source the options name; without any, prompt for the token. Raises click.UsageError."""
    given = {f"--{option.replace('_', '-')}": value for option, value in options.items() if value}
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} cannot be combined: a token has one source")
    if argv and "--command" not in given:
        raise click.UsageError("a token cannot be an argument: other users could see it. Use --token-stdin")
    if "--command" in given:
        if not argv:
            raise click.UsageError("--command: put the program and its arguments after --")
        return GivenToken(FromCommand(CommandLine(argv, folder)), {"token": {"command": list(argv)}})
    for source in given.values():
        if isinstance(source, GivenToken):
            return source
    token = _read_token(f"Personal access token of {name}", "--token-stdin" in given)
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
