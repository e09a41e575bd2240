"""`codexpool pin` and `unpin`: have one session served by an identity chosen by hand."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import click

from codexpool.cli import completions
from codexpool.cli.common import Failure, Pool, open_the_state, pool_option, remark, transact
from codexpool.cli.identity_rows import identity_row
from codexpool.members.register import may_use
from codexpool.pool.identity import Status
from codexpool.state.notes import PINNED, pin_name, pinned_session
from codexpool.views.formatting import plain

SHOWN = 5  # Sessions that are named if several match.
WHOLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # An id of Codex, which may be of a session to come.


@click.command()
@click.argument("session", metavar="SESSION", shell_complete=completions.sessions)
@completions.identity_argument
@pool_option
def pin(session: str, name: str, pool: Pool) -> None:
    """Have SESSION and its sub-agents served by identity NAME only.

    SESSION is an id as `codexpool status` and Codex's /status show it, or its beginning. A running proxy follows
    within a second; a turn under way is finished first. While NAME cannot serve, the client is told why: no other
    identity takes over until `codexpool unpin`.

    A client that names an identity itself (codexpool env --identity) is served by that one all the same.
    """
    pool.identity(name)
    key = _found(session, [*_stored(session), *_pinned(pool)])
    owner, slash, _ = key.partition("/")
    member = pool.config.member(owner) if slash else None
    if member is not None and not may_use(member, name):
        raise Failure(f"{owner} may not use {name}: see its identities in {pool.path}:{member.line}")
    with open_the_state() as state:
        state.put_note(PINNED, pin_name(pool.scope, key), {"identity": name, "at": int(time.time())})
    click.echo(f"session {plain(key)} is pinned to {name}. To undo: codexpool unpin {plain(key)}")
    status = identity_row(pool, name).status
    if status not in (Status.READY, Status.UNVERIFIED):
        remark(f"{name} cannot serve it now: it is {status}. See: codexpool show {name}")


@click.command()
@click.argument("session", metavar="SESSION", shell_complete=completions.sessions)
@pool_option
def unpin(session: str, pool: Pool) -> None:
    """Let other identities serve SESSION again. It stays with its identity while that can serve it."""
    pins = _pinned(pool)
    if not pins:
        raise Failure("no session is pinned")
    key = _found(session, pins, what="pinned session")
    if key not in pins:
        click.echo(f"session {plain(key)} is not pinned")
        return
    with open_the_state() as state:
        state.put_note(PINNED, pin_name(pool.scope, key), {})
    click.echo(f"session {plain(key)} is no longer pinned")


def _stored(text: str) -> list[str]:
    """Return the sessions in the state that begin with a text. Raises Failure."""
    from codexpool.state.finding import sessions_named  # It imports SQLAlchemy.

    return transact(lambda connection: sessions_named(connection, text))


def _pinned(pool: Pool) -> list[str]:
    notes = ((name, note) for (kind, name), note in pool.certain.notes.items() if kind == PINNED and note)
    return [session for name, _ in notes if (session := pinned_session(pool.scope, name))]


def _found(text: str, sessions: Iterable[str], what: str = "session") -> str:
    """Return the session that a person means. Raises click.UsageError, Failure."""
    keys = list(dict.fromkeys(sessions))
    found = [key for key in keys if text in (key, _id_of(key))]
    found = found or [key for key in keys if text and _id_of(key).startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        named = ", ".join(map(plain, found[:SHOWN]))
        raise Failure(f"several {what}s begin with {plain(text)}: {named}{', …' if len(found) > SHOWN else ''}")
    if WHOLE.fullmatch(text):
        return text
    raise click.UsageError(f'no {what} begins with "{plain(text)}". To see the latest ones: codexpool status')


def _id_of(key: str) -> str:
    """Return the id that the client has given a session; the pool also names the member it belongs to."""
    return key.partition("/")[2] or key
