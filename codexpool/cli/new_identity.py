"""Adds an identity to pool.toml, once its token is verified. For `add`, `login` and `replace --as-new`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path

import click

from codexpool.cli.common import Failure, Pool, Unchanged, config_arguments, edit_pool, remark, require_new_name
from codexpool.cli.ends import future_end
from codexpool.cli.identity_rows import identity_of
from codexpool.cli.next_steps import say_next
from codexpool.cli.running_proxy import any_announced
from codexpool.cli.shared_logins import share
from codexpool.cli.shells import eval_line
from codexpool.cli.tokens import GivenToken, NotAccepted, Verified, remember_new, usable, verify
from codexpool.common.private_files import UnusableError
from codexpool.config.model import FromEnv, IdentitySpec, Inline, Table
from codexpool.config.sources import in_keyring, other_owner, proof_of, write_keyring
from codexpool.config.tables import Value, with_table
from codexpool.credentials import Credential
from codexpool.credentials.auth_json import Login
from codexpool.credentials.file_login import FileLogin
from codexpool.credentials.oauth import OAuth
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
    "--force", is_flag=True, help="Use an auth.json even if a Codex client seems to use it, too."
)


def add_identity(
    name: str,
    path: Path,
    given: GivenToken,
    dry_run: bool = False,
    shared: bool = False,
    force: bool = False,
    settings: Mapping[str, Value] | None = None,
) -> None:
    """Verify a token, and write an identity with it to pool.toml. Raises Failure.

    If it is to be ``shared``, its login is in the state. ``settings`` are keys of pool.toml to be written with it.
    """
    spec, pool = IdentitySpec(name, given.source, 0), Pool(path)
    credential = usable(spec)
    require_new_token(pool, credential)
    if not force:
        require_own_login(name, credential)
    verified = verify(spec, credential, may_renew=not dry_run)
    owner = verified.metadata.key
    if (other := identity_of(pool, owner)) is not None:
        raise NotAccepted(
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
    _tell_what_else(path, given, shared, has_priority=bool(table.get("priority")))


def _tell_what_else(path: Path, given: GivenToken, shared: bool, has_priority: bool) -> None:
    """Say what a person has to do so that a new identity serves everywhere, and how to go on after the first one."""
    if shared:
        click.echo("its login is in the state. Copy its table to the pool.toml of the other machines")
        if given.keys:  # A file of the operator's.
            what = "is not used any more, and its next renewal would break the login in the state: delete it"
            remark(f"{given.keys['auth_json']} {what}")
    if isinstance(given.source, FromEnv) and any_announced():
        what = "set it where that is started, and start it again"
        remark(f"the running proxy needs {given.source.variable}, too: {what}")
    config = Pool(path).config
    if has_priority and config.selection is not Selection.DRAIN_FIRST:
        remark('a priority counts only with selection = "drain-first" in [pool]')
    if len(config.identities) == 1:
        run = shlex.join(["codexpool", "run", *config_arguments(path)])
        say_next(*([] if any_announced() else [run]), eval_line(os.environ, "codex"))


def require_new_token(pool: Pool, credential: Credential, besides: str = "") -> None:
    """Raise NotAccepted if an identity has this token already. Does not ask the backend: the token may be dead."""
    proof = proof_of(credential)
    for name, other in pool.resolved.credentials.items() if proof is not None else ():
        if proof_of(other) == proof and name != besides:
            what = credential.bearer() or "an agent identity"
            raise NotAccepted(f"this token ({what}) is in the pool, as {name} (codexpool rename changes its name)")


def require_own_login(name: str, credential: Credential) -> None:
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
    before = stored_in_keyring(given.keyring, name, given.source.token)
    try:
        write()
    except Failure:
        with suppress(UnusableError):
            write_keyring(given.keyring, name, before)
        raise


def stored_in_keyring(service: str, name: str, token: str) -> str | None:
    """Store a token in the keyring; return the one before. Raises Unchanged."""
    try:
        before = in_keyring(service, name)
        write_keyring(service, name, token)
    except UnusableError as error:
        raise Unchanged(f"{error.what}; {error.remedy}") from None
    return before


def require_free_name(name: str, pool: Pool) -> None:
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
    parts += [metadata.email] if metadata.email else []
    parts += [f"account {metadata.account_id}"] if metadata.account_id else []
    parts += [f"user {metadata.user_id}"] if verified.owner.get("user_id") else []
    return ", ".join([*parts, *([metadata.plan] if metadata.plan else []), metadata.origin])
