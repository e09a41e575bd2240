"""A login that several proxies share: it is in the state, encrypted, and one proxy renews it for all.

The lock of a renewal is a mark in the login's row, made in a short transaction and with an end by the database's
clock. It is no open transaction, whose lock would end with its connection: while the token endpoint is still being
asked, a second proxy would spend the same refresh token. New tokens are committed before they are used.

| a proxy that wants another token finds | and then |
|---|---|
| another token, valid for some minutes | uses that one |
| a refusal of this refresh token | says so, without asking again |
| no mark, or its own | marks the row, and asks the token endpoint |
| a mark of another proxy | waits, and looks again |
| a mark whose time is over | takes its place if nothing happens for `WATCHED` seconds: the other may just be back |

A login is lost only if the proxy ends between the token endpoint's answer and the commit: some milliseconds, or as
long as the database is out of reach just then. Until it is back the proxy serves with the new token from memory.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from codexpool.common import tasks
from codexpool.common.private_files import UnusableError
from codexpool.credentials import Credential, NoTokenAnyMoreError, NoTokenNowError, Renewal, UnusableTokenError
from codexpool.credentials.auth_json import LOG_IN, Login, parse, text_of
from codexpool.credentials.oauth import EARLY, OAuth, rotated
from codexpool.credentials.token_endpoint import PERMANENT, REUSED, TIMEOUT, TokenEndpoint
from codexpool.pool.identity import IdentityKey
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.state_keys import Sealed, StateKeys

logger = logging.getLogger("codexpool")

MARKED_FOR: Final = TIMEOUT + 10.0  # Seconds for which a mark counts: the token endpoint's answer, and the commit.
WATCHED: Final = 5.0  # Seconds for which a proxy watches a mark whose time is over before it renews the login itself.
LOOK: Final = 0.25  # Seconds between two looks at a login that another proxy renews.
WAIT: Final = MARKED_FOR + WATCHED + 5.0  # Seconds to wait for another proxy that renews the same login.
WRITE_AT_ONCE: Final = 3  # Attempts to write a renewed login before it is used unwritten.
WRITE_PAUSES: Final = (0.2, 1.0)  # Seconds between these attempts, and later ones: shorter than `WATCHED`.


class StoredLogin(NamedTuple):
    """A login as the state has it.

    ``generation`` grows with each change. ``refusal`` is the token endpoint's final code about its refresh token.
    """

    sealed: Sealed
    generation: int
    refusal: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it was removed."""
        return not self.sealed.content


class Claim(NamedTuple):
    """The login that a proxy found, and whether it may renew it. ``over`` is a mark whose time is over."""

    stored: StoredLogin
    is_ours: bool = False
    over: str = ""


class Logins(Protocol):
    """The logins in the state. All methods but ``latest`` block, and raise NoTokenNowError if it is out of reach.

    They return None for a login that the state does not have.
    """

    def keys(self) -> StateKeys:
        """Return the keys that encrypt logins. Raises UnusableError."""

    def latest(self, key: IdentityKey) -> StoredLogin | None:
        """Return the login as it was last heard of, without asking the state."""

    def claim(self, key: IdentityKey, mark: str, wants: Callable[[StoredLogin], bool], over: str) -> Claim | None:
        """Return the login, and mark it for `MARKED_FOR` seconds if ``wants`` says so and no other proxy has.

        ``over`` is a mark that may be replaced if its time is over.
        """

    def put(self, key: IdentityKey, sealed: Sealed, generation: int) -> StoredLogin | None:
        """Replace the login of this generation, and remove any mark. Return the login that is there now."""

    def refuse(self, key: IdentityKey, generation: int, code: str) -> StoredLogin | None:
        """Store a final refusal of the login of this generation, and remove any mark. Return the present login."""

    def release(self, key: IdentityKey, mark: str) -> None:
        """Remove a mark: the login was not renewed."""


