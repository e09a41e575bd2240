"""What commands share: options, the pool they work on, the state, and the way to the backend."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from codexpool.cli.entry import entry
from codexpool.cli.via import upstream
from codexpool.common.clock_skew import Clock
from codexpool.common.iso_time import iso_time
from codexpool.common.private_files import UnusableError
from codexpool.config.checks import new_name_problem
from codexpool.config.files import Places, is_read_only, places, remedy_of_read_only
from codexpool.config.model import ConfigError, IdentitySpec, MemberSpec, Table, shown
from codexpool.config.read import load_or_empty
from codexpool.config.sources import Resolved, Sources, resolve
from codexpool.credentials.agent_api import AgentApi
from codexpool.credentials.http_client import Route
from codexpool.credentials.shared_login import StoredLogin
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.credentials.upstream_proxy import no_proxy
from codexpool.pool.identity import IdentityKey
from codexpool.pool.needs import NO_IDENTITIES
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
NO_MEMBERS: Final = "no members yet: codexpool member add NAME"
NOTICED: Final = "Running proxies notice within two seconds"


def remark(text: str) -> None:
    """Tell a person something on standard error, without tokens: standard output is for data."""
    for line in redact_tokens(text).splitlines():
        click.echo(f"codexpool: {line}", err=True)


class Failure(click.ClickException):
    """The command failed: the message says why, and what to do. Exit code 1."""

    def show(self, file: Any = None) -> None:
        remark(self.message)


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


def ids_option(command: F) -> F:
    return click.option("--ids", "with_ids", is_flag=True, help="Show account, user and fingerprint, too.")(command)


def can_ask() -> bool:
    """Return whether a person can be asked: at a terminal."""
    return sys.stdin.isatty()


def name_argument(command: F) -> F:
    return click.argument("name", metavar="NAME")(command)


def pool_places(named: Path | None) -> Places:
    """Return where a pool.toml is looked for, as the addon does it."""
    return places(str(named) if named is not None else None, os.environ, entry())


def pool_path(named: Path | None) -> Path:
    """Return the pool.toml, or where to create it. Raises click.UsageError if ``named`` does not exist."""
    places = pool_places(named)
    path = places.find()
    if path is None and named is not None:
        raise click.UsageError(f"--config: {named}: no such file")
    return path or places.new


def pool_to_edit(named: Path | None) -> Path:
    """Return the same, and ``named`` if it does not exist: it is created there."""
    places = pool_places(named)
    return places.find() or places.new


def config_arguments(path: Path) -> list[str]:
    """Return the options with which another command uses this pool.toml; empty if it finds that by itself."""
    return [] if path == pool_to_edit(None) else ["--config", str(path)]


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
    """Return how commands reach the backend: through the proxy of ``--via`` or CODEXPOOL_UPSTREAM_PROXY, or directly.

    HTTPS_PROXY may be the pool's own proxy, which would send the requests under an identity of the pool.
    """
    proxy = upstream()
    return Route(proxy.url if proxy is not None else None, excluded=no_proxy(os.environ))


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


def transact(work: Callable[[Connection], T], failed: type[Failure] = Failure) -> T:
    """Do ``work`` in a transaction of the state. Raises Failure, of the kind ``failed`` if nothing was done."""
    with open_the_state() as state:
        try:
            return state.transact(work)
        except StateError as error:
            raise failed(f"state: {error}") from None


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
    return None if at is None else iso_time(int(at))


class Pool:
    """A valid pool.toml, or an empty pool if there is no such file yet. Raises Failure if it is invalid."""

    def __init__(self, path: Path) -> None:
        try:
            self.config = load_or_empty(path)
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
            remark(f"{failure.message}. Showing what pool.toml alone says")
            return Snapshot()

    @cached_property
    def certain(self) -> Snapshot:
        """The same, for commands that would be wrong without it. Raises Failure if it cannot be read now."""
        return state_snapshot()

    def identity(self, name: str) -> IdentitySpec:
        return self._named("identity", self.config.identities, name, NO_IDENTITIES)

    def member(self, name: str) -> MemberSpec:
        return self._named("member", self.config.members, name, NO_MEMBERS)

    def say_if_empty(self) -> None:
        """Tell a person that there are no identities, if so. (Standard output is for data.)"""
        if self.config.identities:
            return
        remark(NO_IDENTITIES)
        if self.config.is_missing and (named_by := pool_places(None).named_by):
            remark(f"{named_by} names {self.path}, which does not exist yet")

    def edit(self, change: Callable[[str], str]) -> None:
        """Change the text of pool.toml, creating it if need be. Raises Failure, also if it would be invalid."""
        edit_pool(self.path, change)

    def _named(self, what: str, specs: Sequence[Spec], name: str, none: str) -> Spec:
        for spec in specs:
            if spec.name == name:
                return spec
        known = f"it has: {', '.join(spec.name for spec in specs)}" if specs else none
        raise click.UsageError(f"no {what} {shown(name)} in {self.path}; {known}")


def edit_pool(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of a pool.toml, which is created if it does not exist. Raises Failure."""
    from codexpool.config import editing  # only where something is written

    try:
        is_new = editing.create(path)
    except OSError as error:
        raise Unchanged(f"cannot create {path}: {error.strerror or error}") from None
    try:
        editing.edit(path, change)
    except editing.EditError as error:
        if is_new:
            editing.remove_unused(path)
        raise Failure(str(error)) from None


def require_new_name(name: str, others: Sequence[IdentitySpec | MemberSpec], of: Table) -> None:
    """Raise click.UsageError if a new identity or member cannot have this name."""
    if problem := new_name_problem(name, [spec.name for spec in others], of):
        raise click.UsageError(f"NAME {problem[0]}; {problem[1]}")


def require_writable(path: Path) -> None:
    """Raise Unchanged if a pool.toml cannot be written: before a person logs in, or gets a key, for nothing."""
    if path.parent.exists() and is_read_only(path):
        raise Unchanged(f"{path}: cannot be written; {remedy_of_read_only(path)}")


def pool_option(command: F) -> F:
    """Add ``--config PATH``, and pass the `Pool`."""

    def opened(context: click.Context, parameter: click.Parameter, named: Path | None) -> Pool | Path | None:
        return Pool(pool_path(named)) if not context.resilient_parsing else named

    option = click.option(
        "--config", "pool", metavar="PATH", type=click.Path(path_type=Path), callback=opened, help=CONFIG_HELP
    )
    return option(command)
