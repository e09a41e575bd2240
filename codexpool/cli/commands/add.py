"""`codexpool add`: verify a token, and store it in the pool."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import click

from codexpool.cli.common import Pool, config_option, name_argument, pool_to_edit, require_writable
from codexpool.cli.new_identity import add_identity, expires_option, force_option, require_free_name, shared_option
from codexpool.cli.shared_logins import require_keys
from codexpool.cli.tokens import given_token, token_options, until_accepted
from codexpool.cli.via import via_option
from codexpool.config.tables import Value


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
    require_free_name(name, Pool(path))
    if not dry_run:
        require_writable(path)
    if shared:
        require_keys()
    settings: dict[str, Value] = {} if expires is None else {"expires": expires}
    settings |= {} if priority is None else {"priority": priority}
    until_accepted(
        lambda: given_token(name, path.parent, **options),
        lambda given: add_identity(name, path, given, dry_run, shared, force, settings),
    )
