"""What commands share: options, the pool they work on, the state, and the way to the backend."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from codexpool.cli.entry import entry
from codexpool.common.clock_skew import Clock
from codexpool.common.private_files import UnusableError
from codexpool.config.files import find, is_read_only, places, remedy_of_read_only
from codexpool.config.model import ConfigError, IdentitySpec, MemberSpec, shown
from codexpool.config.read import load
from codexpool.config.sources import Resolved, Sources, resolve
from codexpool.credentials.agent_api import AgentApi
from codexpool.credentials.http_client import Route
from codexpool.credentials.shared_login import StoredLogin
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.pool.identity import IdentityKey
from codexpool.redaction import redact_tokens
from codexpool.state import Snapshot, State, StateError, UnavailableError
from codexpool.state.location import Location, SqliteFile, agents_folder, location, scope_of
from codexpool.state.opening import open_state

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from codexpool.credentials.account_api import AccountApi
    from codexpool.upkeep.verification import Verification


T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Spec = TypeVar("Spec", IdentitySpec, MemberSpec)

CONFIG_HELP: Final = "The pool.toml to use. Default: the one the proxy finds."


class Failure(click.ClickException):
    """The command failed: the message says why, and what to do. Exit code 1."""

    def show(self, file: Any = None) -> None:
        for line in redact_tokens(self.message).splitlines():
            click.echo(f"codexpool: {line}", err=True)


class Unchanged(Failure):
    """The command failed before it wrote anything, and the message says so."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}. Nothing was changed")


class OutOfReach(Failure):
    """The state cannot be read now."""


