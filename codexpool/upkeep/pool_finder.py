"""Notices that another pool.toml is to be used: the first one, or one in a place that is looked at before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from codexpool.common import tasks
from codexpool.config.files import Places, Watcher
from codexpool.config.model import ConfigError, PoolConfig
from codexpool.config.read import load
from codexpool.upkeep.watching import POLL, settled

logger = logging.getLogger("codexpool")


class PoolFinder:
    """Calls ``use`` with the pool.toml that a restart would use, if it is valid and not the one ``in_use``.

    ``use`` raises ValueError if this proxy cannot serve that pool. A file that is not valid changes nothing, and is
    reported once. Whether the file in use itself changes or is gone is left to `codexpool.upkeep.watching`.
    """

    def __init__(
        self,
        places: Callable[[], Places],
        in_use: Callable[[], Path | None],
        use: Callable[[PoolConfig, Watcher], None],
    ) -> None:
        self.problem = ""  # Why the file that was found is not used.
        self.rejected: Path | None = None  # That file.
        self._places = places
        self._in_use = in_use
        self._use = use
        self._rejected = Watcher([])  # The file that was found last and is not used, as it was then.

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            try:
                await self._look()
            except Exception:  # A bug of ours must not end the watching.
                logger.exception("looking for pool.toml failed; retrying")

    async def _look(self) -> None:
        used = self._in_use()
        path = await tasks.in_thread(self._places().find, used)
        if path is None or path == used:
            self.problem, self.rejected, self._rejected = "", None, Watcher([])
            return
        if path in self._rejected and not await tasks.in_thread(self._rejected.changed):
            return
        watcher = Watcher([path])  # Before it is read: no change is missed.
        await settled(watcher)
        try:
            config = await tasks.in_thread(load, path)
            if self._in_use() == used:
                self._use(config, watcher)
                logger.info("%s is used from now on", path)
        except (ConfigError, ValueError) as error:
            stays = f"{used} stays in use" if used is not None else "there is still no pool"
            self.problem = f"{path} cannot be used, so {stays}: {str(error).splitlines()[0]}"
            logger.error("%s", self.problem)
            self.rejected, self._rejected = path, watcher
