"""`codexpool list` and `codexpool show`: how the identities stand."""

from __future__ import annotations

import json
from pathlib import Path

import click

from codexpool.cli.common import (
    config_option,
    console,
    json_option,
    known,
    moment,
    name_argument,
    pool_config,
    spec_of,
)
from codexpool.cli.common import sources as usual_sources
from codexpool.cli.identity_rows import identity_rows
from codexpool.cli.identity_table import STYLES, table


@click.command("list")
@config_option
@json_option
def list_(named: Path | None, as_json: bool) -> None:
    """List the identities of the pool, and how they stand.

    This is what pool.toml says, and what proxies have found out so far; `codexpool check` asks the backend.
    """
    config = pool_config(named)
    rows = identity_rows(config, usual_sources(), known())
    if as_json:
        click.echo(json.dumps([row.document() for row in rows], indent=2))
        return
    table(rows)


@click.command()
@name_argument
@config_option
@json_option
def show(name: str, named: Path | None, as_json: bool) -> None:
    """Show one identity with all that is known of it, and no secret."""
    config = pool_config(named)
    spec_of(config, name)
    row = next(row for row in identity_rows(config, usual_sources(), known()) if row.spec.name == name)
    document = {
        **row.document(),
        "expires": moment(row.spec.expires_at),
        "fedramp": row.metadata.fedramp if row.metadata is not None else None,
        "origin": row.metadata.origin if row.metadata is not None else None,
        "where": f"{config.path}:{row.spec.line}",
    }
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    from rich.table import Table

    shown = Table.grid(padding=(0, 2))
    for key, value in document.items():
        style = STYLES[row.status] if key == "status" else ""
        shown.add_row(key.replace("_", " "), _text(value), style=style)
    if row.reminder:
        shown.add_row("reminder", row.reminder, style="yellow")
    console().print(shown)


def _text(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "-"
    return "-" if value is None else "yes" if value is True else "no" if value is False else str(value)