def config_option(command: F) -> F:
    """Add ``--config PATH``."""
    option = click.option("--config", "named", metavar="PATH", type=click.Path(path_type=Path), help=CONFIG_HELP)
    return option(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def name_argument(command: F) -> F:
    return click.argument("name", metavar="NAME")(command)


def pool_path(named: Path | None) -> Path | None:
    """Return the pool.toml, found as the addon finds it; None if there is none. Raises click.UsageError, Failure."""
    try:
        return find(str(named) if named is not None else None, os.environ, entry())
    except ConfigError as error:
        if named is not None:
            raise click.UsageError(f"--config: {named}: no such file") from None
        raise Failure(str(error)) from None


def existing_pool_path(named: Path | None) -> Path:
    """Return the pool.toml. Raises Failure if there is none."""
    path = pool_path(named)
    if path is None:
        searched = "\n  ".join(places(entry())[1:])
        raise Failure(f"no pool.toml found. To create one: codexpool add NAME. Searched:\n  {searched}")
    return path


def sources() -> Sources:
    from codexpool.upkeep.shared_logins import SharedLogins

    agents = AgentApi(route(), os.environ, Clock(), partial(agents_folder, os.environ))
    return Sources(
        os.environ, TokenEndpoint(route(), os.environ), agents, SharedLogins(_transact, os.environ, _logins)
    )


def _transact(work: Callable[[Connection], T], /) -> T:
    """Do ``work`` in a transaction of the state. Raises StateError."""
    with contextlib.closing(open_state(location(os.environ))) as state:
        return state.transact(work)


def _logins() -> Mapping[IdentityKey, StoredLogin]:
    """Return the logins in the state. Raises UnusableError."""
    from codexpool.state import logins

    try:
        return _transact(lambda connection: logins.login_rows(connection, since=-1))
    except StateError as error:
        raise UnusableError(f"its login is in the state, which cannot be read: {error}", "try again") from None


def route() -> Route:
    """Return how commands reach the backend: directly.

    HTTPS_PROXY may be the pool's own proxy, which would send the requests under an identity of the pool.
    """
    return Route()


def verification() -> Verification:
    from codexpool.credentials.authapi import AuthApi
    from codexpool.upkeep.verification import Verification

    return Verification(AuthApi(route(), os.environ))


def account_api() -> AccountApi:
    from codexpool.credentials.account_api import AccountApi

    return AccountApi(route())


@contextlib.contextmanager
def open_the_state() -> Iterator[State]:
    """Open the state to write to it. Raises Failure, also at the end if not all of it was written."""
    try:
        state = open_state(state_location())
    except StateError as error:
        raise Failure(f"state: {error}") from None
    try:
        yield state
    finally:
        is_written = state.close()
    if not is_written:
        raise Failure("state: could not write all of it; try again")


def state_location() -> Location:
    """Return where the state is. Raises Failure if `CODEXPOOL_STATE` is invalid."""
    try:
        return location(os.environ)
    except StateError as error:
        raise Failure(str(error)) from None


def state_snapshot() -> Snapshot:
    """Return what proxies have found out; nothing if the state does not exist. Raises OutOfReach, Failure."""
    at = state_location()
    if isinstance(at, SqliteFile) and not at.path.exists():
        return Snapshot()
    try:
        state = open_state(at)
    except UnavailableError as error:
        raise OutOfReach(f"state: {error}") from None
    except StateError as error:
        raise Failure(f"state: {error}") from None
    with contextlib.closing(state):
        return state.load()


def moment(at: float | None) -> str | None:
    """Return a time as JSON has it: UTC, to the second."""
    return None if at is None else datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


class Pool:
    """A valid pool.toml. Raises Failure if it is invalid."""

    def __init__(self, path: Path) -> None:
        try:
            self.config = load(path)
        except ConfigError as error:
            raise Failure(str(error)) from None
        self.path = self.config.path
        self.scope = scope_of(os.environ, self.path)  # The key of what belongs to it in the state.

    @cached_property
    def sources(self) -> Sources:
        return sources()

    @cached_property
    def resolved(self) -> Resolved:
        """The credentials, and the problems of identities without one."""
        return resolve(self.config, self.sources)

    @cached_property
    def known(self) -> Snapshot:
        """What proxies have found out. If that cannot be read now, this says so, and returns nothing."""
        try:
            return self.certain
        except OutOfReach as failure:
            click.echo(f"codexpool: {failure.message}. Showing what pool.toml alone says", err=True)
            return Snapshot()

    @cached_property
    def certain(self) -> Snapshot:
        """The same, for commands that would be wrong without it. Raises Failure if it cannot be read now."""
        return state_snapshot()

    def identity(self, name: str) -> IdentitySpec:
        return self._named("identity", self.config.identities, name)

    def member(self, name: str) -> MemberSpec:
        return self._named("member", self.config.members, name)

    def edit(self, change: Callable[[str], str]) -> None:
        """Change the text of pool.toml. Raises Failure if it cannot be written, or would be invalid."""
        edit_pool(self.path, change)

    def _named(self, what: str, specs: Sequence[Spec], name: str) -> Spec:
        for spec in specs:
            if spec.name == name:
                return spec
        names = ", ".join(spec.name for spec in specs) or "none"
        raise click.UsageError(f"no {what} {shown(name)} in {self.path}; it has: {names}")


def edit_pool(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of a pool.toml, which may still be empty. Raises Failure."""
    from codexpool.config import editing  # only where something is written

    try:
        editing.edit(path, change)
    except editing.EditError as error:
        raise Failure(str(error)) from None


def require_writable(path: Path) -> None:
    """Raise Unchanged if a pool.toml cannot be written: before a person logs in, or gets a key, for nothing."""
    if path.parent.exists() and is_read_only(path):
        raise Unchanged(f"{path}: cannot be written; {remedy_of_read_only(path)}")


def pool_option(command: F) -> F:
    """Add ``--config PATH``, and pass the `Pool`."""

    def opened(context: click.Context, parameter: click.Parameter, named: Path | None) -> Pool | Path | None:
        return Pool(existing_pool_path(named)) if not context.resilient_parsing else named

    option = click.option(
        "--config", "pool", metavar="PATH", type=click.Path(path_type=Path), callback=opened, help=CONFIG_HELP
    )
    return option(command)
