"""`codexpool pause` and `resume`."""

from __future__ import annotations

import json
import time

import click

from codexpool.cli.common import Pool, open_the_state, pool_option
from codexpool.cli.completions import identities_argument
from codexpool.cli.identity_rows import IdentityRow, identity_row
from codexpool.config.tables import with_key, without_key
from codexpool.pool.exclusions import subjects
from codexpool.pool.identity import Status
from codexpool.pool.states import RETURNING
from codexpool.pool.usage import MAIN
from codexpool.state.notes import NOT_FOR, RESUMED, USAGE
from codexpool.views.formatting import local_time
from codexpool.views.limits import limited


@click.command()
@identities_argument
@pool_option
def pause(names: tuple[str, ...], pool: Pool) -> None:
    """Stop using identities until they are resumed. Other identities serve their sessions."""
    to_pause = [name for name in names if not pool.identity(name).paused]

    def change(text: str) -> str:
        for name in to_pause:
            text = with_key(text, name, "paused", True)
        return text

    if to_pause:
        pool.edit(change)
    for name in names:
        click.echo(f"{name} is paused" if name in to_pause else f"{name} is already paused")


@click.command()
@identities_argument
@pool_option
def resume(names: tuple[str, ...], pool: Pool) -> None:
    """Use identities again, although they are paused, limited, or excluded from a model or endpoint.

    Without this, proxies wait until the time the backend gave, or until it says that a limit was lifted. Use it when
    you know better: the workspace was paid for, or the account got access to the model.

    If an identity is paused and limited, the first resume ends the pause, and another one the limit.
    """
    paused = [name for name in names if pool.identity(name).paused]

    def change(text: str) -> str:
        for name in paused:
            text = without_key(text, name, "paused")
        return text

    if len(paused) < len(names):
        _ = pool.certain  # Raises Failure if the state cannot be read: what is to be ended is there.
    others = [identity_row(pool, name) for name in names if name not in paused]
    held_back = [row for row in others if row.fingerprint and _is_held_back(row)]
    if held_back:
        _end_limits(pool, held_back)
    if paused:
        pool.edit(change)
    now, after = time.time(), Pool(pool.path)
    ended = {row.spec.name: _limited_until(row, now) for row in held_back}
    for name in names:
        row = identity_row(after, name)
        if name in paused:
            still = _still(row, now)
            what = f"{name} is no longer paused, but {still}" if still else f"{name} is resumed"
        elif name in ended:
            what = f"{name} is resumed"
            if (until := ended[name]) is not None:
                what += f". The backend said that it was limited until {local_time(until)}, and may refuse it again"
        else:
            what = f"{name} is neither paused nor limited: its status is {row.status}"
        click.echo(what)


def _is_held_back(row: IdentityRow) -> bool:
    return bool(row.status in (*RETURNING, Status.PAUSED) or row.usage.limited or row.not_for)


def _end_limits(pool: Pool, rows: list[IdentityRow]) -> None:
    """Have proxies take these identities for able to serve, whatever was met before now."""
    stored = pool.certain.notes
    with open_the_state() as state:
        for row in rows:
            state.drop_condition(row.fingerprint)
            state.put_note(RESUMED, row.fingerprint, {"at": time.time()})
            key = json.dumps(row.metadata.key) if row.metadata is not None else ""
            if note := stored.get((USAGE, key)):
                state.put_note(USAGE, key, {**note, "limited": {}})
            for subject in subjects(row.fingerprint, row.metadata):
                if (NOT_FOR, subject) in stored:
                    state.put_note(NOT_FOR, subject, {})


def _limited_until(row: IdentityRow, now: float) -> float | None:
    """Return until when the account is limited, whatever its status says; None if it is not."""
    return row.condition.until if row.status is Status.LIMITED else limited(row.usage, now).get(MAIN)


def _still(row: IdentityRow, now: float) -> str:
    """Return what keeps an identity from serving that is not paused any more; empty if nothing does."""
    name = row.spec.name
    if (until := _limited_until(row, now)) is not None:
        return f"its limit goes on until {local_time(until)}. To end that, too: codexpool resume {name}"
    if row.status in (Status.READY, Status.UNVERIFIED):
        return "; ".join(row.not_for)
    when = f" until {local_time(row.condition.until)}" if row.condition.until is not None else ""
    return f"is {row.status}{when}. See: codexpool show {name}"
