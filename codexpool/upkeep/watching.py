"""pool.toml, the files it names and the keyring, followed while the proxy runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from codexpool.common import tasks
from codexpool.config.keyrings import CachedKeyring
from codexpool.config.model import ConfigError, FromKeyring, PoolConfig
from codexpool.config.read import load
from codexpool.config.sources import Resolved, Sources, resolve
from codexpool.config.watch import Watcher
from codexpool.credentials.token_endpoint import TokenEndpoint

logger = logging.getLogger("codexpool")

POLL = 1.0
"""Seconds between two looks at pool.toml and the files it names."""

KEYRING_POLL = 10.0
"""Seconds between two looks at a keyring, which may cost a person a password."""


class Reloader:
    """Calls ``follow`` with a configuration and its credentials whenever either has changed."""

    def __init__(
        self,
        environ: Mapping[str, str],
        endpoint: TokenEndpoint,
        follow: Callable[[PoolConfig, Resolved], None],
    ) -> None:
        self._keyring = CachedKeyring()
        self._sources = Sources(environ, endpoint, self._keyring)
        self._follow = follow
        self._one_at_a_time = asyncio.Lock()

    def at_once(self, config: PoolConfig) -> Resolved:
        """The credentials as far as they can be had without waiting for anybody; the others are pending."""
        return resolve(config, self._sources)

    async def files(self, watcher: Watcher, current: Callable[[], PoolConfig | None]) -> None:
        """Follow the files that are watched. ``current`` is the configuration in force."""
        while True:
            await asyncio.sleep(POLL)
            before = current()
            if before is None or not await tasks.in_thread(watcher.changed):
                continue
            async with self._one_at_a_time:
                try:
                    config = await tasks.in_thread(load, before.path)
                except ConfigError as error:
                    for problem in error.problems:
                        logger.error("%s", problem)
                    logger.error("%s does not hold: what it said before stays in force", before.path)
                    await self._take_over(before)  # The files that it names may have changed all the same.
                    continue
                if _without_flags(config) != _without_flags(before):
                    logger.info("%s has changed and is in force", config.path)
                await tasks.in_thread(watcher.watch, config.files)
                await self._take_over(config)

    async def keyring(self, current: Callable[[], PoolConfig | None]) -> None:
        """Follow the keyring, as far as the configuration in force uses it."""
        while True:
            wanted = _in_keyring(current())
            has_changed = bool(wanted) and await tasks.in_thread(self._keyring.read, tuple(wanted), daemon=True)
            if has_changed:
                async with self._one_at_a_time:
                    if (config := current()) is not None:
                        await self._take_over(config)
            waited = 0.0
            while waited < KEYRING_POLL and wanted == _in_keyring(current()):
                await asyncio.sleep(POLL)
                waited += POLL

    async def _take_over(self, config: PoolConfig) -> None:
        try:
            self._follow(config, await tasks.in_thread(resolve, config, self._sources))
        except Exception:  # A bug of ours; what is followed has to be followed on.
            logger.exception("%s could not be taken over", config.path)


def _in_keyring(config: PoolConfig | None) -> list[tuple[str, str]]:
    identities = config.identities if config is not None else ()
    return [(i.source.service, i.name) for i in identities if isinstance(i.source, FromKeyring)]


def _without_flags(config: PoolConfig) -> PoolConfig:
    """What a person has said: a flag that we have written ourselves is no news."""
    return replace(config, identities=tuple(replace(spec, flag=None) for spec in config.identities))
