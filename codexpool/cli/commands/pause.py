"""`codexpool pause`, `resume` and `remove`."""

from __future__ import annotations

import contextlib
import json
import time

import click

from codexpool.cli.common import Failure, name_argument, open_the_state
from codexpool.cli.identity_rows import identity_row
from codexpool.cli.pool import Pool, pool_option
from codexpool.config.model import FromAuthJson, FromFile
from codexpool.config.tables import with_key, without_identity, without_key
from codexpool.pool.exclusions import subjects
from codexpool.pool.identity import Status
from codexpool.pool.states import RETURNING
from codexpool.state import record_name
from codexpool.upkeep.persistence import NOT_FOR, RESUMED, USAGE


@click.command()
@name_argument
@pool_option
def pause(name: str, pool: Pool) -> None:
    """Stop using identity NAME until it is resumed. Other identities serve its sessions."""
    if pool.identity(name).paused:
        click.echo(f"{name} is already paused")
        return
    pool.edit(lambda text: with_key(text, name, "paused", True))
    click.echo(f"{name} is paused")


@click.command()
@name_argument
@pool_option
def resume(name: str, pool: Pool) -> None:
    """Use identity NAME again, although it is paused, limited, or excluded from a model or endpoint.

    Without this, proxies wait until the time the backend gave. Use it when you know better: the workspace was paid
    for, a limit was reset, or the account got access to the model.
    """
    if pool.identity(name).paused:
        pool.edit(lambda text: without_key(text, name, "paused"))
        click.echo(f"{name} is resumed")
        return
    row = identity_row(pool, name)
    key = json.dumps(row.metadata.key) if row.metadata is not None else ""
    note = pool.known.notes.get((USAGE, key), {})
    is_held_back = row.status in (*RETURNING, Status.PAUSED) or note.get("limited") or row.not_for
    if not is_held_back or not row.fingerprint:
        click.echo(f"{name} is neither paused nor limited: its status is {row.status}")
        return
    with open_the_state() as state:
        state.drop_condition(row.fingerprint)
        state.put_note(RESUMED, row.fingerprint, {"at": int(time.time())})
        if note:
            state.put_note(USAGE, key, {**note, "limited": {}})
        for subject in subjects(row.fingerprint, row.metadata):
            if (NOT_FOR, subject) in pool.known.notes:
                state.put_note(NOT_FOR, subject, {})
    click.echo(f"{name} is resumed")


@click.command()
@name_argument
@pool_option
def remove(name: str, pool: Pool) -> None:
    """Remove identity NAME from pool.toml. Its token or login file is kept."""
    spec = pool.identity(name)
    if len(pool.config.identities) == 1:
        raise Failure(f"{name} is the only identity. Add another one first, or delete {pool.path}")
    pool.edit(lambda text: without_identity(text, name))
    with contextlib.suppress(Failure), open_the_state() as state:  # Another identity may get this name.
        state.drop_record(record_name(pool.path, name))
    click.echo(f"removed {name} from {pool.path}")
    if isinstance(spec.source, FromAuthJson | FromFile):
        click.echo(f"kept {spec.source.path}")
