"""`codexpool list`, `show`, `pause`, `resume`, `remove` and `breaker`."""

from __future__ import annotations

import contextlib
import json
import time

import click
from rich.table import Table

from codexpool.cli.common import (
    Failure,
    Pool,
    json_option,
    moment,
    open_the_state,
    pool_option,
    require_writable,
)
from codexpool.cli.completions import identity_argument
from codexpool.cli.identity_rows import described_credits, described_limit, identity_row, identity_rows, print_rows
from codexpool.cli.output import STATUS_STYLES, console, print_json
from codexpool.cli.shared_logins import delete
from codexpool.config.model import FromAuthJson, FromFile, FromState
from codexpool.config.tables import with_key, without_key, without_table
from codexpool.pool.breaker import Breaker, Opening
from codexpool.pool.exclusions import subjects
from codexpool.pool.identity import Status
from codexpool.pool.needs import expiry
from codexpool.pool.states import RETURNING
from codexpool.state import record_name
from codexpool.state.notes import BREAKER, NOT_FOR, RESUMED, USAGE


@click.command("list")
@pool_option
@json_option
def list_(pool: Pool, as_json: bool) -> None:
    """List the identities of the pool and their status.

    Reads pool.toml and what proxies have found out; `codexpool check` asks the backend.
    """
    rows = identity_rows(pool)
    if as_json:
        print_json({"identities": [row.document() for row in rows]})
    else:
        pool.say_if_empty()
        print_rows(rows)


@click.command()
@identity_argument
@pool_option
@json_option
def show(name: str, pool: Pool, as_json: bool) -> None:
    """Show all that is known about identity NAME, except secrets."""
    row = identity_row(pool, name)
    document = {
        **row.document(),
        "expires": moment(row.spec.expires_at),
        "fedramp": row.metadata.fedramp if row.metadata is not None else None,
        "origin": row.metadata.origin if row.metadata is not None else None,
        "where": f"{pool.path}:{row.spec.line}",
    }
    if as_json:
        print_json(document)
        return
    document["limits"] = list(map(described_limit, document["limits"]))
    document["limited"] = [f"{family} until {until}" for family, until in document["limited"].items()]
    credits = document["reset_credits"]
    document["reset_credits"] = described_credits(credits) or ("none" if credits else None)
    table = Table.grid(padding=(0, 2))
    for key, value in document.items():
        style = STATUS_STYLES[row.status] if key == "status" else ""
        table.add_row(key.replace("_", " "), _text(value), style=style)
    if reminder := expiry(row.spec.expires_at, time.time()):
        table.add_row("reminder", reminder, style="yellow")
    console().print(table)


def _text(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "-"
    return "-" if value is None else "yes" if value is True else "no" if value is False else str(value)


@click.command()
@identity_argument
@pool_option
def pause(name: str, pool: Pool) -> None:
    """Stop using identity NAME until it is resumed. Other identities serve its sessions."""
    if pool.identity(name).paused:
        click.echo(f"{name} is already paused")
        return
    pool.edit(lambda text: with_key(text, name, "paused", True))
    click.echo(f"{name} is paused")


@click.command()
@identity_argument
@pool_option
def resume(name: str, pool: Pool) -> None:
    """Use identity NAME again, although it is paused, limited, or excluded from a model or endpoint.

    Without this, proxies wait until the time the backend gave, or until it says that a limit was lifted. Use it when
    you know better: the workspace was paid for, or the account got access to the model.
    """
    if pool.identity(name).paused:
        pool.edit(lambda text: without_key(text, name, "paused"))
        click.echo(f"{name} is resumed")
        return
    stored = pool.certain.notes
    row = identity_row(pool, name)
    key = json.dumps(row.metadata.key) if row.metadata is not None else ""
    note = stored.get((USAGE, key), {})
    is_held_back = row.status in (*RETURNING, Status.PAUSED) or note.get("limited") or row.not_for
    if not is_held_back or not row.fingerprint:
        click.echo(f"{name} is neither paused nor limited: its status is {row.status}")
        return
    with open_the_state() as state:
        state.drop_condition(row.fingerprint)
        state.put_note(RESUMED, row.fingerprint, {"at": time.time()})
        if note:
            state.put_note(USAGE, key, {**note, "limited": {}})
        for subject in subjects(row.fingerprint, row.metadata):
            if (NOT_FOR, subject) in stored:
                state.put_note(NOT_FOR, subject, {})
    click.echo(f"{name} is resumed")


@click.command()
@identity_argument
@click.option("--with-login", is_flag=True, help="Also delete its login in the state, for all proxies.")
@pool_option
def remove(name: str, pool: Pool, with_login: bool) -> None:
    """Remove identity NAME from pool.toml. Its token or login file, or its login in the state, is kept."""
    spec = pool.identity(name)
    if with_login and not isinstance(spec.source, FromState):
        raise click.UsageError(f"--with-login: {name} has no login in the state")
    if with_login:  # First: if it cannot be deleted now, the same command does it later.
        require_writable(pool.path)
        delete(spec.owner)
    pool.edit(lambda text: without_table(text, name))
    with contextlib.suppress(Failure), open_the_state() as state:  # Another identity may get this name.
        state.drop_record(record_name(pool.scope, name))
    click.echo(f"removed {name} from {pool.path}")
    if with_login:
        click.echo("deleted its login in the state")
    elif isinstance(spec.source, FromState):
        click.echo("kept its login in the state, for other proxies")
    elif isinstance(spec.source, FromAuthJson | FromFile):
        click.echo(f"kept {spec.source.path}")


@click.command()
@click.option("--close", is_flag=True, help="Close it now: proxies move sessions again.")
@json_option
@pool_option
def breaker(close: bool, as_json: bool, pool: Pool) -> None:
    """Show or close the circuit breaker.

    It opens when several identities are refused for good within a minute ([pool] breaker in pool.toml sets how many):
    moving their sessions could get more identities refused. Sessions of identities that serve go on. After a pause
    one request tests whether the trouble is over.

    Exit code 1 while it is open.
    """
    breaker = Breaker()
    if close:
        with open_the_state() as state:
            state.put_note(BREAKER, pool.scope, {**breaker.document(), "at": time.time()})
    else:
        breaker.take(pool.certain.notes.get((BREAKER, pool.scope), {}))
    opening = breaker.state(time.time())
    if as_json:
        until = moment(breaker.until) if breaker.opened_at is not None else None
        since = moment(breaker.opened_at)
        print_json({"state": str(opening), "since": since, "names": list(breaker.names), "until": until})
    elif opening is Opening.CLOSED:
        click.echo("the breaker is closed: proxies move sessions as needed")
    else:
        until = f"until {moment(breaker.until)}" if opening is Opening.OPEN else "until one request succeeds"
        names = ", ".join(breaker.names)
        click.echo(f"the breaker is {opening} since {moment(breaker.opened_at)}: refused for good: {names}")
        click.echo(f"sessions are not moved {until}. To close it now: codexpool breaker --close")
    if opening is Opening.OPEN:
        raise SystemExit(1)
