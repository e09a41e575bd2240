"""`codexpool replace`: a new token in the place of an old one, if it is of the same account and user."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import click

from codexpool.cli.check_token import examined
from codexpool.cli.common import (
    Failure,
    config_option,
    edit_pool,
    known,
    name_argument,
    pool_config,
    sources,
    spec_of,
    the_state,
    verification,
)
from codexpool.cli.token_options import Examined, Offer, examine, offer, offer_options
from codexpool.cli.token_owners import holder_of, owner_of
from codexpool.cli.write_state import remember
from codexpool.common.atomic_replace import Replacement, locked
from codexpool.common.private_files import OPEN_TO_OTHERS, UnusableError
from codexpool.config import (
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    IdentitySpec,
    Inline,
    PoolConfig,
)
from codexpool.config.keyrings import write_keyring
from codexpool.config.named import Table
from codexpool.config.sources import credential_of
from codexpool.config.tables import with_key, with_table, without_key
from codexpool.credentials.authapi import Whoami
from codexpool.pool.identity import IdentityKey

LOCK_TIMEOUT = 40.0
"""Seconds to wait for somebody who renews the same login, or writes the same file."""

SOURCES = ("token", "auth_json")
"""The keys of which an identity has one."""

OF_THE_OLD = ("needs_replacement", "expires")
"""Keys that speak of the token which is replaced."""


@click.command()
@name_argument
@offer_options
@config_option
@click.option("--as-new", is_flag=True, help="Keep NAME as it is, and add the token as another identity.")
def replace(name: str, named: Path | None, as_new: bool, **said: Any) -> None:
    """Put a new token in the place of NAME's, if it is of the same account and user.

    The token comes from a prompt that does not show it, or from where one of the options says; it goes to where the
    old one is. Sessions, history and everything else of the identity stay.
    """
    config = pool_config(named)
    spec = spec_of(config, name)
    goes_by = _free_name(config, name) if as_new else name
    offered = offer(goes_by, config.path.parent, **said)
    found = examine(changed(spec, name=goes_by, source=offered.source, account_id=None, user_id=None))
    if as_new:
        _as_new(config, name, goes_by, offered, found)
        return
    _refuse_another(config, spec, found)
    _put(config, spec, offered, found)
    _remember(config, name, found)
    click.echo(f"{name} has a new token: {found.credential.bearer()}, of the same account and user")


def replace_login(config: PoolConfig, spec: IdentitySpec, fresh: Path) -> None:
    """Put a new auth.json in the place of an identity's, if it is of the same account and user. Raises Failure."""
    assert isinstance(spec.source, FromAuthJson)
    found = examine(changed(spec, source=FromAuthJson(fresh), account_id=None, user_id=None))
    _refuse_another(config, spec, found)
    _written(spec.source.path, fresh.read_text(encoding="utf-8"))
    _edit(config, lambda text: _without(text, spec.name, OF_THE_OLD))
    _remember(config, spec.name, found)
    click.echo(f"{spec.name} is logged in anew: {found.credential.bearer()}, of the same account and user")


def _free_name(config: PoolConfig, name: str) -> str:
    return next(free for n in range(2, 1000) if config.identity(free := f"{name}-{n}") is None)


def _as_new(config: PoolConfig, name: str, new: str, offered: Offer, found: Examined) -> None:
    if (holder := holder_of(config, found.metadata.key, sources(), known())) is not None:
        raise Failure(f"this token is of the same account and user as {holder.name}. Nothing was changed")
    _edit(config, lambda text: with_table(text, {"name": new, **offered.keys, **found.owner}, Table.IDENTITY))
    _remember(config, new, found)
    click.echo(f"{new} is in {config.path}; {name} stays as it is")


def _refuse_another(config: PoolConfig, spec: IdentitySpec, found: Examined) -> None:
    old = owner_of(config, spec, sources(), known()) or _asked(spec)
    new = found.metadata.key
    if old is None:
        raise Failure(
            f"it is not known whose token {spec.name} had, so the new one cannot be compared. Nothing was changed. "
            f"To add it as another identity: codexpool replace {spec.name} --as-new"
        )
    if old != new:
        raise Failure(
            f"the new token is of somebody else. Nothing was changed\n"
            f"  {spec.name} is  account {old.account_id}, user {old.user_id}\n"
            f"  the new one  account {new.account_id}, user {new.user_id}\n"
            f"To add it as another identity: codexpool replace {spec.name} --as-new"
        )


def _asked(spec: IdentitySpec) -> IdentityKey | None:
    """Whose the old token is, if it still says so."""
    try:
        credential = credential_of(spec, sources())
    except UnusableError:
        return None

    async def ask() -> Whoami:
        return await examined(spec, credential, await verification())

    metadata = asyncio.run(ask()).metadata
    return metadata.key if metadata is not None else None


def _put(config: PoolConfig, spec: IdentitySpec, offered: Offer, found: Examined) -> None:
    """Write the new token to where the old one is, or say in pool.toml where it is from now on."""

    def elsewhere(text: str) -> str:
        (key, value), *_ = offered.keys.items()
        text = _without(text, spec.name, [other for other in SOURCES if other != key])
        return _without(with_key(text, spec.name, key, value), spec.name, OF_THE_OLD)

    if not offered.is_typed or isinstance(spec.source, Inline):
        _edit(config, elsewhere)
        return
    assert isinstance(offered.source, Inline)
    match spec.source:
        case FromFile(path):
            _written(path, f"{offered.source.token}\n")
        case FromKeyring(service):
            try:
                write_keyring(service, spec.name, offered.source.token)
            except UnusableError as error:
                raise Failure(f"{error.what}; {error.remedy}. Nothing was changed") from None
        case FromEnv(variable):
            raise Failure(
                f"{spec.name} has its token from the environment variable {variable}: set it anew where the proxy is "
                f"started, and restart that. Or say another place: --file, --keyring. Nothing was changed"
            )
        case FromAuthJson(path):
            raise Failure(
                f"{spec.name} has a login in {path}. Log in anew: codexpool login {spec.name}. Nothing was changed"
            )
        case FromCommand():
            raise Failure(f"{spec.name} has its token from a command, which prints the new one. Nothing was changed")
    _edit(config, lambda text: _without(text, spec.name, OF_THE_OLD))


def _without(text: str, name: str, keys: tuple[str, ...] | list[str]) -> str:
    for key in keys:
        text = without_key(text, name, key)
    return text


def _edit(config: PoolConfig, change: Callable[[str], str]) -> None:
    edit_pool(config.path, change)
    # A proxy that looks for changes looks at this file first: a keyring tells nobody that it has changed.
    os.utime(config.path)


def _written(path: Path, text: str) -> None:
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        real = path.resolve(strict=True)
        if os.name == "posix" and real.stat().st_mode & OPEN_TO_OTHERS:
            raise Failure(f"{path} is open to other users: chmod 600 {path}. Nothing was changed")
        with locked(real, LOCK_TIMEOUT), Replacement(real) as new:
            new.put(text.encode())
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror or error}. Nothing was changed") from None


def _remember(config: PoolConfig, name: str, found: Examined) -> None:
    try:
        with the_state() as state:
            remember(state, config.path, name, found.credential, found.answer)
    except Failure as failure:  # The token is replaced all the same; a proxy finds the rest out.
        failure.show()
