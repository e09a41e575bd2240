"""`codexpool demo`: show, on this machine alone, that a session survives the death of its token."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from codexpool.cli.processes import InterruptedBySignal, Signals


@click.command()
@click.option(
    "--client",
    "wanted",
    type=click.Choice(("codex", "built-in")),
    help="The client to use. Default: the Codex CLI, if it is on the PATH or $CODEXPOOL_CODEX names it.",
)
def demo(wanted: str | None) -> None:
    """Show what happens when a token dies, step by step.

    The demo runs a real mitmdump with the addon, two made-up tokens, a stand-in for the backend and a client. All of
    it stays on loopback and in a temporary folder: your files are not touched, and no service is contacted. Each step
    is checked against what the stand-in received. The exit code is 0 if every check passed, else 1.
    """
    codex = None if wanted == "built-in" else _codex()
    if wanted == "codex" and codex is None:
        raise click.UsageError("no `codex` on the PATH; set CODEXPOOL_CODEX to it, or use --client built-in")
    # Imported here because `codexpool run` starts without them.
    from codexpool.cli.demo.clients import BuiltIn, Codex
    from codexpool.cli.demo.stage import Stage
    from codexpool.cli.demo.story import Story

    try:
        with Signals() as signals, Stage(signals) as stage:
            stage.start()
            Story(stage, BuiltIn(stage) if codex is None else Codex(stage, codex)).run()
    except InterruptedBySignal:
        click.echo("\nStopped. Nothing was left behind.", err=True)
        raise


def _codex() -> Path | None:
    """Return the Codex CLI, or None. Raises click.UsageError if CODEXPOOL_CODEX does not name a program."""
    named = os.environ.get("CODEXPOOL_CODEX")
    found = shutil.which(named or "codex")
    if named and found is None:
        raise click.UsageError(f"CODEXPOOL_CODEX: {named} is not a program; fix the path, or unset the variable")
    return Path(found).absolute() if found else None
