"""`codexpool state`: what the state is, and `state copy`, which moves it to PostgreSQL."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from codexpool.cli.common import Failure, Pool, json_option, pool_option, remark, state_location, transact
from codexpool.cli.output import Output, console, print_facts, print_json
from codexpool.cli.processes import InterruptedBySignal, Signals
from codexpool.common.private_files import UnusableError
from codexpool.state import StateError
from codexpool.state.fleet import Proxy
from codexpool.state.location import VARIABLE, Location, Postgres, SqliteFile, named_location
from codexpool.state.opening import open_state
from codexpool.tokens.state_keys import StateKeys, new_key, state_keys
from codexpool.views.formatting import counted, plain, size, span

if TYPE_CHECKING:
    from codexpool.state.copying import Copied
    from codexpool.state.facts import Facts

ENGINES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
TOLERATED: Final = 1.0  # seconds between two clocks that are not worth a line


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def state(context: click.Context, as_json: bool) -> None:
    """Show where the state is, how large it is, and which proxies use it.

    The state is what proxies and commands remember and share: sessions, limits, usage. It is a SQLite file, or the
    PostgreSQL database that CODEXPOOL_STATE=postgresql://USER@HOST/DATABASE names; its password comes from PGPASSFILE
    (~/.pgpass), PGPASSWORD, or the URL.
    """
    if context.invoked_subcommand is not None:
        return
    at = state_location()
    facts = _facts(at)
    if as_json:
        print_json(_document(at, facts))
    elif facts is None:
        remark(f"{at} does not exist yet: the first proxy or command that writes creates it")
    else:
        print_facts(_described(at, facts))


def _facts(at: Location) -> Facts | None:
    """Return what there is to say of the state; None if it is a file that does not exist. Raises Failure."""
    if isinstance(at, SqliteFile) and not at.path.exists():
        return None
    from codexpool.state import facts

    return transact(facts.facts)


def _document(at: Location, facts: Facts | None) -> dict[str, Any]:
    about = {"engine": at.engine, "where": str(at), "exists": facts is not None}
    if facts is None:
        return about
    return {
        **about,
        "schema": facts.schema,
        "bytes": facts.size,
        "rows": facts.rows,
        "clock_ahead": round(facts.ahead, 3),
        "keys": {f"sha256:{key_id}": number for key_id, number in facts.keys.items()},
        "proxies": [_proxy(proxy) for proxy in facts.proxies],
    }


def _proxy(proxy: Proxy) -> dict[str, Any]:
    return {
        "host": plain(proxy.host),
        "version": plain(proxy.version),
        "pid": proxy.pid,
        "up_seconds": round(proxy.up),
        "silent_seconds": round(proxy.silent, 1),
        "alive": proxy.is_alive,
        "sessions": proxy.sessions,
    }


def _described(at: Location, facts: Facts) -> dict[str, str | list[str]]:
    described: dict[str, str | list[str]] = {
        "state": str(at),
        "engine": f"{ENGINES[at.engine]}, schema {facts.schema}, {size(facts.size)}",
        "rows": _counted(facts.rows) or "none",
    }
    if facts.keys:
        described["logins"] = _keys(facts.keys)
    if abs(facts.ahead) > TOLERATED:
        relation = "ahead of" if facts.ahead > 0 else "behind"
        described["clock"] = f"{span(abs(facts.ahead))} {relation} this machine's; times are converted"
    return {**described, "proxies": _proxies(facts.proxies)}


def _keys(used: Mapping[str, int]) -> str:
    """Say with which keys logins are encrypted, and whether this shell has them."""
    keys, missing = StateKeys(), "not set here"
    try:
        keys = state_keys(os.environ)
    except UnusableError as error:
        missing = error.what

    def described(key_id: str) -> str:
        present = "set here" if key_id in keys.keys else missing
        where = "the first key here" if key_id == keys.first else present
        return f"{used[key_id]} encrypted with sha256:{key_id} ({where})"

    return ", ".join(map(described, used))


def _proxies(proxies: Sequence[Proxy]) -> list[str]:
    lines = [f"{sum(proxy.is_alive for proxy in proxies)} connected"]
    for proxy in proxies:
        sessions = counted(proxy.sessions, "session")
        facts = f"codexpool {proxy.version}, process {proxy.pid}, up {span(proxy.up)}, {sessions}"
        silent = "" if proxy.is_alive else f", no heartbeat for {span(proxy.silent)}"
        lines.append(f"{proxy.host} {facts}{silent}")
    return lines


@state.command("copy")
@click.option(
    "--to",
    "url",
    required=True,
    metavar="URL",
    help="The database: postgresql://USER@HOST/DATABASE. Better without a password, which others on this machine "
    "could see: it is also read from PGPASSFILE (~/.pgpass) and PGPASSWORD.",
)
@pool_option
def copy(url: str, pool: Pool) -> None:
    """Copy the state from its SQLite file to an empty PostgreSQL database.

    End the proxies that use the file first. The file is not changed, and nothing is overwritten: a database that has
    something in it is refused. If the copy fails or is interrupted, the database stays empty.

    The database holds one pool: what the file has of other pool.toml files is left out.
    """
    source, target = state_location(), _target(url)
    if not isinstance(source, SqliteFile):
        raise click.UsageError(f"the state is in {source} already; to copy a file, set {VARIABLE} to its path")
    if not source.path.exists():
        raise Failure(f"{source} does not exist: there is nothing to copy. Set {VARIABLE} to that URL")
    with Signals(), _progress() as progress:
        copied = _copy(source, target, pool, progress)
    click.echo(f"copied to {target}: {_counted(copied.rows) or 'it was empty'}")
    if copied.of_other_pools:
        click.echo(f"left out: {copied.of_other_pools:,} rows of other pools than {pool.path}")
    if copied.unstorable:
        click.echo(f"left out: {copied.unstorable:,} rows with a NUL character, which PostgreSQL cannot store")
    if logins := copied.rows["logins"]:
        what = "a login is" if logins == 1 else f"{logins:,} logins are"
        click.echo(
            f"{what} in both now. Start no proxy with the file again: the first one to renew it ends the other's"
        )
    click.echo(f"{source} is unchanged. To use the database, set {VARIABLE} to that URL for proxies and commands")


def _target(url: str) -> Postgres:
    try:
        target = named_location({VARIABLE: url})
    except StateError:
        target = None
    if not isinstance(target, Postgres):
        raise click.UsageError("--to: not the URL of a PostgreSQL database: postgresql://USER@HOST/DATABASE")
    return target


@state.command("key")
def key() -> None:
    """Make a key that encrypts logins in the state.

    Prints the key, and nothing else. Set it on every machine, as CODEXPOOL_STATE_KEY, or in a private file that
    CODEXPOOL_STATE_KEY_FILE names.

    Several keys are separated by commas (or lines): the first one encrypts, the others only decrypt. To replace a
    key, set OLD,NEW on all machines, then NEW,OLD, and then NEW. Proxies encrypt the logins again in between.
    """
    Output().line(new_key())


def _copy(source: SqliteFile, target: Postgres, pool: Pool, progress: Progress) -> Copied:
    """Copy everything in one transaction. Raises Failure, with nothing copied."""
    from codexpool.state import copying

    tasks = {name: progress.add_task(name, total=None) for name in copying.NAMES}

    def show(table: str, done: int, total: int) -> None:
        progress.update(tasks[table], completed=done, total=total)

    before = None
    try:
        with contextlib.closing(open_state(source)) as opened:  # A file of an older version is updated.
            before = opened.scope(pool.path)
        with contextlib.closing(open_state(target)) as opened:
            return copying.copy_file(source.path, opened, (before, opened.scope(pool.path)), show)
    except StateError as error:
        said = str(error) if before is None else str(error).replace(VARIABLE, "--to")  # Which names the file.
        raise Failure(f"nothing was copied to {target}: {said}") from None
    except InterruptedBySignal:
        remark(f"interrupted: nothing was copied to {target}")
        raise


def _progress() -> Progress:
    """Return a display of tables and rows on standard error; it shows nothing unless that is a terminal."""
    terminal = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def _counted(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in rows.items() if count)
