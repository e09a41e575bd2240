"""`codexpool add`, `login` and `replace`: verify a token, and store it in the pool."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace as changed
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import click

from codexpool.cli.common import (
    Failure,
    Pool,
    Unchanged,
    config_option,
    edit_pool,
    name_argument,
    pool_option,
    pool_to_edit,
    require_new_name,
    require_writable,
    sources,
    verification,
)
from codexpool.cli.completions import identity_argument
from codexpool.cli.ends import future_end
from codexpool.cli.identity_rows import identity_of, identity_row
from codexpool.cli.logins_folder import logins_folder
from codexpool.cli.shared_logins import require_keys, share
from codexpool.cli.tokens import (
    GivenToken,
    Verified,
    checked,
    given_token,
    remember_new,
    token_options,
    until_accepted,
    usable,
    verify,
)
from codexpool.cli.via import via_option
from codexpool.common.atomic_replace import Replacement, locked
from codexpool.common.private_files import OPEN_TO_OTHERS, UnusableError, private_folder
from codexpool.config.model import (
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    FromState,
    IdentitySpec,
    Inline,
    Table,
)
from codexpool.config.read import SOURCE_KEYS
from codexpool.config.sources import (
    credential_of,
    environ_of_programs,
    in_keyring,
    other_owner,
    proof_of,
    write_keyring,
)
from codexpool.config.tables import Value, with_key, with_table, without_key
from codexpool.credentials import Credential
from codexpool.credentials.agent import Agent
from codexpool.credentials.auth_json import Login
from codexpool.credentials.file_login import FileLogin
from codexpool.credentials.oauth import OAuth
from codexpool.pool.identity import IdentityKey
from codexpool.pool.needs import NAMES
from codexpool.pool.selection import Selection
from codexpool.tokens.bearer import fingerprint

shared_option = click.option(
    "--shared", is_flag=True, help="Keep the login in the state, encrypted, for all proxies that use that state."
)


def _expires(context: click.Context, parameter: click.Parameter, value: str | None) -> date | None:
    if value is None or context.resilient_parsing:
        return None
    return future_end(value, "Get a token that is still valid")


expires_option = click.option(
    "--expires",
    metavar="DATE",
    callback=_expires,
    help="The token's last day (UTC), or a time with its zone: you are reminded before.",
)
force_option = click.option(
    "--force", is_flag=True, help="Add an auth.json although a Codex client seems to use it, too."
)


@click.command()
@name_argument
@token_options
@shared_option
@expires_option
@click.option("--priority", type=int, help='With selection = "drain-first": the highest is used first. Default: 0.')
@force_option
@via_option
@config_option
@click.option("--dry-run", is_flag=True, help="Verify the token and print what would be written, but write nothing.")
def add(
    name: str,
    named: Path | None,
    shared: bool,
    dry_run: bool,
    expires: date | None,
    priority: int | None,
    force: bool,
    **options: Any,
) -> None:
    """Verify a token, and add it to pool.toml as identity NAME.

    Prompts for a personal access token, or the JWT of an agent identity, unless an option names another source. A
    token is never an argument.

    \b
        codexpool add work
        codexpool add work --file ~/work.token
        codexpool add work --keyring codexpool
        codexpool add bot --token-stdin < agent.jwt
        codexpool add spare --auth-json ~/.codex-spare/auth.json
        codexpool add spare --auth-json ~/.codex-spare/auth.json --shared
        codexpool add sso --command -- corp-login codex
    """
    if shared and options["auth_json"] is None:  # Before a token is asked for.
        raise click.UsageError("--shared is for a login, which is renewed: use it with --auth-json")
    path = pool_to_edit(named)
    _require_free_name(name, Pool(path))
    if not dry_run:
        require_writable(path)
    if shared:
        require_keys()
    settings: dict[str, Value] = {} if expires is None else {"expires": expires}
    settings |= {} if priority is None else {"priority": priority}
    until_accepted(
        lambda: given_token(name, path.parent, **options),
        lambda given: _add(name, path, given, dry_run, shared, force, settings),
    )


@click.command()
@identity_argument
@click.option("--device-auth", is_flag=True, help="Log in with a code, in a browser on another machine.")
@shared_option
@via_option
@config_option
def login(name: str, device_auth: bool, shared: bool, named: Path | None) -> None:
    """Log in to ChatGPT with `codex login`, and add the login to pool.toml as identity NAME.

    If NAME already is a login, replace it. The client's own login is not touched.
    """
    path = pool_to_edit(named)
    pool = Pool(path)
    spec = pool.config.identity(name)
    is_agent = isinstance(pool.resolved.credentials.get(name), Agent)
    if spec is not None and (is_agent or not isinstance(spec.source, FromAuthJson | FromState)):
        raise Failure(f"{name} is not a login. Replace its token (codexpool replace {name}), or use another name")
    if spec is None:
        _require_free_name(name, pool)
    if spec is None or (shared and not isinstance(spec.source, FromState)):
        require_writable(path)
    if shared or (spec is not None and isinstance(spec.source, FromState)):
        require_keys()
        with tempfile.TemporaryDirectory(prefix="codexpool-login-") as folder:
            new = _codex_login(Path(folder), device_auth)
            if spec is not None:
                _replace_login(pool, spec, new, shared=True)
            else:
                _add(name, path, GivenToken(FromAuthJson(new), {}), dry_run=False, shared=True)
        return
    logins = logins_folder()
    # Another pool.toml may have a login of that name.
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    home = next(logins / free for free in names if not (logins / free).exists())
    with tempfile.TemporaryDirectory(prefix="codexpool-login-", dir=private_folder(home.parent)) as folder:
        new = _codex_login(Path(folder), device_auth)
        if spec is not None:
            _replace_login(pool, spec, new)
            return
        auth_json = private_folder(home) / "auth.json"
        new.replace(auth_json)
    try:
        _add(name, path, GivenToken(FromAuthJson(auth_json), {"auth_json": str(auth_json)}), dry_run=False)
    except click.ClickException:
        auth_json.unlink()
        home.rmdir()
        raise


def _add(
    name: str,
    path: Path,
    given: GivenToken,
    dry_run: bool = False,
    shared: bool = False,
    force: bool = False,
    settings: Mapping[str, Value] | None = None,
) -> None:
    spec, pool = IdentitySpec(name, given.source, 0), Pool(path)
    credential = usable(spec)
    _require_new_token(pool, credential)
    if not force:
        _require_own_login(name, credential)
    verified = verify(spec, credential, may_renew=not dry_run)
    owner = verified.metadata.key
    if (other := identity_of(pool, owner)) is not None:
        raise Unchanged(
            f"this token has the same account and user as {other.name} ({owner.account_id}, {owner.user_id}), and "
            f"shares its limits. To replace that token: codexpool replace {other.name}"
        )
    keys = {"login": "state"} if shared else given.keys
    table: dict[str, Value] = {"name": name, **keys, **verified.owner, **verified.expiry, **(settings or {})}
    if dry_run:
        _print_table(path, table, verified)
        return
    if shared:
        share(owner, login_of(verified.credential))
    _store_new(path, table, given)
    remember_new(path, name, verified)
    click.echo(f"added {name} to {path}: {_described(verified)}")
    if shared:
        click.echo("its login is in the state. Copy its table to the pool.toml of the other machines")
        if given.keys:  # A file of the operator's.
            what = "is not used any more, and its next renewal would break the login in the state: delete it"
            click.echo(f"codexpool: {given.keys['auth_json']} {what}", err=True)
    if table.get("priority") and Pool(path).config.selection is not Selection.DRAIN_FIRST:
        click.echo('codexpool: a priority counts only with selection = "drain-first" in [pool]', err=True)


def _require_new_token(pool: Pool, credential: Credential, besides: str = "") -> None:
    """Raise Unchanged if an identity has this token already. Does not ask the backend: the token may be dead."""
    proof = proof_of(credential)
    for name, other in pool.resolved.credentials.items() if proof is not None else ():
        if proof_of(other) == proof and name != besides:
            raise Unchanged(f"this token ({credential.bearer() or 'an agent identity'}) is in the pool, as {name}")


def _require_own_login(name: str, credential: Credential) -> None:
    """Raise Unchanged for the login of a Codex client: before it is verified, which may renew it."""
    if isinstance(credential, FileLogin) and (owner := other_owner(credential.path, os.environ)):
        raise Unchanged(
            f"{credential.path} is also the login of {owner}: two programs that renew one login break it. Give the "
            f"pool its own: codexpool login {name} (or insist with --force)"
        )


def _print_table(path: Path, table: Mapping[str, Value], verified: Verified) -> None:
    """Print the TOML that would be written, with a fingerprint in place of the token."""
    shown = dict(table)
    if isinstance(token := shown.get("token"), str):
        shown["token"] = f"(sha256:{fingerprint(token)})"
    click.echo(f"{_described(verified)}\nwould be written to {path}:", err=True)
    click.echo(with_table("", shown, Table.IDENTITY), nl=False)


def _store_new(path: Path, table: Mapping[str, Value], given: GivenToken) -> None:
    """Write an identity to pool.toml, and its token to the keyring if that is to have it. Raises Failure."""

    def write() -> None:
        edit_pool(path, lambda text: with_table(text, table, Table.IDENTITY))

    if not (given.keyring and isinstance(given.source, Inline)):
        write()
        return
    name = str(table["name"])
    before = _in_keyring(given.keyring, name, given.source.token)
    try:
        write()
    except Failure:
        write_keyring(given.keyring, name, before)
        raise


def _in_keyring(service: str, name: str, token: str) -> str | None:
    """Store a token in the keyring; return the one before. Raises Unchanged."""
    try:
        before = in_keyring(service, name)
        write_keyring(service, name, token)
    except UnusableError as error:
        raise Unchanged(f"{error.what}; {error.remedy}") from None
    return before


def _require_free_name(name: str, pool: Pool) -> None:
    require_new_name(name, pool.config.identities, Table.IDENTITY)
    if (spec := pool.config.identity(name)) is not None:
        where = f"{pool.path}:{spec.line}"
        raise Failure(f"identity {name} already exists ({where}). Use another name, or: codexpool replace {name}")


def login_of(credential: Credential) -> Login:
    """Return the login to put into the state. Raises Unchanged if it is none."""
    if not isinstance(credential, OAuth):
        raise Unchanged(
            "--shared is for a login, which is renewed; this auth.json has a token, which needs no sharing"
        )
    return credential.login


def _described(verified: Verified) -> str:
    bearer, metadata = verified.credential.bearer(), verified.metadata
    parts = [f"{NAMES[verified.credential.kind]} {bearer or ''}".strip()]
    parts += [f"account {metadata.account_id}"] if metadata.account_id else []
    parts += [f"user {metadata.user_id}"] if verified.owner.get("user_id") else []
    return ", ".join([*parts, *([metadata.plan] if metadata.plan else []), metadata.origin])


def _codex_login(folder: Path, device_auth: bool) -> Path:
    """Run `codex login` with this folder as CODEX_HOME; return the auth.json it wrote. Raises Failure."""
    program = shutil.which(os.environ.get("CODEXPOOL_CODEX") or "codex")
    if program is None:
        raise Failure("`codex` not found. Install it (npm install -g @openai/codex), or set CODEXPOOL_CODEX=PATH")
    command = [program, "login", *(["--device-auth"] if device_auth else [])]
    environ = environ_of_programs(os.environ, frozenset({"CODEX_ACCESS_TOKEN"}))
    code = subprocess.run(command, env={**environ, "CODEX_HOME": str(folder)}, check=False).returncode
    auth_json = folder / "auth.json"
    if code != 0 or not auth_json.exists():
        raise Unchanged(f"`codex login` failed with exit code {code}")
    return auth_json


LOCK_TIMEOUT = 40.0  # seconds to wait for a process that renews the same login, or writes the same file
OUTDATED = ("needs_replacement", "expires")  # keys about the old token


@click.command()
@identity_argument
@token_options
@via_option
@pool_option
@expires_option
@force_option
@click.option("--as-new", is_flag=True, help="Keep NAME, and add the token as another identity.")
def replace(name: str, pool: Pool, as_new: bool, expires: date | None, force: bool, **options: Any) -> None:
    """Replace NAME's token with another one of the same account and user.

    Prompts for the token unless an option names its source, and stores it where the old one is. NAME keeps its
    sessions and its history.
    """
    spec = pool.identity(name)
    settings: dict[str, Value] = {} if expires is None else {"expires": expires}
    if as_new:
        name = _free_name(pool, name)

    def use(given: GivenToken) -> None:
        if as_new:
            _add(name, pool.path, given, force=force, settings=settings)
        else:
            _replace(pool, spec, given, force, settings)

    until_accepted(lambda: given_token(name, pool.path.parent, **options), use)


def _replace(pool: Pool, spec: IdentitySpec, given: GivenToken, force: bool, settings: Mapping[str, Value]) -> None:
    to_be = changed(spec, source=given.source, account_id=None, user_id=None)
    credential = usable(to_be)
    _require_new_token(pool, credential, besides=spec.name)
    if not force:
        _require_own_login(spec.name, credential)
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


def _replace_login(pool: Pool, spec: IdentitySpec, new: Path, shared: bool = False) -> None:
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


def _free_name(pool: Pool, name: str) -> str:
    return next(free for n in range(2, 1000) if pool.config.identity(free := f"{name}-{n}") is None)


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
        _in_keyring(given.keyring, spec.name, given.source.token)
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
            _in_keyring(service, spec.name, given.source.token)
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
            raise Unchanged(f"other users can read {path}. Run: chmod 600 {path}")
        with locked(real, LOCK_TIMEOUT), Replacement(real) as new:
            new.put(text.encode())
    except OSError as error:
        raise Unchanged(f"cannot write {path}: {error.strerror or error}") from None
