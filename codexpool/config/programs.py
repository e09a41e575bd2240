"""The environment of the programs that codexpool runs: its own, without the secrets of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from codexpool.config.model import FromEnv, PoolConfig

PREFIX: Final = "CODEXPOOL_"
"""The prefix of codexpool's own variables, some of which have tokens, keys and proxy passwords in them."""

HARMLESS: Final = frozenset({"CODEXPOOL_CONFIG", "CODEXPOOL_STATE"})
"""Those that a program needs to run `codexpool` itself; not if it is a URL, which may have a password in it."""


def secret_variables(config: PoolConfig) -> frozenset[str]:
    """Return the variables that hold the tokens of a pool."""
    sources = (identity.source for identity in config.identities)
    return frozenset(source.variable for source in sources if isinstance(source, FromEnv))


def environ_of_programs(environ: Mapping[str, str], secret: frozenset[str]) -> dict[str, str]:
    """Return the environment for a program: ``environ`` without the ``secret`` variables and codexpool's own."""
    return {
        name: value
        for name, value in environ.items()
        if name not in secret and (not name.startswith(PREFIX) or (name in HARMLESS and "://" not in value))
    }
