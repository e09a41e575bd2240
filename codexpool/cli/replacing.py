"""Replaces the token of an identity, where it is. For `replace` and `login`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace as changed
from functools import partial
from pathlib import Path

import click

from codexpool.cli.common import Failure, Pool, Unchanged, sources, verification
from codexpool.cli.identity_rows import identity_row
from codexpool.cli.new_identity import login_of, require_new_token, require_own_login, stored_in_keyring
from codexpool.cli.shared_logins import share
from codexpool.cli.tokens import GivenToken, Verified, checked, remember_new, usable, verify
from codexpool.common.atomic_replace import Replacement, locked
from codexpool.common.private_files import OPEN_TO_OTHERS, UnusableError, closing, private_folder
from codexpool.config.model import (
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    FromState,
    IdentitySpec,
    Inline,
)
from codexpool.config.read import SOURCE_KEYS
from codexpool.config.sources import credential_of
from codexpool.config.tables import Value, with_key, without_key
from codexpool.credentials.oauth import OAuth
from codexpool.pool.identity import IdentityKey

LOCK_TIMEOUT = 40.0  # seconds to wait for a process that renews the same login, or writes the same file
OUTDATED = ("needs_replacement", "expires")  # keys about the old token


def replace_token(
    pool: Pool, spec: IdentitySpec, given: GivenToken, force: bool, settings: Mapping[str, Value]
) -> None:
    """Verify another token of an identity, and store it where the old one is. Raises Failure.

    ``settings`` are keys of pool.toml to be written with it.
    """
    to_be = changed(spec, source=given.source, account_id=None, user_id=None)
    credential = usable(to_be)
    require_new_token(pool, credential, besides=spec.name)
    if not force:
        require_own_login(spec.name, credential)
    verified = verify(to_be, credential)
    _require_same_owner(pool, spec, verified)
    if isinstance(spec.source, FromState) and isinstance(verified.credential, OAuth):
        _share_instead(pool, spec, verified)
    else:
        _store(pool, spec, given)
    for key, value in {**verified.expiry, **settings}.items():
        _edit(pool, partial(with_key, name=spec.name, key=key, value=value))
    remember_new(pool.path, spec.name, verified)
    click.echo(f"{spec.name} has a new token: {verified.credential.bearer()}, of the same account and user")


def replace_login(pool: Pool, spec: IdentitySpec, new: Path, shared: bool = False) -> None:
    """Replace an identity's login with that of another auth.json, of the same account and user. Raises Failure.

    If it is to be ``shared``, it is in the state from then on.
    """
    to_be = changed(spec, source=FromAuthJson(new), account_id=None, user_id=None)
    verified = verify(to_be, usable(to_be))
    _require_same_owner(pool, spec, verified)
    if shared:
        _share_instead(pool, spec, verified)
    elif isinstance(spec.source, FromAuthJson):
        _write(spec.source.path, new.read_text(encoding="utf-8"))
        _edit(pool, lambda text: _without(text, spec.name, OUTDATED))
    remember_new(pool.path, spec.name, verified)
    click.echo(f"{spec.name} is logged in again: {verified.credential.bearer()}, of the same account and user")


def _share_instead(pool: Pool, spec: IdentitySpec, verified: Verified) -> None:
    """Put a login into the state, and have the identity use that one. Raises Failure."""
    owner = verified.metadata.key
    share(owner, login_of(verified.credential))

    def change(text: str) -> str:
        text = _without(text, spec.name, OUTDATED)
        if isinstance(spec.source, FromState):
            return text
        text = _without(text, spec.name, SOURCE_KEYS)
        for key, value in {"login": "state", **owner._asdict()}.items():
            text = with_key(text, spec.name, key, value)
        return text

    _edit(pool, change)
    if isinstance(spec.source, FromAuthJson):
        click.echo(f"its login is in the state. {spec.source.path} is not used any more: delete it")


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
    if given.keyring and isinstance(given.source, Inline):
        stored_in_keyring(given.keyring, spec.name, given.source.token)
    if given.keyring or not isinstance(given.source, Inline) or isinstance(spec.source, Inline):
        ((key, value),) = given.keys.items()
        others = [other for other in SOURCE_KEYS if other != key]

        def change(text: str) -> str:
            text = with_key(_without(text, spec.name, others), spec.name, key, value)
            return _without(text, spec.name, OUTDATED)

        _edit(pool, change)
        return
    match spec.source:
        case FromFile(path):
            _write(path, f"{given.source.token}\n")
        case FromKeyring(service):
            stored_in_keyring(service, spec.name, given.source.token)
        case FromEnv(variable):
            raise Unchanged(
                f"{spec.name}'s token is in the environment variable {variable}: set it where the proxy is started, "
                "and restart the proxy. Or move the token: --file, --keyring"
            )
        case FromAuthJson(path):
            raise Unchanged(
                f"{spec.name} has its login in {path}. Log in again: codexpool login {spec.name}. Or use another "
                f"auth.json: codexpool replace {spec.name} --auth-json PATH"
            )
        case FromState():
            raise Unchanged(
                f"{spec.name} has its login in the state. Log in again: codexpool login {spec.name}. Or use another "
                f"auth.json: codexpool replace {spec.name} --auth-json PATH"
            )
        case FromCommand():
            raise Unchanged(f"{spec.name}'s token comes from a command: have that print the new one")
    _edit(pool, lambda text: _without(text, spec.name, OUTDATED))


def _without(text: str, name: str, keys: Iterable[str]) -> str:
    for key in keys:
        text = without_key(text, name, key)
    return text


def _edit(pool: Pool, change: Callable[[str], str]) -> None:
    pool.edit(change)
    with suppress(OSError):  # Proxies watch this file; a change in the keyring they find a little later.
        os.utime(pool.path)


def _write(path: Path, text: str) -> None:
    try:
        if not path.exists():
            private_folder(path.parent)
            path.touch(mode=0o600)
        real = path.resolve(strict=True)
        if os.name == "posix" and real.stat().st_mode & OPEN_TO_OTHERS:
            raise Unchanged(f"other users can read {path}. Run: {closing(path)}")
        with locked(real, LOCK_TIMEOUT), Replacement(real) as new:
            new.put(text.encode())
    except OSError as error:
        raise Unchanged(f"cannot write {path}: {error.strerror or error}") from None
