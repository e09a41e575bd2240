"""`codexpool pause`, `resume` and `remove`: what a person says of an identity, without an editor."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import click

from codexpool.cli.common import (
    Failure,
    config_option,
    edit_pool,
    known,
    name_argument,
    pool_config,
    sources,
    spec_of,
    the_state,
)
from codexpool.cli.identity_rows import identity_rows
from codexpool.config import FromAuthJson, FromFile
from codexpool.config.tables import with_key, without_identity, without_key
from codexpool.pool.exclusions import subjects
from codexpool.pool.identity import Status
from codexpool.pool.states import RETURNING
from codexpool.state import record_name
from codexpool.upkeep.persistence import NOT_FOR, RESUMED, USAGE


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
    """Have an identity serve again that is paused, or that is thought to be limited or not for something.

    A proxy thinks so until the backend's own time has come. Say it otherwise when you know better: the workspace was
    paid for, a limit was reset, or the account has the model by now.
    """
    config = pool_config(named)
    spec = spec_of(config, name)
    if spec.paused:
        edit_pool(config.path, lambda text: without_key(text, name, "paused"))
        click.echo(f"{name} serves again")
        return
    found = known()
    row = next(row for row in identity_rows(config, sources(), found) if row.spec.name == name)
    key = json.dumps(row.metadata.key) if row.metadata is not None else ""
    note = found.notes.get((USAGE, key), {})
    is_held_up = row.status in (*RETURNING, Status.PAUSED) or note.get("limited") or row.not_for
    if not is_held_up or not row.fingerprint:
        click.echo(f"{name} is not paused, and not limited: it is {row.status}")
        return
    with the_state() as state:
        state.drop_condition(row.fingerprint)
        state.put_note(RESUMED, row.fingerprint, {"at": int(time.time())})
        if note:
            state.put_note(USAGE, key, {**note, "limited": {}})
        for subject in subjects(row.fingerprint, row.metadata):
            if (NOT_FOR, subject) in found.notes:
                state.put_note(NOT_FOR, subject, {})
    click.echo(f"{name} is tried again, from now on")


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
