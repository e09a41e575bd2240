"""`codexpool add` and `codexpool login`: one more identity, whose token was looked at before it is written."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from codexpool.cli.commands.replace import replace_login
from codexpool.cli.common import (
    Failure,
    config_option,
    edit_pool,
    known,
    name_argument,
    pool_config,
    pool_path,
    sources,
    the_state,
)
from codexpool.cli.token_options import Examined, Offer, examine, offer, offer_options
from codexpool.cli.token_owners import holder_of
from codexpool.cli.write_state import remember
from codexpool.config import ConfigError, FromAuthJson, IdentitySpec, PoolConfig, load
from codexpool.config.lookup import default_paths
from codexpool.config.named import Table, name_problem
from codexpool.config.sources import other_owner
from codexpool.config.tables import Value, with_table
from codexpool.pool.needs import NAMES
from codexpool.tokens.bearer import fingerprint

BEGINNING: Final = """\
# The identities codexpool may speak as. Pool only those you are entitled to use.
# Every setting is described in config/pool.example.toml of the project.
"""


@click.command()
@name_argument
@offer_options
@config_option
@click.option("--dry-run", is_flag=True, help="Look at the token and say what would be written, but write nothing.")
def add(name: str, named: Path | None, dry_run: bool, **said: Any) -> None:
    """Add an identity to pool.toml, once it is known whose token it is.

    The token comes from a prompt that does not show it, or from where one of the options says. It is never an
    argument.

    \b
        codexpool add work                          asks for a personal access token
        codexpool add work --file ~/work.token
        codexpool add spare --auth-json ~/.codex-spare/auth.json
        codexpool add sso --command -- corp-login codex
    """
    path = _place(named)
    _refuse_name(name, path)
    _add(name, path, offer(name, path.parent, **said), dry_run)


@click.command()
@name_argument
@click.option("--device-auth", is_flag=True, help="Passed on: log in with a code, on another machine's browser.")
@config_option
def login(name: str, device_auth: bool, named: Path | None) -> None:
    """Log in to ChatGPT for the pool: runs `codex login` in a folder of its own, and adds the result.

    The login of an identity that is in the pool already is made anew in its place.
    """
    path = _place(named)
    spec = pool_config(path).identity(name) if path.exists() else None
    if spec is not None and not isinstance(spec.source, FromAuthJson):
        raise Failure(
            f"{name} has a token of another kind; replace it (codexpool replace {name}), or take another name"
        )
    if spec is None:
        _refuse_name(name, path)
    import platformdirs

    logins = platformdirs.user_data_path("codexpool", appauthor=False) / "logins"
    # Another pool.toml may have a login of that name.
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    home = next(logins / free for free in names if not (logins / free).exists())
    with tempfile.TemporaryDirectory(prefix="codexpool-login-", dir=_private(home.parent)) as folder:
        fresh = _logged_in(Path(folder), device_auth)
        if spec is not None:
            replace_login(pool_config(path), spec, fresh)
            return
        kept = _private(home) / "auth.json"
        fresh.replace(kept)
    try:
        _add(name, path, Offer(FromAuthJson(kept), {"auth_json": str(kept)}, False), dry_run=False)
    except click.ClickException:
        kept.unlink()
        home.rmdir()
        raise


def _add(name: str, path: Path, offered: Offer, dry_run: bool) -> None:
    found = examine(IdentitySpec(name, offered.source, 0), may_renew=not dry_run)
    _refuse_owner(_loaded(path), found)
    table: dict[str, Value] = {"name": name, **offered.keys, **found.owner}
    if dry_run:
        click.echo(f"{_described(found)}\nWould be written to {path}:\n")
        for key, value in _without_secrets(table).items():
            click.echo(f"    {key} = {value!r}")
        return
    _write(path, table)
    with contextlib.suppress(Failure), the_state() as state:  # A proxy finds it out anew.
        remember(state, path, name, found.credential, found.answer)
    click.echo(f"{name} is in {path}: {_described(found)}")
    if isinstance(offered.source, FromAuthJson) and (owner := other_owner(offered.source.path, os.environ)):
        click.echo(
            f"codexpool: {offered.source.path} is the login of {owner} too: two owners of one refresh token burn it. "
            f"Give the pool a login of its own: codexpool remove {name}, then codexpool login {name}",
            err=True,
        )


def _place(named: Path | None) -> Path:
    """The pool.toml to add to: one that is there, or the one to be made."""
    if named is not None:
        return named.expanduser().absolute()
    if os.environ.get("CODEXPOOL_CONFIG"):
        return Path(os.environ["CODEXPOOL_CONFIG"]).expanduser().absolute()
    return pool_path(None) or default_paths(None)[-1]


def _refuse_name(name: str, path: Path) -> None:
    if problem := name_problem(name):
        raise click.UsageError(f"NAME {problem[0]}; {problem[1]}")
    config = _loaded(path)
    if config is not None and (spec := config.identity(name)) is not None:
        raise Failure(
            f"there is an identity {name} already ({path}:{spec.line}). "
            f"Take another name, or: codexpool replace {name}"
        )


def _refuse_owner(config: PoolConfig | None, found: Examined) -> None:
    """Two tokens of one account and user share every limit: that is no second identity."""
    if config is None:
        return
    key = found.metadata.key
    if (holder := holder_of(config, key, sources(), known())) is not None:
        raise Failure(
            f"this token is of the same account and user as {holder.name} ({key.account_id}, {key.user_id}). Two "
            f"tokens of one would share every limit. To put it in its place: codexpool replace {holder.name}. "
            f"Nothing was changed"
        )


def _write(path: Path, table: Mapping[str, Value]) -> None:
    is_new = not path.exists()
    if is_new:
        _private(path.parent)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(BEGINNING)
    try:
        edit_pool(path, lambda text: with_table(text, table, Table.IDENTITY))
    except Failure:
        if is_new:
            path.unlink()
        raise


def _described(found: Examined) -> str:
    bearer, metadata = found.credential.bearer(), found.metadata
    words = [f"{NAMES[found.credential.kind]} {bearer or ''}".strip()]
    words += [f"account {metadata.account_id}"] if metadata.account_id else []
    words += [f"user {metadata.user_id}"] if found.owner.get("user_id") else []
    return ", ".join([*words, *([metadata.plan] if metadata.plan else []), metadata.origin])


def _without_secrets(table: Mapping[str, Value]) -> Mapping[str, Value]:
    token = table.get("token")
    return {**table, "token": f"(sha256:{fingerprint(token)})"} if isinstance(token, str) else table


def _loaded(path: Path) -> PoolConfig | None:
    try:
        return load(path) if path.exists() else None
    except ConfigError as error:
        raise Failure(str(error)) from None


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _logged_in(folder: Path, device_auth: bool) -> Path:
    """Run the official login; the auth.json it wrote. Raises Failure."""
    program = shutil.which(os.environ.get("CODEXPOOL_CODEX") or "codex")
    if program is None:
        raise Failure(
            "there is no `codex` on the PATH. Install it (npm install -g @openai/codex), or say CODEXPOOL_CODEX=PATH"
        )
    command = [program, "login", *(["--device-auth"] if device_auth else [])]
    environ = {name: value for name, value in os.environ.items() if name not in ("CODEX_ACCESS_TOKEN",)}
    code = subprocess.run(command, env={**environ, "CODEX_HOME": str(folder)}, check=False).returncode
    fresh = folder / "auth.json"
    if code != 0 or not fresh.exists():
        sys.stderr.flush()
        raise Failure(f"`codex login` ended with exit code {code}; nothing was changed")
    return fresh
