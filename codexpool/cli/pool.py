"""The pool a command works on: pool.toml, and what proxies have found out about its identities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click

from codexpool.cli.common import CONFIG_HELP, Failure, existing_pool_path, sources, state_snapshot
from codexpool.config.model import ConfigError, IdentitySpec, MemberSpec, shown
from codexpool.config.read import load
from codexpool.config.sources import Resolved, Sources, resolve
from codexpool.state import Snapshot

F = TypeVar("F", bound=Callable[..., Any])
Spec = TypeVar("Spec", IdentitySpec, MemberSpec)


class Pool:
    """A valid pool.toml. Raises Failure if it is invalid."""

    def __init__(self, path: Path) -> None:
        try:
            self.config = load(path)
        except ConfigError as error:
            raise Failure(str(error)) from None
        self.path = self.config.path

    @cached_property
    def sources(self) -> Sources:
        return sources()

    @cached_property
    def resolved(self) -> Resolved:
        """The credentials, and the problems of identities without one."""
        return resolve(self.config, self.sources)

    @cached_property
    def known(self) -> Snapshot:
        """What proxies have found out."""
        return state_snapshot()

    def identity(self, name: str) -> IdentitySpec:
        """Return the identity of that name. Raises click.UsageError."""
        return self._named("identity", self.config.identities, name)

    def member(self, name: str) -> MemberSpec:
        """Return the member of that name. Raises click.UsageError."""
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


def pool_option(command: F) -> F:
    """Add ``--config PATH``, and pass the `Pool`."""

    def opened(context: click.Context, parameter: click.Parameter, named: Path | None) -> Pool:
        return Pool(existing_pool_path(named))

    option = click.option(
        "--config", "pool", metavar="PATH", type=click.Path(path_type=Path), callback=opened, help=CONFIG_HELP
    )
    return option(command)
