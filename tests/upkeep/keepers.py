"""A keeper on files, with a backend that is made up: for tests of what it writes, and of what it waits for."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from codexpool.config.files import Watcher
from codexpool.config.model import Flag
from codexpool.config.read import load, load_or_empty
from codexpool.credentials.account_api import UnreadError
from codexpool.credentials.authapi import Whoami
from codexpool.credentials.http_client import Route
from codexpool.pool.identity import Condition, Evidence, Identity, IdentityKey, Metadata, Status, Word
from codexpool.protocol.usage_report import UsageReport
from codexpool.state import State
from codexpool.tokens.bearer import Bearer, fingerprint
from codexpool.upkeep import keeper as keeper_module
from codexpool.upkeep.keeper import Keeper, Listener

DEAD: set[str] = set()
"""Fingerprints of tokens that the backend refuses."""


class Unheard:
    """A listener that ignores all changes."""

    def changed(self, keeper: Keeper) -> None: ...

    def status_changed(self, identity: Identity, before: Condition) -> None: ...

    def identities_renamed(self, names: Mapping[str, str]) -> None: ...

    def breaker_changed(self, is_open: bool, text: str) -> None: ...

    def session_count(self) -> int:
        return 0

    def sessions_moved(self, moved: Mapping[str, IdentityKey]) -> None: ...


class Alone:
    """No other proxy has the same state."""

    async def is_to_ask(self, question: str) -> bool:
        return True

    async def news(self) -> None: ...


class Backend:
    """Says of each token whether it is good, and whose it is: `token_of` has the name in it. Takes ``seconds``."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked: list[str] = []
        self.seconds = seconds

    async def whoami(self, bearer: Bearer) -> Whoami:
        name = bearer.token.split("-")[2]
        self.asked.append(name)
        answer = Whoami(
            Word.HEALTHY,
            Evidence(time.time(), "GET", "whoami", 200, fingerprint=bearer.fingerprint),
            Metadata(f"acc-{name}", f"user-{name}", "business"),
        )
        if bearer.fingerprint in DEAD:
            answer = Whoami(Word.REFUSED, _refusal("whoami", bearer.fingerprint))
        await asyncio.sleep(self.seconds)
        return answer

    async def routing(self, bearer: Bearer, metadata: Metadata) -> Metadata:
        return metadata


class Accounts:
    """Says of each account what ``told`` has for it: a report, or that it cannot be reached. Otherwise no limits."""

    def __init__(self) -> None:
        self.told: dict[str, UsageReport | UnreadError] = {}
        self.asked: list[str] = []

    async def models(self, *_: object) -> None:
        raise UnreadError("codex/models answers 500")

    async def usage(self, bearer: Bearer, metadata: Metadata) -> UsageReport:
        self.asked.append(metadata.account_id)
        report = self.told.get(metadata.account_id, UsageReport(()))
        if isinstance(report, UnreadError):
            raise report
        return report


def token_of(name: str, version: int = 1) -> str:
    return f"at-test-{name}-{version}-0123456789abcdef0123456789"


def write_pool(folder: Path, *names: str, version: int = 1) -> Path:
    """A pool.toml with a PAT for each name, written as an editor does that knows of no lock."""
    path, new = folder / "pool.toml", folder / "pool.editor"
    new.touch(mode=0o600)
    new.write_text("".join(f'[[identity]]\nname = "{n}"\ntoken = "{token_of(n, version)}"\n\n' for n in names))
    new.replace(path)
    return path


@contextmanager
def keeper_of(
    path: Path,
    open_state: Callable[[], State],
    accounts: Accounts | None = None,
    listener: Listener | None = None,
    backend: Backend | None = None,
    scope: Callable[[Path], str] = str,
) -> Iterator[Keeper]:
    """A keeper that has begun, within an event loop."""
    DEAD.clear()
    with (
        mock.patch.object(keeper_module, "AuthApi", return_value=backend or Backend()),
        mock.patch.object(keeper_module, "AccountApi", return_value=accounts or Accounts()),
    ):
        keeper = Keeper(load_or_empty(path), open_state, os.environ, Route(), listener or Unheard(), scope)
        keeper.start(Watcher([path]))
        try:
            yield keeper
        finally:
            keeper.stop()


def condemn(keeper: Keeper, name: str) -> None:
    """A request has refused the identity's token, and whoami as well."""
    present = fingerprint(token_of(name))
    DEAD.add(present)
    refuse(keeper, name)
    keeper.pool.states.whoami_said(name, Word.REFUSED, _refusal("whoami", present))


def refuse(keeper: Keeper, name: str, version: int = 1) -> None:
    """A request that was sent just now has refused the identity's token."""
    refusal = _refusal("/backend-api/codex/responses", fingerprint(token_of(name, version)))
    keeper.pool.states.refused(name, refusal, refusal.at)


def _refusal(path: str, fingerprint: str) -> Evidence:
    return Evidence(time.time(), "GET", path, 401, "token_revoked", fingerprint=fingerprint)


def flags(path: Path) -> dict[str, Flag]:
    """The flags that a pool.toml has."""
    return {spec.name: spec.flag for spec in load(path).identities if spec.flag is not None}


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_ready(keeper: Keeper) -> None:
    await until(lambda: {i.status for i in keeper.pool.identities.values()} == {Status.READY})


def said(records: list[logging.LogRecord], text: str) -> list[str]:
    """The lines of the log that have a text in them."""
    return [record.getMessage() for record in records if text in record.getMessage()]
