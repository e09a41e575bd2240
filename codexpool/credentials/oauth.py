"""OAuth logins: an access token that is renewed with a refresh token, which can be used once.

Two who use one refresh token burn it. So it is used under a lock that holds across processes, and only if the file
still has it: what somebody else has renewed meanwhile is taken over. The new tokens are on the disk before anybody
is told. A process that is killed loses a login only if that happens between the server's answer and the renaming
of a file that was prepared before the server was asked: some milliseconds, in a thread that waits for nothing else.

| the answer gives | the file | the login |
|---|---|---|
| tokens of the same account and user | has them | serves with them |
| an unusable access token, and a new refresh token | has the new refresh token | waits: the next try spends it |
| an unusable access token, and no new refresh token | stays | waits for the next try |
| tokens of another account or user | has them; the old one is kept beside it | the caller's: `Renewal.was` |
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from codexpool.common import tasks
from codexpool.common.atomic_replace import Replacement, keep_beside, locked
from codexpool.common.private_files import UnusableError, read_private
from codexpool.credentials import (
    Credential,
    NoTokenAnyMoreError,
    NoTokenNowError,
    Renewal,
    UnusableTokenError,
    auth_json,
)
from codexpool.credentials.auth_json import Login
from codexpool.credentials.token_endpoint import REUSED, TIMEOUT, TokenEndpoint
from codexpool.pool.identity import IdentityKey, Kind
from codexpool.tokens.bearer import Bearer

logger = logging.getLogger("codexpool")

EARLY: Final = 300.0
"""Seconds before its end at which an access token is renewed, as in Codex."""

JITTER: Final = 60.0
"""Seconds more, by chance: proxies that share a machine do not all ask in the same second."""

FLOOR: Final = 60.0
"""Seconds between two renewals that no refusal asks for: tokens may be short-lived, and clocks be wrong."""

WRITTEN_AGAIN: Final = (1.0, 60.0)
"""Seconds between two attempts to write a renewed login that the disk did not take: at first, and at most."""

LOCK_TIMEOUT: Final = TIMEOUT + 10.0
"""Seconds to wait for another process that renews the same login."""


class OAuth:
    """A login in an ``auth.json`` that is the pool's own."""

    kind = Kind.OAUTH

    def __init__(self, path: Path, login: Login, endpoint: TokenEndpoint) -> None:
        """``login`` is what the file at ``path`` had a moment ago."""
        self.path = path
        self.login = login
        self._endpoint = endpoint
        self._in_file = login.access.fingerprint
        self._in_file_at = time.monotonic()
        self._unwritten: Login | None = None
        """A renewed login that the disk did not take."""
        self._writes_again = False
        """Whether a thread tries to write that one."""
        self._renewed_at = 0.0
        self._early = EARLY + random.uniform(0, JITTER)

    def bearer(self) -> Bearer:
        """The access token as the file has it."""
        return self.login.access

    def due_at(self) -> float | None:
        """Five minutes before the access token's end, but not at once after it was made."""
        if self.login.expires_at is None:
            return None
        return max(self.login.expires_at - self._early, self._renewed_at + FLOOR)

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        """The token on the disk if that is another one, else one that the refresh token gives.

        Raises NoTokenNowError; UnusableTokenError where the next try has another refresh token to spend;
        NoTokenAnyMoreError where the refresh token is worth nothing any more.
        """
        # A thread of its own, which goes on if nobody waits any more: a renewal that has begun is to be written.
        renewed = await asyncio.shield(tasks.in_thread(self._renew, stale, refused))
        self.login = renewed.login
        if renewed.is_new:
            self._renewed_at = time.time()
        return Renewal(self.login.access, renewed.is_new and refused, renewed.was, renewed.kept)

    def is_over(self, at: float) -> bool:
        """Whether the access token has expired; one that was just made has not, whatever our clock says."""
        return self.login.expires_within(0, at) and not self._renewed_at <= at < self._renewed_at + FLOOR

    def after(self, before: Credential | None) -> Credential:
        """The one in use, with what the file has if that was changed by somebody else."""
        if not isinstance(before, OAuth) or before.path != self.path:
            return self
        if before._in_file != self._in_file and before._in_file_at < self._in_file_at:
            before.login = self.login
            before._file_has(self.login)
        return before

    def _file_has(self, login: Login) -> None:
        self._in_file, self._in_file_at, self._unwritten = login.access.fingerprint, time.monotonic(), None

    def _renew(self, stale: Bearer | None, refused: bool) -> _Renewed:
        with ExitStack() as stack:
            try:
                real = self.path.resolve(strict=True)
                stack.enter_context(locked(real, LOCK_TIMEOUT))
            except (OSError, RuntimeError, NotImplementedError) as error:
                raise NoTokenNowError(f"{self.path} cannot be locked: {_reason(error)}") from error
            login, text = self._read()
            if login.access != stale and not login.expires_within(EARLY, time.time()):
                return _Renewed(login)
            try:
                new = stack.enter_context(Replacement(real))
            except OSError as error:
                # Asking now would spend the refresh token, and the new one could not be kept.
                raise NoTokenNowError(f"{self.path} cannot be written: {_reason(error)}") from error
            answer = self._answer(login, refused)
            theirs = self._read_again(login)
            if theirs is not None and theirs.refresh_token != login.refresh_token:
                return _Renewed(theirs)  # A person has logged in meanwhile, without a lock: that login counts.
            return self._written(new, theirs or login, text, answer)

    def _read(self) -> tuple[Login, str]:
        """The login to be renewed, and the text of the file."""
        try:
            text = read_private(self.path)
            login = auth_json.parse(text)
        except UnusableError as error:
            raise NoTokenNowError(f"{self.path} {error.what}; {error.remedy}") from None
        if isinstance(login, Bearer):
            self._unwritten = None
            raise NoTokenNowError(f"{self.path} holds a personal access token now")
        if self._unwritten is not None and self._in_file == login.access.fingerprint:
            return self._unwritten, text
        self._file_has(login)
        return login, text

    def _read_again(self, login: Login) -> Login | None:
        """What the file has after the backend was asked; None where that is nothing to go by."""
        if self._unwritten is not None:
            return None
        try:
            present = auth_json.parse(read_private(self.path))
        except UnusableError:
            return None
        return present if isinstance(present, Login) else None

    def _answer(self, login: Login, refused: bool) -> dict[str, object]:
        try:
            return self._endpoint.renew(login.refresh_token, refused)
        except NoTokenAnyMoreError as error:
            if error.code != REUSED:
                raise
            text = f"{error}. {self.path} has two owners: a Codex client or another copy of it renews the same login"
            raise NoTokenAnyMoreError(error.code, text) from None

    def _written(self, new: Replacement, login: Login, text: str, answer: dict[str, object]) -> _Renewed:
        try:
            fresh = auth_json.renewed(login, answer, time.time())
        except UnusableError as error:
            raise self._unusable(new, login, answer, error.what) from None
        if fresh.access == login.access:
            raise self._unusable(new, login, answer, "has no other access token")
        is_the_same = fresh.key == login.key
        kept = "" if is_the_same else self._kept(text)
        self._put(new, fresh)
        return _Renewed(fresh, True) if is_the_same else _Renewed(fresh, True, login.key, kept)

    def _unusable(self, new: Replacement, login: Login, answer: dict[str, object], what: str) -> NoTokenNowError:
        """Tokens have come that make no login. The refresh token among them is the only one there is by now."""
        said = f"the renewed login {what}"
        kept = auth_json.with_refresh_token(login, answer)
        if kept is None:
            return NoTokenNowError(said)
        self._put(new, kept)
        return UnusableTokenError(f"{said}; its new refresh token is kept for the next try")

    def _put(self, new: Replacement, login: Login) -> None:
        try:
            new.put(auth_json.text_of(login.document).encode())
        except OSError as error:
            # It serves for as long as this process lives, and nobody must think that it will be there tomorrow.
            said = "%s could not be written (%s). It is tried again; if the proxy ends before, log in again"
            logger.error(said, self.path, _reason(error))
            self._unwritten = login
            if not self._writes_again:
                self._writes_again = True
                threading.Thread(target=self._write_again, name="codexpool-login", daemon=True).start()
        else:
            self._file_has(login)

    def _write_again(self) -> None:
        """Write the renewed login that the disk did not take, as soon as it can be. For a thread of its own.

        It ends when that is done, or no longer to be done: a newer login was written, or somebody has replaced or
        removed the file.
        """
        pauses = tasks.growing_pauses(*WRITTEN_AGAIN)
        while self._unwritten is not None:
            time.sleep(next(pauses))
            try:
                real = self.path.resolve(strict=True)
                with locked(real, LOCK_TIMEOUT):
                    login, _ = self._read()
                    if login is self._unwritten:
                        with Replacement(real) as new:
                            new.put(auth_json.text_of(login.document).encode())
                        self._file_has(login)
                        logger.info("%s is written now", self.path)
            except FileNotFoundError:
                break
            except (OSError, RuntimeError, NotImplementedError, NoTokenNowError):
                continue
        self._writes_again = False

    def _kept(self, text: str) -> str:
        """Keep what the file has had, and say where."""
        try:
            path = keep_beside(self.path.resolve(), text.encode())
        except (OSError, RuntimeError) as error:
            return f"the {self.path.name} as it was before could not be kept ({_reason(error)})"
        return f"the {self.path.name} as it was before is kept in {path}"


class _Renewed(NamedTuple):
    """What came of a renewal. ``is_new``: it was made just now; ``was`` and ``kept`` as in `Renewal`."""

    login: Login
    is_new: bool = False
    was: IdentityKey = IdentityKey("", "")
    kept: str = ""


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
