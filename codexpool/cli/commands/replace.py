"""`codexpool replace`: replace an identity's token with another one of the same account and user."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import click

from codexpool.cli.common import Failure, Unchanged, name_argument, sources, verification
from codexpool.cli.identity_rows import identity_of, identity_row
from codexpool.cli.pool import Pool, pool_option
from codexpool.cli.token_options import GivenToken, given_token, token_options
from codexpool.cli.tokens import Verified, checked, remember_new, verify
from codexpool.common.atomic_replace import Replacement, locked
from codexpool.common.private_files import OPEN_TO_OTHERS, UnusableError
from codexpool.config.model import (
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    IdentitySpec,
    Inline,
    Table,
)
from codexpool.config.sources import credential_of, write_keyring
from codexpool.config.tables import with_key, with_table, without_key
from codexpool.pool.identity import IdentityKey

LOCK_TIMEOUT = 40.0  # seconds to wait for a process that renews the same login, or writes the same file
SOURCES = ("token", "auth_json")  # the keys of which an identity has one
OUTDATED = ("needs_replacement", "expires")  # keys about the old token


@click.command()
@name_argument
@token_options
@pool_option
@click.option("--as-new", is_flag=True, help="Keep NAME, and add the token as another identity.")
def replace(name: str, pool: Pool, as_new: bool, **options: Any) -> None:
    """Replace NAME's token with another one of the same account and user.

    Prompts for the token unless an option names its source, and stores it where the old one is. NAME keeps its
    sessions and its history.
    """
    spec = pool.identity(name)
    new_name = _free_name(pool, name) if as_new else name
    given = given_token(new_name, pool.path.parent, **options)
    verified = verify(changed(spec, name=new_name, source=given.source, account_id=None, user_id=None))
    if as_new:
        _add(pool, new_name, given, verified)
        click.echo(f"added {new_name} to {pool.path}; {name} is unchanged")
        return
    _require_same_owner(pool, spec, verified)
    _store(pool, spec, given)
    remember_new(pool.path, name, verified)
    click.echo(f"{name} has a new token: {verified.credential.bearer()}, of the same account and user")


def replace_login(pool: Pool, spec: IdentitySpec, new: Path) -> None:
    """Replace an identity's auth.json with a new one of the same account and user. Raises Failure."""
    assert isinstance(spec.source, FromAuthJson)
    verified = verify(changed(spec, source=FromAuthJson(new), account_id=None, user_id=None))
    _require_same_owner(pool, spec, verified)
    _write(spec.source.path, new.read_text(encoding="utf-8"))
    _edit(pool, lambda text: _without(text, spec.name, OUTDATED))
    remember_new(pool.path, spec.name, verified)
    click.echo(f"{spec.name} is logged in again: {verified.credential.bearer()}, of the same account and user")


def _free_name(pool: Pool, name: str) -> str:
    return next(free for n in range(2, 1000) if pool.config.identity(free := f"{name}-{n}") is None)


def _add(pool: Pool, name: str, given: GivenToken, verified: Verified) -> None:
    if (other := identity_of(pool, verified.metadata.key)) is not None:
        raise Unchanged(f"this token has the same account and user as {other.name}")
    _edit(pool, lambda text: with_table(text, {"name": name, **given.keys, **verified.owner}, Table.IDENTITY))
    remember_new(pool.path, name, verified)


def _require_same_owner(pool: Pool, spec: IdentitySpec, verified: Verified) -> None:
    old = identity_row(pool, spec.name).owner or _ask_owner(spec)
    new = verified.metadata.key
    as_new = f"To add it as another identity: codexpool replace {spec.name} --as-new"
    if old is None:
        raise Failure(
            f"cannot compare: the owner of {spec.name}'s old token is unknown. Nothing was changed. {as_new}"
        )
    if old != new:
        raise Failure(
            f"the new token belongs to another account or user. Nothing was changed\n"
            f"  {spec.name}: account {old.account_id}, user {old.user_id}\n"
            f"  new token: account {new.account_id}, user {new.user_id}\n"
            f"{as_new}"
        )


def _ask_owner(spec: IdentitySpec) -> IdentityKey | None:
    """Ask the backend for the owner of the old token, which may still be valid."""
    try:
        credential = credential_of(spec, sources())
    except UnusableError:
        return None
    metadata = asyncio.run(checked(spec, credential, verification())).metadata
    return metadata.key if metadata is not None else None


def _store(pool: Pool, spec: IdentitySpec, given: GivenToken) -> None:
    """Write the new token to where the old one is, or its new source to pool.toml."""
    if not isinstance(given.source, Inline) or isinstance(spec.source, Inline):
        ((key, value),) = given.keys.items()
        others = [other for other in SOURCES if other != key]

        def change(text: str) -> str:
            text = with_key(_without(text, spec.name, others), spec.name, key, value)
            return _without(text, spec.name, OUTDATED)

        _edit(pool, change)
        return
    match spec.source:
        case FromFile(path):
            _write(path, f"{given.source.token}\n")
        case FromKeyring(service):
            try:
                write_keyring(service, spec.name, given.source.token)
            except UnusableError as error:
                raise Unchanged(f"{error.what}; {error.remedy}") from None
        case FromEnv(variable):
            raise Unchanged(
                f"{spec.name}'s token is in the environment variable {variable}: set it where the proxy is started, "
                "and restart the proxy. Or move the token: --file, --keyring"
            )
        case FromAuthJson(path):
            raise Unchanged(f"{spec.name} is a login ({path}). Log in again: codexpool login {spec.name}")
        case FromCommand():
            raise Unchanged(f"{spec.name}'s token comes from a command: have that print the new one")
    _edit(pool, lambda text: _without(text, spec.name, OUTDATED))


def _without(text: str, name: str, keys: Iterable[str]) -> str:
    for key in keys:
        text = without_key(text, name, key)
    return text


def _edit(pool: Pool, change: Callable[[str], str]) -> None:
    pool.edit(change)
    # Proxies watch this file; a change in the keyring is invisible to them.
    os.utime(pool.path)


def _write(path: Path, text: str) -> None:
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        real = path.resolve(strict=True)
        if os.name == "posix" and real.stat().st_mode & OPEN_TO_OTHERS:
            raise Unchanged(f"other users can read {path}. Run: chmod 600 {path}")
        with locked(real, LOCK_TIMEOUT), Replacement(real) as new:
            new.put(text.encode())
    except OSError as error:
        raise Unchanged(f"cannot write {path}: {error.strerror or error}") from None
