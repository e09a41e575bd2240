"""`codexpool pause`, `resume` and `remove`: what a person says of an identity, without an editor."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from codexpool.cli.common import (
    Failure,
    config_option,
    edit_pool,
    name_argument,
    pool_config,
    spec_of,
    the_state,
)
from codexpool.config import FromAuthJson, FromFile
from codexpool.config.tables import with_key, without_identity, without_key
from codexpool.state import record_name


@click.command()
@name_argument
@config_option
def pause(name: str, named: Path | None) -> None:
    """Have an identity serve nobody until it is resumed. Its sessions are served by others meanwhile."""
    config = pool_config(named)
    if spec_of(config, name).paused:
        click.echo(f"{name} is paused already")
        return
    edit_pool(config.path, lambda text: with_key(text, name, "paused", True))
    click.echo(f"{name} is paused")


@click.command()
@name_argument
@config_option
def resume(name: str, named: Path | None) -> None:
    """Have a paused identity serve again."""
    config = pool_config(named)
    if not spec_of(config, name).paused:
        click.echo(f"{name} is not paused")
        return
    edit_pool(config.path, lambda text: without_key(text, name, "paused"))
    click.echo(f"{name} serves again")


@click.command()
@name_argument
@config_option
def remove(name: str, named: Path | None) -> None:
    """Take an identity out of pool.toml. Its token, and its login, stay as they are."""
    config = pool_config(named)
    spec = spec_of(config, name)
    if len(config.identities) == 1:
        raise Failure(f"{name} is the only identity. Add another one first, or delete {config.path}")
    edit_pool(config.path, lambda text: without_identity(text, name))
    with contextlib.suppress(Failure), the_state() as state:  # Whose it was binds nobody who takes its name.
        state.drop_record(record_name(config.path, name))
    click.echo(f"{name} is no longer in {config.path}")
    if isinstance(spec.source, FromAuthJson | FromFile):
        click.echo(f"{spec.source.path} is still there")
