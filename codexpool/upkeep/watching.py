"""Reloads pool.toml, the files it names and the keyring when they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from codexpool.common import tasks
from codexpool.config.files import Watcher
from codexpool.config.model import ConfigError, FromKeyring, PoolConfig
from codexpool.config.read import load
from codexpool.config.sources import CachedKeyring, Resolved, Sources, resolve

logger = logging.getLogger("codexpool")

POLL = 1.0  # Seconds between two checks of pool.toml and the files it names.
KEYRING_POLL = 10.0  # Seconds between two reads of a keyring, which may ask a person for a password.


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
            if not await tasks.in_thread(watcher.changed):
                continue
            async with self._lock:
                before = self._config
                try:
                    config = await tasks.in_thread(load, before.path)
                except ConfigError as error:
                    for problem in error.problems:
                        logger.error("%s", problem)
                    logger.error("%s is invalid; keeping the previous configuration", before.path)
                    await self._reload(before)  # The files that it names may have changed all the same.
                    continue
                if _without_flags(config) != _without_flags(before):
                    logger.info("%s was reloaded", config.path)
                await tasks.in_thread(watcher.watch, config.files)
                await self._reload(config)

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
