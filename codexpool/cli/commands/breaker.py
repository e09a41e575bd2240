"""`codexpool breaker`: whether proxies have stopped to move sessions, and an end to that."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from codexpool.cli.common import config_option, json_option, known, moment, pool_config, the_state
from codexpool.pool.breaker import Breaker, Opening
from codexpool.upkeep.persistence import BREAKER


@click.command()
@click.option("--close", is_flag=True, help="Have proxies move sessions again, now.")
@json_option
@config_option
def breaker(close: bool, as_json: bool, named: Path | None) -> None:
    """Whether proxies have stopped to move sessions to other identities.

    They do so for a while when several identities are refused for good within a minute ([pool] breaker in pool.toml
    says how many): something is wrong then that more tries would make worse. Sessions whose identity serves go on.
    After a pause one request finds out whether it is over. Exit code 1 while it is open.
    """
    config = pool_config(named)
    now = Breaker()
    if close:
        with the_state() as state:
            state.put_note(BREAKER, str(config.path), now.document())
    else:
        now.take(known().notes.get((BREAKER, str(config.path)), {}))
    state_now = now.state(time.time())
    if as_json:
        document = {"state": str(state_now), "since": moment(now.opened_at), "names": list(now.names)}
        click.echo(json.dumps({**document, "until": moment(now.until) if now.opened_at is not None else None}))
    elif state_now is Opening.CLOSED:
        click.echo("the breaker is closed: sessions are moved as need be")
    else:
        click.echo(
            f"the breaker is {state_now}, since {moment(now.opened_at)}: refused for good: {', '.join(now.names)}"
        )
        until = f"until {moment(now.until)}" if state_now is Opening.OPEN else "until one request was served"
        click.echo(f"sessions are not moved {until}. To end it now: codexpool breaker --close")
    if state_now is Opening.OPEN:
        raise SystemExit(1)
