"""`codexpool member`: who may use the pool besides its operator, each with a key of its own that is shown once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import click

from codexpool.cli.common import (
    Failure,
    config_option,
    console,
    edit_pool,
    json_option,
    moment,
    name_argument,
    pool_config,
)
from codexpool.cli.show_once import give
from codexpool.cli.time_options import duration, last_day
from codexpool.config import Access, MemberSpec, PoolConfig, parse
from codexpool.config.model import shown
from codexpool.config.named import Table, name_problem
from codexpool.config.tables import Literal, Value, time_literal, with_key, with_table, without_key
from codexpool.members.register import Standing, standing
from codexpool.tokens.bearer import FINGERPRINT_DIGITS
from codexpool.tokens.member_key import hashed, new_key

STYLES: Final = {Standing.VALID.value: "green", Standing.EXPIRED.value: "yellow", Standing.REVOKED.value: "dim"}

COLUMNS: Final = {
    "name": "name",
    "status": "status",
    "expires": "expires",
    "identities": "identities",
    "at once": "turns_at_once",
    "a day": "turns_a_day",
    "old key until": "previous_until",
    "fingerprint": "fingerprint",
}
"""What a row shows of a member: titles, and the keys of its JSON."""

NOTICED: Final = "Running proxies notice within two seconds"


def _patterns(context: click.Context, option: click.Parameter, patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not all(pattern and pattern.isprintable() for pattern in patterns):
        raise click.BadParameter("a pattern is empty, or has something in it that cannot be shown")
    return patterns


@click.group()
def member() -> None:
    """Let others use the pool, each with a key of their own.

    A key goes where a personal access token would: CODEX_ACCESS_TOKEN, or `codex login --with-access-token`. It opens
    this pool and nothing else. pool.toml keeps only its hash.
    """


@member.command()
@name_argument
@config_option
@click.option(
    "--expires",
    metavar="DATE",
    callback=last_day,
    help="The last day (UTC) on which the key is good, or a time with its zone.",
)
@click.option(
    "--identities",
    multiple=True,
    metavar="PATTERN",
    callback=_patterns,
    help='Which identities may serve: a name, or a shell pattern ("team-*"). Can be said more than once.',
)
@click.option("--turns-at-once", type=click.IntRange(min=1), help="Turns at the same time, at most.")
@click.option("--turns-a-day", type=click.IntRange(min=1), help="Turns a day (UTC), at most.")
def add(name: str, named: Path | None, **said: Any) -> None:
    """Add a member, and print its key on standard output, this once.

    A turn is one request for the model: a prompt takes as many of them as it has tool calls, and one more.

    \b
        codexpool member add ann
        codexpool member add ci --expires 2027-01-31 --identities "team-*" --turns-at-once 3
    """
    if problem := name_problem(name, Table.MEMBER):
        raise click.UsageError(f"NAME {problem[0]}; {problem[1]}")
    config = pool_config(named)
    if (spec := config.member(name)) is not None:
        raise Failure(
            f"there is a member {name} already ({config.path}:{spec.line}). "
            f"Take another name. For another key: codexpool member rotate {name}"
        )
    key = new_key()
    bounds = {bound: value for bound, value in said.items() if value}
    table: dict[str, Value] = {"name": name, "key": hashed(key), **bounds}
    give(config.path, name, key, lambda text: with_table(text, table, Table.MEMBER))
    click.echo(f"{name} is in {config.path}. {_for_the_member(name)}", err=True)
    for warning in (*_unmatched(config, said["identities"]), *_openness(config)):
        click.echo(f"codexpool: {warning}", err=True)


@member.command("list")
@config_option
@json_option
def list_(named: Path | None, as_json: bool) -> None:
    """List the members, and whether their keys are good. No key is shown: it is known by its fingerprint only."""
    config = pool_config(named)
    rows = [_document(config, spec, time.time()) for spec in config.members]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("there is no member. To add one: codexpool member add NAME")
        return
    _print_table(rows)
    for row in rows:
        for warning in _unmatched(config, row["identities"]):
            click.echo(f"{row['name']}: {warning}")
    for warning in _openness(config):
        click.echo(warning)


@member.command()
@name_argument
@config_option
def revoke(name: str, named: Path | None) -> None:
    """Make the keys of a member worth nothing, from now on.

    The member stays in pool.toml, so that it is known who it was. `codexpool member rotate --reinstate` lets it in
    again, with a new key; the revoked one never opens the pool again.
    """
    config = pool_config(named)
    spec = _spec_of(config, name)
    if spec.revoked_at is not None:
        click.echo(f"{name} is revoked already, since {moment(spec.revoked_at)}")
        return
    revoked = time_literal(datetime.now(UTC))

    def change(text: str) -> str:
        text = with_key(text, name, "revoked", revoked, Table.MEMBER)
        return without_key(text, name, "previous", Table.MEMBER)

    edit_pool(config.path, change)
    click.echo(f"{name} is revoked. {NOTICED}")


@member.command()
@name_argument
@config_option
@click.option(
    "--grace",
    metavar="DURATION",
    callback=duration,
    default="24h",
    show_default=True,
    help="For how long the old key is good, too: 90m, 7d. With 0 it is worth nothing at once.",
)
@click.option("--reinstate", is_flag=True, help="Let a revoked member in again; its old key stays worth nothing.")
def rotate(name: str, named: Path | None, grace: timedelta, reinstate: bool) -> None:
    """Give a member a new key, and print it on standard output, this once.

    The old key is good for a while longer; one that is older still is worth nothing at once.
    """
    config = pool_config(named)
    spec = _spec_of(config, name)
    is_revoked = spec.revoked_at is not None
    if is_revoked and not reinstate:
        raise Failure(f"{name} is revoked. To let it in again: codexpool member rotate {name} --reinstate")
    grace = timedelta() if is_revoked else grace
    key, until = new_key(), time_literal(datetime.now(UTC) + grace)

    def change(text: str) -> str:
        old = _spec_of(parse(text, config.path), name)
        text = without_key(text, name, "revoked", Table.MEMBER) if is_revoked else text
        text = with_key(text, name, "key", hashed(key), Table.MEMBER)
        if not grace:
            return without_key(text, name, "previous", Table.MEMBER)
        return with_key(text, name, "previous", {"key": old.key, "until": until}, Table.MEMBER)

    give(config.path, name, key, change)
    of_old = f"is good until {until}" if grace else "is worth nothing from now on"
    click.echo(f"{name} has a new key; the old one {of_old}. {_for_the_member(name)}", err=True)
    if spec.expires_at is not None and spec.expires_at <= time.time():
        click.echo(f"codexpool: {name} has expired. To go on: codexpool member expires {name} never", err=True)


@member.command()
@name_argument
@click.argument("date", metavar="DATE|never", callback=last_day)
@config_option
def expires(name: str, date: Literal | None, named: Path | None) -> None:
    """Say until when the key of a member is good: the last day (UTC), a time with its zone, or `never`."""
    config = pool_config(named)
    _spec_of(config, name)
    if date is None:
        edit_pool(config.path, lambda text: without_key(text, name, "expires", Table.MEMBER))
        click.echo(f"{name} does not expire. {NOTICED}")
    else:
        edit_pool(config.path, lambda text: with_key(text, name, "expires", date, Table.MEMBER))
        click.echo(f"{name} expires: {date}. {NOTICED}")


def _spec_of(config: PoolConfig, name: str) -> MemberSpec:
    """The table of a member. Raises click.UsageError where there is none of that name."""
    spec = config.member(name)
    if spec is None:
        names = ", ".join(known.name for known in config.members) or "nobody"
        raise click.UsageError(f"there is no member {shown(name)} in {config.path}; there is: {names}")
    return spec


def _for_the_member(name: str) -> str:
    return (
        f"The key is shown this once, and only its hash is kept.\n"
        f"{name} sets CODEX_ACCESS_TOKEN to it (or pipes it into codex login --with-access-token), and what "
        f"`codexpool env` prints. If it gets lost: codexpool member rotate {name}"
    )


def _unmatched(config: PoolConfig, patterns: Sequence[str]) -> list[str]:
    """What is to be said of patterns that are the name of no identity."""
    names = [identity.name for identity in config.identities]
    return [
        f"no identity is called {shown(pattern)}"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def _openness(config: PoolConfig) -> list[str]:
    """What is to be said of a pool that a key is not needed for."""
    remedy = '[pool] access = "members" in pool.toml keeps others out'
    match config.access:
        case Access.ANYONE:
            return [f'access = "anyone": whoever reaches the proxy is served without a key, too; {remedy}']
        case None:
            return [f"on loopback, whoever reaches the proxy is served without a key, too; {remedy}"]
        case _:
            return []


def _document(config: PoolConfig, spec: MemberSpec, at: float) -> dict[str, Any]:
    """A member as JSON has it."""
    previous = spec.previous if spec.previous is not None and spec.previous.until > at else None
    return {
        "name": spec.name,
        "fingerprint": spec.key.removeprefix("sha256:")[:FINGERPRINT_DIGITS],
        "status": standing(spec, spec.key, at).value,
        "expires": moment(spec.expires_at),
        "revoked": moment(spec.revoked_at),
        "identities": list(spec.identities),
        "turns_at_once": spec.turns_at_once,
        "turns_a_day": spec.turns_a_day,
        "previous_until": moment(previous.until) if previous is not None else None,
        "where": f"{config.path}:{spec.line}",
    }


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.table import Table as Printed
    from rich.text import Text

    printed = Printed(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for title in COLUMNS:
        printed.add_column(title, overflow="fold", no_wrap=title in ("status", "fingerprint"))
    for row in rows:
        styles = {"status": STYLES[row["status"]]}
        printed.add_row(*(Text(_cell(row[key]), styles.get(key, "")) for key in COLUMNS.values()))
    console().print(printed)


def _cell(value: object) -> str:
    return "" if value is None else ", ".join(value) or "all" if isinstance(value, list) else str(value)
