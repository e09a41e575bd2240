"""`codexpool config check`: validate pool.toml."""

from __future__ import annotations

import json
from pathlib import Path

import click

from codexpool.cli.common import config_option, existing_pool_path, json_option, sources
from codexpool.config.model import ConfigError, Problem
from codexpool.config.read import load
from codexpool.config.sources import resolve
from codexpool.redaction import redact_tokens


@click.group()
def config() -> None:
    """Validate pool.toml."""


@config.command("check")
@config_option
@json_option
@click.pass_context
def check(context: click.Context, named: Path | None, as_json: bool) -> None:
    """Validate pool.toml as a proxy would: print its path, and its problems by line.

    Does not verify tokens: for that, use `codexpool check`. Exit code 1 if there are problems.
    """
    path = existing_pool_path(named)
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
        click.echo(f"{path}: {'invalid' if problems else 'valid'}, {len(names)} identities")
    context.exit(1 if problems else 0)


def _document(problem: Problem) -> dict[str, object]:
    return {
        "file": str(problem.file),
        "line": problem.line,
        "key": problem.key or None,
        "what": redact_tokens(problem.what),
        "remedy": problem.remedy,
    }
