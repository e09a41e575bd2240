"""`codexpool list` and `codexpool show`."""

from __future__ import annotations

import json
import time

import click
from rich.table import Table

from codexpool.cli.common import json_option, moment, name_argument
from codexpool.cli.identity_rows import identity_row, identity_rows, print_rows
from codexpool.cli.output import STATUS_STYLES, console
from codexpool.cli.pool import Pool, pool_option
from codexpool.pool.needs import expiry


@click.command("list")
@pool_option
@json_option
def list_(pool: Pool, as_json: bool) -> None:
    """List the identities of the pool and their status.

    Reads pool.toml and what proxies have found out; `codexpool check` asks the backend.
    """
    rows = identity_rows(pool)
    if as_json:
        click.echo(json.dumps([row.document() for row in rows], indent=2))
    else:
        print_rows(rows)


@click.command()
@name_argument
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
        click.echo(json.dumps(document, indent=2))
        return
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
