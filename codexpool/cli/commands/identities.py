"""`codexpool list`, `show` and `breaker`."""

from __future__ import annotations

import time

import click

from codexpool.cli.common import (
    Pool,
    ids_option,
    json_option,
    moment,
    open_the_state,
    pool_option,
)
from codexpool.cli.completions import identity_argument
from codexpool.cli.identity_rows import described_credits, described_limit, identity_row, identity_rows, print_rows
from codexpool.cli.output import STATUS_STYLES, print_facts, print_json
from codexpool.pool.breaker import Breaker, Opening
from codexpool.pool.needs import expiry
from codexpool.state.notes import BREAKER
from codexpool.views.formatting import local_time


@click.command("list")
@ids_option
@pool_option
@json_option
def list_(pool: Pool, with_ids: bool, as_json: bool) -> None:
    """List the identities of the pool and their status.

    Reads pool.toml and what proxies have found out; `codexpool check` asks the backend.
    """
    rows = identity_rows(pool)
    if as_json:
        print_json({"identities": [row.document() for row in rows]})
    else:
        pool.say_if_empty()
        print_rows(rows, with_ids)


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
        "where": row.where,
    }
    if as_json:
        print_json(document)
        return
    facts = {title.replace("_", " "): value for title, value in document.items()}
    for title in ("since", "until", "last used", "expires"):
        facts[title] = local_time(facts[title])
    facts["limits"] = [described_limit(limit) for limit in document["limits"]]
    facts["limited"] = [f"{family} until {local_time(until)}" for family, until in document["limited"].items()]
    credits = document["reset_credits"]
    facts["reset credits"] = described_credits(credits) or ("none" if credits else None)
    facts["reminder"] = expiry(row.spec.expires_at, time.time())
    print_facts(facts, {"status": STATUS_STYLES[row.status], "needs": "bold red", "reminder": "yellow"})


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
        until = f"until {local_time(breaker.until)}" if opening is Opening.OPEN else "until one request succeeds"
        names = ", ".join(breaker.names)
        click.echo(f"the breaker is {opening} since {local_time(breaker.opened_at)}: refused for good: {names}")
        click.echo(f"sessions are not moved {until}. To close it now: codexpool breaker --close")
    if opening is Opening.OPEN:
        raise SystemExit(1)
