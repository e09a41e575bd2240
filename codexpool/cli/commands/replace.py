"""`codexpool replace`: give an identity another token of the same account and user."""

from __future__ import annotations

from datetime import date
from typing import Any

import click

from codexpool.cli.common import Pool, pool_option
from codexpool.cli.completions import identity_argument
from codexpool.cli.new_identity import add_identity, expires_option, force_option
from codexpool.cli.replacing import replace_token
from codexpool.cli.tokens import GivenToken, given_token, token_options, until_accepted
from codexpool.cli.via import via_option
from codexpool.config.tables import Value


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
            add_identity(name, pool.path, given, force=force, settings=settings)
        else:
            replace_token(pool, spec, given, force, settings)

    until_accepted(lambda: given_token(name, pool.path.parent, **options), use)


def _free_name(pool: Pool, name: str) -> str:
    return next(free for n in range(2, 1000) if pool.config.identity(free := f"{name}-{n}") is None)
