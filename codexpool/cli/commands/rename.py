"""`codexpool rename`: give an identity another name; all that goes by its name follows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import click

from codexpool.cli.common import (
    NOTICED,
    Failure,
    Pool,
    Unchanged,
    open_the_state,
    pool_option,
    remark,
    require_new_name,
    require_writable,
)
from codexpool.cli.completions import identity_argument
from codexpool.common.private_files import UnusableError
from codexpool.config.model import FromKeyring, IdentitySpec, Table
from codexpool.config.sources import in_keyring, write_keyring
from codexpool.config.tables import with_key
from codexpool.members.register import may_use
from codexpool.state import Note, Record, record_name
from codexpool.state.notes import PINNED, pinned_session


@click.command()
@identity_argument
@click.argument("new", metavar="NEW")
@pool_option
def rename(name: str, new: str, pool: Pool) -> None:
    """Rename identity NAME to NEW. Its sessions, pins, limits and flag stay, also in running proxies.

    Members that may use it by name still may. Past usage stays under the old name.
    """
    spec = pool.identity(name)
    require_new_name(new, [other for other in pool.config.identities if other is not spec], Table.IDENTITY)
    if pool.config.identity(new) is not None:
        raise Failure(f"identity {new} already exists" if new != name else f"{name} is its name already")
    require_writable(pool.path)
    pins, record = _pins(pool, name), pool.certain.records.get(record_name(pool.scope, name))
    with _keyring_entry_moved(spec, new):
        pool.edit(lambda text: _renamed(text, pool, name, new))
    _follow_in_state(pool, name, new, pins, record)
    click.echo(f"{name} is called {new} now, in {pool.path}. {NOTICED}")
    for note in _remarks(pool, name, new):
        remark(note)


def _renamed(text: str, pool: Pool, name: str, new: str) -> str:
    text = with_key(text, name, "name", new)
    for member in pool.config.members:
        if name in member.identities:
            patterns = [new if pattern == name else pattern for pattern in member.identities]
            text = with_key(text, member.name, "identities", patterns, of=Table.MEMBER)
    return text


def _pins(pool: Pool, name: str) -> dict[str, Note]:
    """Return the notes about the pins to an identity. Raises Failure: before anything is changed."""
    return {
        key: note
        for (kind, key), note in pool.certain.notes.items()
        if kind == PINNED and pinned_session(pool.scope, key) and note.get("identity") == name
    }


def _follow_in_state(pool: Pool, name: str, new: str, pins: Mapping[str, Note], record: Record | None) -> None:
    try:
        with open_the_state() as state:
            for key, note in pins.items():
                state.put_note(PINNED, key, {**note, "identity": new, "was": name})
            if record is not None:
                state.put_record(record_name(pool.scope, new), record)
            state.drop_record(record_name(pool.scope, name))
    except Failure as failure:
        lacking = f", but {len(pins)} of its pins still have the old one: pin them again" if pins else ""
        raise Failure(f"{failure.message}. pool.toml has the new name{lacking}") from None


@contextlib.contextmanager
def _keyring_entry_moved(spec: IdentitySpec, new: str) -> Iterator[None]:
    """Have the keyring's entry, which goes by the name, under the new one. Raises Unchanged."""
    if not isinstance(spec.source, FromKeyring):
        yield
        return
    service = spec.source.service
    try:
        token, other = in_keyring(service, spec.name), in_keyring(service, new)
        if other not in (None, token):
            raise Unchanged(f"the keyring has another entry for service {service} and user {new}: delete that first")
        if token is not None:
            write_keyring(service, new, token)
    except UnusableError as error:
        raise Unchanged(f"{error.what}; {error.remedy}") from None
    try:
        yield
    except BaseException:
        if token is not None and other is None:
            with contextlib.suppress(UnusableError):
                write_keyring(service, new, None)
        raise
    with contextlib.suppress(UnusableError):  # The new one counts.
        write_keyring(service, spec.name, None)


def _remarks(pool: Pool, name: str, new: str) -> Iterator[str]:
    """Yield what a person has to know, or to do, after a rename."""
    before, after = pool.config.members, Pool(pool.path).config.members
    for member in before:
        now = next((one for one in after if one.name == member.name), member)
        could, can = may_use(member, name), may_use(now, new)
        if could != can:
            yield f"member {member.name} {'may use it now' if can else 'may not use it any more'}: see its identities"
    if pool.scope != str(pool.path):
        yield "rename it in the pool.toml of the other machines, too"
    yield f"terminals with codexpool env --identity {name} need the new name"
