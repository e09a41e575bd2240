"""`codexpool config check`: whether a pool.toml holds, and which one that is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from codexpool.cli.common import Failure, config_option, json_option, pool_path, sources
from codexpool.cli.entry import entry
from codexpool.config import ConfigError, Problem, load, places, resolve
from codexpool.redaction import redact_tokens


@click.group()
def config() -> None:
    """Look at pool.toml."""


@config.command("check")
@config_option
@json_option
@click.pass_context
def check(context: click.Context, named: Path | None, as_json: bool) -> None:
    """Read pool.toml as a proxy would: where it was found, and whatever is wrong with it, by line.

    Nobody is asked about a token: that is `codexpool check`. The exit code is 1 if anything is wrong.
    """
    path = pool_path(named)
    if path is None:
        looked_at = "\n  ".join(places(entry())[1:])
        raise Failure(f"no pool.toml was found. Looked at:\n  {looked_at}")
    names: list[str] = []
    try:
        config = load(path)
        names = [spec.name for spec in config.identities]
        problems: tuple[Problem, ...] = resolve(config, sources()).problems
    except ConfigError as error:
        problems = error.problems
    if as_json:
        document = {"path": str(path), "holds": not problems, "identities": names}
        click.echo(json.dumps({**document, "problems": [_document(problem) for problem in problems]}, indent=2))
    else:
        for problem in problems:
            click.echo(redact_tokens(str(problem)), err=True)
        click.echo(f"{path}: {'holds' if not problems else 'does not hold as it is'}, {len(names)} identities")
    context.exit(1 if problems else 0)


def _document(problem: Problem) -> dict[str, object]:
    return {
        "file": str(problem.file),
        "line": problem.line,
        "key": problem.key or None,
        "what": redact_tokens(problem.what),
        "remedy": problem.remedy,
    }
