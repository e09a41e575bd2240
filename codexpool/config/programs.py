"""The environment of the programs that codexpool runs: its own, without the secrets of the pool. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from codexpool.config.model import FromEnv, PoolConfig

PREFIX: Final = "CODEXPOOL_"
"""How our own variables begin. Tokens, keys and proxy passwords are in some of them."""

HARMLESS: Final = frozenset({"CODEXPOOL_CONFIG", "CODEXPOOL_STATE"})
"""Those of them that a program may need that calls `codexpool` itself; a URL, which may have a password, is not."""


def secret_variables(config: PoolConfig) -> frozenset[str]:
    """Return the variables that hold the tokens of a pool."""
    sources = (identity.source for identity in config.identities)
    return frozenset(source.variable for source in sources if isinstance(source, FromEnv))


def environ_of_programs(environ: Mapping[str, str], secret: frozenset[str]) -> dict[str, str]:
    """Return the environment for a program: ``environ`` without the ``secret`` variables and our own."""
    return {name: value for name, value in environ.items() if name not in secret and _may_be_seen(name, value)}


def _may_be_seen(name: str, value: str) -> bool:
    return not name.startswith(PREFIX) or (name in HARMLESS and "://" not in value)
