"""`codexpool breaker`: show or close the circuit breaker."""

from __future__ import annotations

import json
import time

import click

from codexpool.cli.common import json_option, moment, open_the_state
from codexpool.cli.pool import Pool, pool_option
from codexpool.pool.breaker import Breaker, Opening
from codexpool.upkeep.persistence import BREAKER


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
            state.put_note(BREAKER, str(pool.path), breaker.document())
    else:
        breaker.take(pool.known.notes.get((BREAKER, str(pool.path)), {}))
    opening = breaker.state(time.time())
    if as_json:
        until = moment(breaker.until) if breaker.opened_at is not None else None
        since = moment(breaker.opened_at)
        click.echo(json.dumps({"state": str(opening), "since": since, "names": list(breaker.names), "until": until}))
    elif opening is Opening.CLOSED:
        click.echo("the breaker is closed: proxies move sessions as needed")
    else:
        until = f"until {moment(breaker.until)}" if opening is Opening.OPEN else "until one request succeeds"
        names = ", ".join(breaker.names)
        click.echo(f"the breaker is {opening} since {moment(breaker.opened_at)}: refused for good: {names}")
        click.echo(f"sessions are not moved {until}. To close it now: codexpool breaker --close")
    if opening is Opening.OPEN:
        raise SystemExit(1)
