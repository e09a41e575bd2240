"""Puts logins into the state, and deletes them, for commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from codexpool.cli.common import Unchanged, transact
from codexpool.common.private_files import UnusableError
from codexpool.credentials.auth_json import Login, text_of
from codexpool.pool.identity import IdentityKey
from codexpool.tokens.state_keys import MAKE_ONE, VARIABLE, StateKeys, state_keys

if TYPE_CHECKING:
    from sqlalchemy import Connection


def require_keys() -> StateKeys:
    """Return the keys that encrypt logins; before a person logs in for nothing. Raises Unchanged without any."""
    try:
        keys = state_keys(os.environ)
    except UnusableError as error:
        raise Unchanged(f"{error.what}; {error.remedy}") from None
    if not keys.keys:
        what = f"logins in the state are encrypted, and {VARIABLE} is not set; set it on every machine"
        raise Unchanged(f"{what} ({MAKE_ONE})")
    return keys


def share(key: IdentityKey, login: Login) -> None:
    """Put a login into the state, in place of any other of this account and user. Raises Failure."""
    from codexpool.state import logins

    keys = require_keys()

    def put(connection: Connection) -> None:
        # Otherwise the proxies that have the right key could not read this one.
        if others := sorted(logins.key_ids(connection).keys() - keys.keys.keys()):
            what = f"logins in the state are encrypted with the key sha256:{others[0]}"
            remedy = "add that key. If it is lost: codexpool remove NAME --with-login for each identity that needs it"
            raise Unchanged(f"{what}, which {keys.source} does not have; {remedy}")
        logins.log_in(connection, key, keys.seal(text_of(login.document), key))

    transact(put, Unchanged)


def delete(key: IdentityKey) -> bool:
    """Delete a login from the state, for all proxies. Return whether there was one. Raises Failure."""
    from codexpool.state import logins

    return transact(lambda connection: logins.remove(connection, key), Unchanged)
