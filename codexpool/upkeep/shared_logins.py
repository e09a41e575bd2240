"""The logins in the state: what was last heard of them, and the transactions in which one is renewed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from codexpool.common.private_files import UnusableError
from codexpool.config.sources import PendingError
from codexpool.credentials import NoTokenNowError
from codexpool.credentials.shared_login import Claim, StoredLogin
from codexpool.pool.identity import IdentityKey
from codexpool.state import StateError
from codexpool.tokens.state_keys import Sealed, StateKeys, state_keys

logger = logging.getLogger("codexpool")

T = TypeVar("T")


class Transact(Protocol):
    """Runs a function in a short transaction of the state. Raises StateError."""

    def __call__(self, work: Callable[[Any], T], /) -> T: ...


class SharedLogins:
    """The logins that all proxies of a state share. ``environ`` names the keys that encrypt them.

    ``read`` reads them when they are first needed; without it they are unknown until `learn` is called.
    """

    def __init__(
        self,
        transact: Transact,
        environ: Mapping[str, str],
        read: Callable[[], Mapping[IdentityKey, StoredLogin]] | None = None,
    ) -> None:
        self._read = read
        self._transact = transact
        self._environ = environ
        self._known: dict[IdentityKey, StoredLogin] | None = None  # None until the state was read.

    def learn(self, news: Mapping[IdentityKey, StoredLogin]) -> list[IdentityKey]:
        """Take what the state has, at first all of it. Return the logins that are newer than before."""
        known = self._known = self._known or {}
        newer = [key for key, login in news.items() if key not in known or login.generation > known[key].generation]
        for key, login in news.items():
            # One of the same generation may be encrypted under another key by now.
            if key in newer or login.generation == known[key].generation:
                known[key] = login
        return newer

    @property
    def are_known(self) -> bool:
        return self._known is not None

    def seal_again(self) -> None:
        """Encrypt with the first key what is encrypted with another one. May take a while; raises nothing."""
        from codexpool.state import logins

        try:
            keys = self.keys()
        except UnusableError:
            return  # Each identity that needs a key says so.
        for key, login in list((self._known or {}).items()):
            if not login.is_empty and login.sealed.key_id != keys.first and login.sealed.key_id in keys.keys:
                try:
                    sealed = keys.seal(keys.open(login.sealed, key), key)
                    is_done = self._transact(partial(logins.seal_again, key=key, before=login, sealed=sealed))
                except (UnusableError, StateError) as error:
                    logger.warning("state: the login of account %s keeps its old key: %s", key.account_id, error)
                else:
                    if is_done:
                        what = "state: the login of account %s is encrypted with the first key of %s now"
                        logger.info(what, key.account_id, keys.source)

    def keys(self) -> StateKeys:
        return state_keys(self._environ)

    def latest(self, key: IdentityKey) -> StoredLogin | None:
        """Return the login as it was last heard of. Raises PendingError if nothing was heard yet."""
        if self._known is None and self._read is not None:
            self.learn(self._read())
        if self._known is None:
            raise PendingError
        login = self._known.get(key)
        return None if login is None or login.is_empty else login

    def claim(self, key: IdentityKey, mark: str, wants: Callable[[StoredLogin], bool], over: str) -> Claim | None:
        from codexpool.state import logins

        return self._asked(lambda connection: logins.claim(connection, key, mark, wants, over))

    def put(self, key: IdentityKey, sealed: Sealed, generation: int) -> StoredLogin | None:
        from codexpool.state import logins

        present = self._asked(lambda connection: logins.put(connection, key, sealed, generation))
        return None if present is None or present.is_empty else present

    def refuse(self, key: IdentityKey, generation: int, code: str) -> StoredLogin | None:
        from codexpool.state import logins

        present = self._asked(lambda connection: logins.refuse(connection, key, generation, code))
        return None if present is None or present.is_empty else present

    def release(self, key: IdentityKey, mark: str) -> None:
        from codexpool.state import logins

        self._asked(lambda connection: logins.release(connection, key, mark))

    def _asked(self, work: Callable[[Any], T]) -> T:
        try:
            return self._transact(work)
        except StateError as error:
            raise NoTokenNowError(f"its login in the state cannot be renewed: {error}") from None
