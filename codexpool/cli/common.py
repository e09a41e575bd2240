"""What the commands that work on pool.toml share: which file, how to ask the backend, and how things are said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from codexpool.cli.entry import entry
from codexpool.common import tasks
from codexpool.config import ConfigError, IdentitySpec, PoolConfig, Sources, find, load, places
from codexpool.config.model import shown
from codexpool.credentials.http_client import Route
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.redaction import redact_tokens
from codexpool.state import Snapshot, State, StateError, UnavailableError, open_state, state_path

if TYPE_CHECKING:
    from rich.console import Console

    from codexpool.upkeep.verification import Verification

F = TypeVar("F", bound=Callable[..., Any])

WIDTH: Final = 160
"""Columns of a table where the output is no terminal and nobody says how wide a line may be."""


class Failure(click.ClickException):
    """What was asked for could not be done: the text says why, and what mends it. Exit code 1."""

    def show(self, file: Any = None) -> None:
        for line in redact_tokens(self.message).splitlines():
            click.echo(f"codexpool: {line}", err=True)


def config_option(command: F) -> F:
    """``--config PATH``."""
    option = click.option(
        "--config",
        "named",
        type=click.Path(path_type=Path),
        help="The pool.toml to use; else the one that the addon would find.",
    )
    return option(command)


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def name_argument(command: F) -> F:
    """The name of one identity."""
    return click.argument("name", metavar="NAME")(command)


def pool_path(named: Path | None) -> Path | None:
    """The pool.toml, found as the addon finds it; None if there is none. Raises click.UsageError, Failure."""
    try:
        return find(str(named) if named is not None else None, os.environ, entry())
    except ConfigError as error:
        if named is not None:
            raise click.UsageError(f"--config: {named}: there is no such file") from None
        raise Failure(str(error)) from None


def pool_config(named: Path | None) -> PoolConfig:
    """The configuration. Raises click.UsageError and Failure where there is none, or none that holds."""
    path = pool_path(named)
    if path is None:
        looked_at = "\n  ".join(places(entry())[1:])
        raise Failure(f"no pool.toml was found. Begin with: codexpool add NAME. Looked at:\n  {looked_at}")
    try:
        return load(path)
    except ConfigError as error:
        raise Failure(str(error)) from None


def spec_of(config: PoolConfig, name: str) -> IdentitySpec:
    """The table of an identity. Raises click.UsageError where there is none of that name."""
    spec = config.identity(name)
    if spec is None:
        names = ", ".join(identity.name for identity in config.identities)
        raise click.UsageError(f"there is no identity {shown(name)} in {config.path}; there is: {names}")
    return spec


def edit_pool(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of a pool.toml in place. Raises Failure where it cannot be, or would not hold."""
    from codexpool.config import editing  # only where something is written

    try:
        editing.edit(path, change)
    except editing.EditError as error:
        raise Failure(str(error)) from None


def sources() -> Sources:
    """Where credentials come from."""
    return Sources(os.environ, TokenEndpoint(route(), os.environ))


def route() -> Route:
    """How requests of these commands reach the backend: directly.

    The HTTPS_PROXY of a shell may well be the proxy that the pool stands in, which would send them under an identity
    of the pool.
    """
    return Route()


async def verification() -> Verification:
    """Somebody to ask whose a token is."""
    from codexpool.credentials.authapi import AuthApi
    from codexpool.upkeep.verification import Verification

    api = await tasks.in_thread(AuthApi, route(), os.environ)

    async def made() -> AuthApi:
        return api

    return Verification(asyncio.get_running_loop().create_task(made()))


@contextmanager
def the_state() -> Iterator[State]:
    """What proxies have found out, open for as long as it is looked at. Raises Failure.

    It raises Failure at its end, too, where what was put into it could not be written.
    """
    try:
        state = open_state(state_file())
    except StateError as error:
        raise Failure(f"state: {error}") from None
    try:
        yield state
    except BaseException:
        state.close()
        raise
    if not state.close():
        raise Failure("state: not all of it could be written; try again")


def state_file() -> Path:
    """Return the file the state is in. Raises Failure where `CODEXPOOL_STATE` names none."""
    try:
        return state_path(os.environ)
    except StateError as error:
        raise Failure(str(error)) from None


def known() -> Snapshot:
    """What proxies have found out so far; nothing, where none has run yet. Raises Failure.

    Nothing either where the state cannot be used now; that is said on standard error.
    """
    path = state_file()
    if not path.exists():
        return Snapshot()
    try:
        state = open_state(path)
    except UnavailableError as error:
        click.echo(f"codexpool: state: {error}. What proxies have found out is not known here", err=True)
        return Snapshot()
    except StateError as error:
        raise Failure(f"state: {error}") from None
    with contextlib.closing(state):
        return state.load()


def console(stderr: bool = False) -> Console:
    """For tables: colours on a terminal only, and wide where it is none."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDTH
    return made


def moment(at: float | None) -> str | None:
    """A time as JSON has it: UTC, to the second."""
    return None if at is None else datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


def secret_from_input(prompt: str, from_stdin: bool) -> str:
    """A token from standard input, or from a prompt that does not show it; never from an argument.

    Raises click.UsageError where there is nobody to ask.
    """
    if from_stdin:
        lines = sys.stdin.read().strip().splitlines()
        if len(lines) != 1:
            what = "nothing" if not lines else f"{len(lines)} lines"
            raise click.UsageError(f"--token-stdin: there is {what} on standard input; write the token, and no more")
        return lines[0].strip()
    if not sys.stdin.isatty():
        raise click.UsageError("where is the token? Say --token-stdin, or see --help for the other places")
    return str(click.prompt(prompt, hide_input=True, err=True)).strip()


def shortened(path: Path) -> str:
    """A path for pool.toml: whole, but with ~ for the home folder."""
    whole = path.expanduser().absolute()
    home = Path.home()
    return f"~/{whole.relative_to(home)}" if whole.is_relative_to(home) else str(whole)
