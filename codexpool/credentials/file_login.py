"""A login in an ``auth.json``: renewed under a lock of its file, and written before it is used.

A refresh token that two programs use is burnt. So it is spent under a lock that works across processes, and only if
the file still has it; a login that another program has renewed meanwhile is taken from the file. New tokens are on
the disk before anything uses them. A killed process loses a login only between the server's answer and the renaming
of a file that was prepared before the server was asked: some milliseconds.

| the answer has | the file | the login |
|---|---|---|
| tokens of the same account and user | gets them | serves with them |
| an unusable access token, and a new refresh token | gets the new refresh token | waits: the next try spends it |
| an unusable access token, and no new refresh token | stays | waits for the next try |
| tokens of another account or user | gets them; the old file is kept beside it | see `Renewal.previous_owner` |
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

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
from codexpool.credentials.oauth import OAuth, rotated
from codexpool.credentials.token_endpoint import REUSED, TIMEOUT, TokenEndpoint
from codexpool.tokens.bearer import Bearer

logger = logging.getLogger("codexpool")

WRITE_PAUSES: Final = (1.0, 60.0)  # Seconds between two attempts to write a login after a disk error.
LOCK_TIMEOUT: Final = TIMEOUT + 10.0  # Seconds to wait for another process that renews the same login.


class FileLogin(OAuth):
    """A login in an ``auth.json`` that only the pool uses; ``login`` was just read from the file at ``path``."""

    def __init__(self, path: Path, login: Login, endpoint: TokenEndpoint) -> None:
        super().__init__(login)
        self.path = path
        self._endpoint = endpoint
        self._in_file = login.access.fingerprint
        self._in_file_at = time.monotonic()
        self._unwritten: Login | None = None  # A renewed login that could not be written yet.
        self._writes_again = False  # Whether a thread is trying to write it.

    def after(self, before: Credential | None) -> Credential:
        if not isinstance(before, FileLogin) or before.path != self.path:
            return self
        if before._in_file != self._in_file and before._in_file_at < self._in_file_at:
            before.login = self.login  # Another program has changed the file.
            before._file_has(self.login)
        return before

    def _file_has(self, login: Login) -> None:
        self._in_file, self._in_file_at, self._unwritten = login.access.fingerprint, time.monotonic(), None

    def _renew(self, stale: Bearer | None, refused: bool) -> tuple[Login, Renewal]:
        with ExitStack() as stack:
            try:
                real = self.path.resolve(strict=True)
                stack.enter_context(locked(real, LOCK_TIMEOUT))
            except (OSError, RuntimeError, NotImplementedError) as error:
                raise NoTokenNowError(f"{self.path} cannot be locked: {_reason(error)}") from error
            login, text = self._read()
            if self._serves_instead(login, stale):
                return login, Renewal(login.access, issued=False)
            try:
                new = stack.enter_context(Replacement(real))
            except OSError as error:
                # Asking now would spend the refresh token, and the new one would be lost.
                raise NoTokenNowError(f"{self.path} cannot be written: {_reason(error)}") from error
            answer = self._answer(login, refused)
            present = self._read_again()
            if present is not None and present.refresh_token != login.refresh_token:
                # A person has logged in meanwhile, without a lock: that login counts.
                return present, Renewal(present.access, issued=False)
            return self._store(new, present or login, text, answer, refused)

    def _read(self) -> tuple[Login, str]:
        try:
            text = read_private(self.path)
            login = auth_json.parse(text)
        except UnusableError as error:
            raise NoTokenNowError(f"{self.path} {error.what}; {error.remedy}") from None
        if not isinstance(login, Login):
            self._unwritten = None
            what = "a personal access token" if isinstance(login, Bearer) else "an agent identity"
            raise NoTokenNowError(f"{self.path} has {what} now")
        if self._unwritten is not None and self._in_file == login.access.fingerprint:
            return self._unwritten, text
        self._file_has(login)
        return login, text

    def _read_again(self) -> Login | None:
        """Return the login that the file has after the backend was asked, or None if that is unusable or older."""
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

    def _store(
        self, new: Replacement, login: Login, text: str, answer: dict[str, object], refused: bool
    ) -> tuple[Login, Renewal]:
        fresh, unusable = rotated(login, answer, time.time())
        if unusable:
            self._put(new, fresh)
            raise UnusableTokenError(unusable)
        renewal = Renewal(fresh.access, issued=refused)
        if fresh.key != login.key:
            renewal = renewal._replace(previous_owner=login.key, backup=self._back_up(text))
        self._put(new, fresh)
        self._renewed_at = time.time()
        return fresh, renewal

    def _put(self, new: Replacement, login: Login) -> None:
        try:
            new.put(auth_json.text_of(login.document).encode())
        except OSError as error:
            message = "%s cannot be written (%s); retrying. If the proxy ends before, log in again"
            logger.error(message, self.path, _reason(error))
            self._unwritten = login
            if not self._writes_again:
                self._writes_again = True
                threading.Thread(target=self._write_again, name="codexpool-login", daemon=True).start()
        else:
            self._file_has(login)

    def _write_again(self) -> None:
        """Write the renewed login as soon as possible; stop if a newer login is written or the file is replaced."""
        pauses = tasks.growing_pauses(*WRITE_PAUSES)
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
                        logger.info("%s is written again", self.path)
            except FileNotFoundError:
                break
            except (OSError, RuntimeError, NotImplementedError, NoTokenNowError):
                continue
        self._writes_again = False

    def _back_up(self, text: str) -> str:
        try:
            path = keep_beside(self.path.resolve(), text.encode())
        except (OSError, RuntimeError) as error:
            return f"the previous {self.path.name} could not be kept ({_reason(error)})"
        return f"the previous {self.path.name} is kept in {path}"


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
