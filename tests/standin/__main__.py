"""The stand-in as a process of its own, so that a benchmark does not share an interpreter with it.

``python -m tests.standin --tokens FILE.json`` prints one line of JSON (``port``, ``proxy_port``, ``ca_file``,
``pid``) and runs until its standard input ends or it is sent SIGTERM. Each line it reads is a command, answered by
one line: ``{"kill": TOKEN}``, ``{"revive": TOKEN}`` or ``{"summary": true}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import click

from tests.standin.standin import StandIn
from tests.standin.tokens import Token


@click.command(help="A strict stand-in for the Codex backend, on loopback, until standard input ends.")
@click.option(
    "--tokens",
    "tokens_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help='JSON: {"tokens": [{"token": "at-…", "account_id": "…", "user_id": "…"}], "clients": […]}.',
)
@click.option("--port", default=0, help="Of the TLS listener; 0 takes a free one.")
@click.option("--proxy-port", default=0, help="Of the CONNECT proxy; 0 takes a free one.")
@click.option("--h2", is_flag=True, help="Speak HTTP/2 where the client can.")
@click.option("--websockets/--no-websockets", default=True, help="Serve upgrades, or answer them 426.")
@click.option("--deltas", default=3, help="Pieces of a model's answer.")
@click.option("--pace", default=0.0, help="Seconds between two events.")
@click.option("--record/--no-record", default=True, help="Keep every request until the end.")
def main(
    tokens_file: Path,
    port: int,
    proxy_port: int,
    h2: bool,
    websockets: bool,
    deltas: int,
    pace: float,
    record: bool,
) -> None:
    signal.signal(signal.SIGTERM, _terminate)
    known = json.loads(tokens_file.read_text())
    with (
        tempfile.TemporaryDirectory(prefix="codexpool-standin-") as folder,
        StandIn(
            [Token(**token) for token in known["tokens"]],
            clients=[Token(**token) for token in known.get("clients", [])],
            folder=Path(folder),
            port=port,
            proxy_port=proxy_port,
            alpn=("h2", "http/1.1") if h2 else ("http/1.1",),
            websockets=websockets,
            deltas=deltas,
            pace=pace,
        ) as standin,
    ):
        standin.record = record
        ports = {"port": standin.port, "proxy_port": standin.proxy_port}
        _say({**ports, "ca_file": str(standin.ca_file), "pid": os.getpid()})
        for line in sys.stdin:
            _say(_obey(standin, line))


def _obey(standin: StandIn, line: str) -> dict[str, Any]:
    try:
        match json.loads(line):
            case {"kill": str(token)}:
                standin.kill(token)
            case {"revive": str(token)}:
                standin.revive(token)
            case {"summary": True}:
                return _summary(standin)
            case _:
                return {"error": "one of kill, revive, summary is expected"}
    except (ValueError, KeyError) as error:
        return {"error": str(error)}
    return {"done": True}


def _summary(standin: StandIn) -> dict[str, Any]:
    return {
        "requests": len(standin.seen),
        "refusals": standin.refusals,
        "leaks": [f"{seen.method} {seen.host}{seen.path}" for seen in standin.leaks],
        "troubles": standin.troubles,
        "refreshes": standin.refreshes,
    }


def _say(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document))
    sys.stdout.flush()


def _terminate(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
