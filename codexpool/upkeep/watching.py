"""Reloads pool.toml, the files it names and the keyring when they change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from codexpool.common import tasks
from codexpool.config.files import Watcher
from codexpool.config.model import ConfigError, FromKeyring, PoolConfig
from codexpool.config.read import load_or_empty
from codexpool.config.sources import CachedKeyring, Resolved, Sources, resolve

logger = logging.getLogger("codexpool")

POLL = 1.0  # Seconds between two checks of pool.toml and the files it names.
SETTLE = 0.2  # Seconds without a change after which a file counts as saved: editors empty or remove it first.
SETTLES = 3  # Such pauses at most.
DOUBT = 0.4  # Seconds after which a pool.toml that lost all its identities is read again: it may be half written.
KEYRING_POLL = 10.0  # Seconds between two reads of a keyring, which may ask a person for a password.


async def settled(watcher: Watcher) -> None:
    """Wait until the files have not changed for a moment."""
    for _ in range(SETTLES):
        await asyncio.sleep(SETTLE)
        if not await tasks.in_thread(watcher.changed):
            return


class PoolFile(NamedTuple):
    """The pool.toml in use, and when it was read (unix seconds; None: never, because it is not valid yet).

    ``problem`` says why it is not used as it is now.
    """

    path: Path
    read_at: float | None
    is_missing: bool = False
    problem: str = ""


class Reloader:
    """Calls ``follow`` with the configuration and its credentials after each change."""

    def __init__(
        self,
        config: PoolConfig,
        sources: Sources,
        follow: Callable[[PoolConfig, Resolved], None],
    ) -> None:
        self._config = config
        self._keyring = CachedKeyring()
        self._sources = sources._replace(keyring=self._keyring)
        self._follow = follow
        self._lock = asyncio.Lock()  # One reload at a time.
        self.file = PoolFile(config.path, time.time(), config.is_missing)

    def load_now(self) -> None:
        """Follow the first configuration. Credentials from a keyring are still pending then."""
        self._follow(self._config, resolve(self._config, self._sources))

    async def reload(self) -> None:
        """Follow the present configuration again: the credentials that it names may have changed."""
        async with self._lock:
            await self._reload(self._config)

    async def watch_files(self, watcher: Watcher) -> None:
        while True:
            await asyncio.sleep(POLL)
            if await tasks.in_thread(watcher.changed):
                await settled(watcher)
                async with self._lock:
                    await self._follow_file(watcher)

    async def _follow_file(self, watcher: Watcher) -> None:
        before = self._config
        try:
            config = await self._read()
        except ConfigError as error:
            for problem in error.problems:
                logger.error("%s", problem)
            logger.error("%s is invalid; keeping the previous configuration", before.path)
            self.file = self.file._replace(problem=f"it is invalid: {error.problems[0]}")
            await self._reload(before)  # The files that it names may have changed all the same.
            return
        self.file = PoolFile(config.path, time.time(), config.is_missing)
        if config.is_missing and not before.is_missing:
            logger.error("%s is gone, so no identity serves. To go on, restore it", config.path)
        elif _without_flags(config) != _without_flags(before):
            logger.info("%s was reloaded", config.path)
        if before.identities and not (config.identities or config.is_missing):
            logger.warning("%s has no identities any more, so none serves: codexpool add NAME", config.path)
        await tasks.in_thread(watcher.watch, config.files)
        await self._reload(config)

    async def _read(self) -> PoolConfig:
        """Read pool.toml; if it is gone, return the same pool without identities. Raises ConfigError."""
        before = self._config
        config = await tasks.in_thread(load_or_empty, before.path)
        if before.identities and not config.identities:
            await asyncio.sleep(DOUBT)
            config = await tasks.in_thread(load_or_empty, before.path)
        return replace(before, identities=(), is_missing=True) if config.is_missing else config

    async def watch_keyring(self) -> None:
        """Reload when the keyring's secrets for the present configuration change."""
        while True:
            wanted = self._in_keyring()
            if bool(wanted) and await tasks.in_thread(self._keyring.read, tuple(wanted), daemon=True):
                async with self._lock:
                    await self._reload(self._config)
            waited = 0.0
            while waited < KEYRING_POLL and wanted == self._in_keyring():
                await asyncio.sleep(POLL)
                waited += POLL

    async def _reload(self, config: PoolConfig) -> None:
        self._config = config
        try:
            self._follow(config, await tasks.in_thread(resolve, config, self._sources))
        except Exception:  # A bug of ours must not end the watching.
            logger.exception("reloading %s failed; parts of it may be in use: restart the proxy", config.path)

    def _in_keyring(self) -> list[tuple[str, str]]:
        sources = [(identity.source, identity.name) for identity in self._config.identities]
        return [(source.service, name) for source, name in sources if isinstance(source, FromKeyring)]


def _without_flags(config: PoolConfig) -> PoolConfig:
    """Return what a person wrote: our own flags are no news."""
    return replace(config, identities=tuple(replace(spec, flag=None) for spec in config.identities))
