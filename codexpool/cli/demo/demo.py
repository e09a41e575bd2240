"""`codexpool demo`: a session survives the death of its token, on this machine alone."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import click

from codexpool.cli.processes import InterruptedBySignal, Signals

CLIENTS = ("codex", "built-in")


@click.command()
@click.option(
    "--client",
    "wanted",
    type=click.Choice(CLIENTS),
    help="Who talks to the proxy. By default the Codex CLI, if `codex` is on the PATH or CODEXPOOL_CODEX names it.",
)
def demo(wanted: str | None) -> None:
    """Show what happens when a token dies, step by step.

    Two made-up tokens, a stand-in for the backend, a real mitmdump with the addon, and a client: all on loopback, in
    a temporary folder. Nothing of yours is read or changed, and no service is asked. Every step is checked against
    what the stand-in received; the exit code is 0 if all of it held, else 1.
    """
    codex = None if wanted == "built-in" else _codex()
    if wanted == "codex" and codex is None:
        raise click.UsageError(
            "there is no `codex` on the PATH; let CODEXPOOL_CODEX name it, or take the built-in one"
        )
    try:
        with Signals() as signals:
            sys.exit(_play(signals, codex))
    except InterruptedBySignal as interrupted:
        click.echo("\nStopped. Nothing is left behind.", err=True)
        sys.exit(128 + interrupted.number)


def _play(signals: Signals, codex: Path | None) -> int:
    # Only the demo needs a certificate authority, an HTTP client and tables: `codexpool run` starts without them.
    from codexpool.cli.demo.clients import BuiltIn, Codex
    from codexpool.cli.demo.screen import Screen
    from codexpool.cli.demo.stage import Stage, StageError
    from codexpool.cli.demo.story import Story

    began = time.monotonic()
    screen = Screen()
    try:
        with Stage(signals) as stage:
            screen.hide(stage.tokens)
            stage.start()
            story = Story(stage, BuiltIn(stage) if codex is None else Codex(stage, codex), screen)
            story.tell()
    except StageError as error:
        screen.fail(str(error))
        return 1
    return screen.verdict(time.monotonic() - began)


def _codex() -> Path | None:
    """The real client, if there is one. Raises click.UsageError if CODEXPOOL_CODEX names none."""
    named = os.environ.get("CODEXPOOL_CODEX")
    found = shutil.which(named or "codex")
    if named and found is None:
        raise click.UsageError(f"CODEXPOOL_CODEX: {named} is no program; correct it, or unset it")
    return Path(found).absolute() if found else None
