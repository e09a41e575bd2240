"""Which variables of this shell a service gets, and which it must not: its file is no place for secrets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Final

from codexpool.credentials.upstream_proxy import VARIABLE as UPSTREAM
from codexpool.credentials.upstream_proxy import of_environ
from codexpool.state import StateError
from codexpool.state.location import VARIABLE as STATE
from codexpool.state.location import SqliteFile, named_location

PATHS: Final = (
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_DATA_HOME",
    "CODEXPOOL_CONFIG",
    "CODEXPOOL_STATE_KEY_FILE",
    "PGPASSFILE",
    "SSL_CERT_FILE",
)
SECRETS: Final = (STATE, "CODEXPOOL_STATE_KEY", UPSTREAM, "PGPASSWORD")
"""What may contain a password, or is one."""


def environment_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for the file of a service: where files are, and where programs are."""
    kept = {name: os.path.abspath(os.path.expanduser(environ[name])) for name in PATHS if environ.get(name)}  # noqa: PTH100, PTH111
    try:
        state = named_location(environ)
    except StateError:
        state = None
    if isinstance(state, SqliteFile):
        kept[STATE] = str(state.path)
    with contextlib.suppress(ValueError):
        if (proxy := of_environ(environ)) is not None and not proxy.auth:
            kept[UPSTREAM] = proxy.url
    if path := environ.get("PATH"):
        kept["PATH"] = path
    return {**kept, "PYTHONUNBUFFERED": "1"}


def left_out(environ: Mapping[str, str], of_identities: Iterable[str]) -> list[str]:
    """Return the names of variables that a proxy started from this shell would see, and a service does not."""
    kept = environment_of(environ)
    return [name for name in dict.fromkeys([*SECRETS, *of_identities]) if environ.get(name) and name not in kept]