class SharedLogin(OAuth):
    """The login of an account and user in the state; ``stored`` was just read, and ``login`` is what it says."""

    def __init__(
        self, key: IdentityKey, stored: StoredLogin, login: Login, logins: Logins, endpoint: TokenEndpoint
    ) -> None:
        super().__init__(login)
        self.key = key
        self._generation = stored.generation
        self._logins = logins
        self._endpoint = endpoint
        self._keys = StateKeys()  # Those of the present renewal: they are read before anything is spent.
        self._mark = uuid.uuid4().hex
        self._renewing = threading.Lock()
        self._writing = threading.Lock()
        self._unwritten: tuple[Login, Sealed, int] | None = None  # A renewed login, and the generation it replaces.

    def after(self, before: Credential | None) -> Credential:
        if not isinstance(before, SharedLogin) or before.key != self.key:
            return self
        if before._generation < self._generation:
            before._take(self._generation, self.login)
        return before

    @property
    def has_news(self) -> bool:
        """Whether the state has a newer login, as far as was heard."""
        latest = self._logins.latest(self.key)
        return latest is not None and latest.generation > self._generation

    def _take(self, generation: int, login: Login) -> None:
        if not login.expires_within(0, time.time()):
            self._renewed_at = time.time()  # Short-lived tokens are not due at once, whichever proxy renewed them.
        self._generation, self.login = generation, login

    def _renew(self, stale: Bearer | None, refused: bool) -> tuple[Login, Renewal]:
        with self._renewing:
            self._read_keys()
            if not self._write():
                raise NoTokenNowError("its renewed login cannot be written to the state yet")
            latest = self._logins.latest(self.key)
            if latest is not None and latest.generation > self._generation:
                login = self._opened(latest)
                is_due = refused or login.expires_within(EARLY, time.time())
                if self._serves_instead(login, stale) or not is_due:
                    return self._found(latest, login)
            claim, login = self._claimed(stale)
            if claim.is_ours:
                return self._renewed_here(claim.stored, login, refused)
            if claim.stored.refusal and not self._serves_instead(login, stale):
                code = claim.stored.refusal
                raise NoTokenAnyMoreError(code, PERMANENT.get(code, "its refresh token was refused"))
            return self._found(claim.stored, login)

    def _claimed(self, stale: Bearer | None) -> tuple[Claim, Login]:
        """Wait until the login serves, may be renewed here, or was refused for good."""

        def wants(stored: StoredLogin) -> bool:
            return not stored.refusal and not self._serves_instead(self._opened(stored), stale)

        over, since, until = "", 0.0, time.monotonic() + WAIT
        while time.monotonic() < until and threading.main_thread().is_alive():  # The process may end meanwhile.
            is_watched = bool(over) and time.monotonic() - since >= WATCHED
            claim = self._logins.claim(self.key, self._mark, wants, over if is_watched else "")
            if claim is None:
                raise NoTokenNowError(f"{missing(self.key).what}; {missing(self.key).remedy}")
            if claim.is_ours or not wants(claim.stored):
                return claim, self._opened(claim.stored)
            if claim.over != over:
                over, since = claim.over, time.monotonic()
            time.sleep(LOOK)
        raise NoTokenNowError("another proxy is renewing its login")

    def _found(self, stored: StoredLogin, login: Login) -> tuple[Login, Renewal]:
        self._take(stored.generation, login)
        return login, Renewal(login.access, issued=False)

    def _renewed_here(self, stored: StoredLogin, login: Login, refused: bool) -> tuple[Login, Renewal]:
        try:
            fresh, unusable = rotated(login, self._endpoint.renew(login.refresh_token, refused), time.time())
        except NoTokenAnyMoreError as error:
            return self._refused(stored, error)
        except BaseException:
            self._release()
            raise
        self._put(fresh, stored.generation)
        if self.login is not fresh:  # A person has logged in meanwhile: that login counts.
            return self.login, Renewal(self.login.access, issued=False)
        if unusable:
            raise UnusableTokenError(unusable)
        renewal = Renewal(fresh.access, issued=refused)
        return fresh, renewal if fresh.key == login.key else renewal._replace(previous_owner=login.key)

    def _refused(self, stored: StoredLogin, error: NoTokenAnyMoreError) -> tuple[Login, Renewal]:
        try:
            present = self._logins.refuse(self.key, stored.generation, error.code)
        except NoTokenNowError:
            present = None
        if present is not None and present.generation != stored.generation:
            return self._found(present, self._opened(present))  # A person has logged in, or it was written late.
        if error.code == REUSED:
            text = f"{error}. It has two owners: a Codex client or an auth.json has the login that is in the state"
            raise NoTokenAnyMoreError(error.code, text) from None
        raise error

    def _put(self, fresh: Login, generation: int) -> None:
        """Write a renewed login. If that is impossible now, it serves from memory, and a thread goes on."""
        sealed = self._keys.seal(text_of(fresh.document), self.key)
        self._unwritten = (fresh, sealed, generation)
        for pause in itertools.islice(tasks.growing_pauses(*WRITE_PAUSES), WRITE_AT_ONCE):
            if self._write():
                return
            time.sleep(pause)
        message = (
            "the renewed login of account %s cannot be written to the state; retrying. If the proxy ends before, "
        )
        logger.error(message + "log in again", self.key.account_id)
        self._take(generation, fresh)
        threading.Thread(target=self._write_again, name="codexpool-login", daemon=True).start()

    def _write(self) -> bool:
        """Write what is unwritten, unless a person has logged in meanwhile. Return whether nothing is left."""
        with self._writing:
            if self._unwritten is None:
                return True
            fresh, sealed, generation = self._unwritten
            try:
                present = self._logins.put(self.key, sealed, generation)
            except NoTokenNowError:
                return False
            self._unwritten = None
            if present is None or present.sealed == sealed:
                self._take(generation + 1, fresh)
            else:
                self._take(present.generation, self._opened(present))
            return True

    def _write_again(self) -> None:
        with contextlib.suppress(NoTokenNowError):  # A person has logged in, with a key that this proxy lacks.
            for pause in tasks.growing_pauses(*WRITE_PAUSES):
                time.sleep(pause)
                if self._write():
                    logger.info("the renewed login of account %s is written to the state", self.key.account_id)
                    return

    def _release(self) -> None:
        with contextlib.suppress(NoTokenNowError):  # The mark ends by itself.
            self._logins.release(self.key, self._mark)

    def _read_keys(self) -> None:
        try:
            self._keys = self._logins.keys()
        except UnusableError as error:
            raise NoTokenNowError(f"its login in the state cannot be read: {error.what}; {error.remedy}") from None

    def _opened(self, stored: StoredLogin) -> Login:
        try:
            return opened(self.key, stored, self._keys)
        except UnusableError as error:
            raise NoTokenNowError(f"its login in the state {error.what}; {error.remedy}") from None


def shared_login(key: IdentityKey, logins: Logins, endpoint: TokenEndpoint) -> SharedLogin:
    """Return the credential of an account and user. Raises UnusableError."""
    stored = logins.latest(key)
    if stored is None:
        raise missing(key)
    try:
        keys = logins.keys()
    except UnusableError as error:
        raise UnusableError(f"its login in the state cannot be read: {error.what}", error.remedy) from None
    try:
        login = opened(key, stored, keys)
    except UnusableError as error:
        raise UnusableError(f"its login in the state {error.what}", error.remedy) from None
    return SharedLogin(key, stored, login, logins, endpoint)


def missing(key: IdentityKey) -> UnusableError:
    what = f"the state has no login of account {key.account_id} and user {key.user_id}"
    return UnusableError(what, "put one there: codexpool login NAME --shared")


def opened(key: IdentityKey, stored: StoredLogin, keys: StateKeys) -> Login:
    """Decrypt a login. Raises UnusableError."""
    login = parse(keys.open(stored.sealed, key))
    if not isinstance(login, Login):
        raise UnusableError("is not a login", LOG_IN)
    return login
