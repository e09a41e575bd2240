"""`codexpool config`: where pool.toml is, whether it is valid, what may be in it, and editing it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from codexpool.cli.common import (
    NOTICED,
    Failure,
    Unchanged,
    can_ask,
    config_option,
    edit_pool,
    json_option,
    pool_path,
    pool_places,
    pool_to_edit,
    remark,
    require_writable,
    sources,
)
from codexpool.cli.entry import entry
from codexpool.cli.output import print_json
from codexpool.cli.processes import Signals
from codexpool.common.atomic_replace import keep_beside
from codexpool.config.editing import BOM, HEADER
from codexpool.config.model import ConfigError, Problem
from codexpool.config.read import load_or_empty, parse
from codexpool.config.sources import resolve
from codexpool.redaction import redact_tokens

EXAMPLE: Final = Path("config", "pool.example.toml")  # beside the addon


@click.group()
def config() -> None:
    """Find, check and edit pool.toml."""


@config.command("path")
@config_option
@json_option
def path(named: Path | None, as_json: bool) -> None:
    """Print the path of the pool.toml in use.

    If there is none yet, prints where commands would create it.
    """
    found = pool_places(named).find()
    at = found or pool_to_edit(named)
    if as_json:
        print_json({"path": str(at), "exists": found is not None})
        return
    click.echo(str(at))
    if found is None:
        remark("it does not exist yet. To create it: codexpool add NAME")


@config.command("example")
def example() -> None:
    """Print an example of pool.toml with all settings."""
    click.echo((entry().parent / EXAMPLE).read_text(encoding="utf-8"), nl=False)


@config.command("edit")
@config_option
def edit(named: Path | None) -> None:
    """Edit pool.toml in $VISUAL or $EDITOR.

    You edit a copy. It is saved when the editor ends, if it is valid. If not, this prints its problems by line, and
    offers to go on with the edit.
    """
    path = pool_to_edit(named)
    require_writable(path)
    before = _text(path)
    try:
        after = _edited(before, path)
    except OSError as error:
        raise Unchanged(f"the copy for the editor: {error.strerror or error}") from None
    if after == before:
        click.echo("nothing was changed")
        remark("if your editor returns at once, have it wait: EDITOR='code --wait'")
        return
    _save(path, before, after)
    click.echo(f"saved {path}. {NOTICED}")
    for problem in resolve(parse(after, path), sources()).problems:
        remark(str(problem))


def _text(path: Path) -> str:
    """Return the text of a pool.toml, or what it begins with if there is none. Raises Failure."""
    try:
        return path.read_bytes().decode().removeprefix(BOM)
    except FileNotFoundError:
        return HEADER
    except UnicodeError:
        raise Failure(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror}") from None


def _edited(before: str, path: Path) -> str:
    """Return a valid text that a person has made of another one. Raises Unchanged, OSError."""
    # A folder of its own: whatever editors write beside the copy, which contains tokens, goes with it.
    with Signals() as signals, tempfile.TemporaryDirectory(prefix="codexpool-") as folder:
        copy = Path(folder, "pool.toml")
        copy.touch(mode=0o600)
        copy.write_bytes(before.encode())
        while True:
            text = _saved(copy, signals)
            if not (problems := _problems(text, path)):
                return text
            for problem in problems:
                click.echo(redact_tokens(str(problem)), err=True)
            if not can_ask() or not click.confirm("It is invalid. Edit it again?", default=True, err=True):
                raise Unchanged("what the editor saved is invalid")


def _saved(copy: Path, signals: Signals) -> str:
    """Open the editor, and return what it saved. Raises Unchanged, OSError."""
    try:
        with signals.left_to_child():
            click.edit(filename=str(copy))
        return copy.read_bytes().decode().removeprefix(BOM)
    except click.ClickException as error:
        raise Unchanged(f"{error.message.rstrip('.')} (set EDITOR to the editor to use)") from None
    except UnicodeError:
        raise Unchanged("what the editor saved is not UTF-8 text") from None
    except ValueError as error:  # an open quote
        raise Unchanged(f"VISUAL or EDITOR is not a command line: {error}") from None


def _problems(text: str, path: Path) -> Sequence[Problem]:
    try:
        parse(text, path)
    except ConfigError as error:
        return error.problems
    return ()


class _ChangedMeanwhileError(Exception):
    """A proxy or another command has written to the file since it was read."""


def _save(path: Path, before: str, after: str) -> None:
    def change(text: str) -> str:
        if text != before:
            raise _ChangedMeanwhileError
        return after

    try:
        edit_pool(path, change)
        return
    except _ChangedMeanwhileError:
        reason = f"{path} was changed by a proxy or another command meanwhile, and is kept as it is"
    except Failure as failure:
        reason = failure.message
    try:
        kept = keep_beside(path.resolve(), after.encode(), "edited")
    except OSError as error:
        raise Failure(f"{reason}. Your text is lost, as it could not be written: {error.strerror}") from None
    raise Failure(
        f"{reason}. Your text is in {kept}: take from it what you need with `codexpool config edit`, then "
        "delete it (it may contain tokens)"
    )


@config.command("check")
@config_option
@json_option
@click.pass_context
def check(context: click.Context, named: Path | None, as_json: bool) -> None:
    """Validate pool.toml, and print its problems by line.

    Checks it as a proxy would. Does not verify tokens: for that, use `codexpool check`. Exit code 1 if there are
    problems.
    """
    path = pool_path(named)
    names: list[str] = []
    is_missing = False
    try:
        config = load_or_empty(path)
        is_missing = config.is_missing
        names = [spec.name for spec in config.identities]
        problems: tuple[Problem, ...] = resolve(config, sources()).problems
    except ConfigError as error:
        problems = error.problems
    if as_json:
        document = {"path": str(path), "exists": not is_missing, "holds": not problems, "identities": names}
        print_json({**document, "problems": [_problem_document(problem) for problem in problems]})
    else:
        for problem in problems:
            click.echo(redact_tokens(str(problem)), err=True)
        found = "invalid" if problems else "does not exist yet" if is_missing else "valid"
        click.echo(f"{path}: {found}, {len(names)} {'identity' if len(names) == 1 else 'identities'}")
    context.exit(1 if problems else 0)


def _problem_document(problem: Problem) -> dict[str, object]:
    return {
        "file": str(problem.file),
        "line": problem.line,
        "key": problem.key or None,
        "what": redact_tokens(problem.what),
        "remedy": problem.remedy,
    }
