"""Whoever wants to see what the proxy does: the history of its requests, the page, the journal, a recording.

All of it looks on. What a request pays for it is that its trace is kept; everything else happens when somebody asks,
or in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx, exceptions, http, version

from codexpool import __version__
from codexpool.common import tasks
from codexpool.common.never_raises import harmless
from codexpool.common.tasks import Tasks
from codexpool.config import PoolConfig
from codexpool.local import running_proxies
from codexpool.pool.identity import Condition, Identity
from codexpool.pool.pool import Pool
from codexpool.proxy.mitm import options as host
from codexpool.state import state_path
from codexpool.traces.events import Event, Kind
from codexpool.traces.history import History
from codexpool.traces.journal import OPTION, Journal
from codexpool.upkeep.keeper import Keeper
from codexpool.web import health, metrics, status
from codexpool.web.pieces import joined
from codexpool.web.site import Site

logger = logging.getLogger("codexpool")

if TYPE_CHECKING:
    from codexpool.recording.recorder import Recorder

RECORDING = frozenset({"codexpool_record", "codexpool_record_all_hosts"})


class Lookout:
    """``pool`` gives the pool of now and its configuration, ``closed`` why requests are refused, if they are.

    ``members`` gives who may use it, and the members as they are at a moment; ``clock_offset`` how far this machine's
    clock is from the backend's, in seconds; ``leaves`` whether the proxy was told to end.
    """

    def __init__(
        self,
        pool: Callable[[], tuple[Pool | None, PoolConfig | None]],
        closed: Callable[[], str],
        secrets: Callable[[], list[str]],
        members: Callable[[float], tuple[str, list[dict[str, Any]]]],
        clock_offset: Callable[[], float | None],
        leaves: Callable[[], bool],
        reloaded: bool,
    ) -> None:
        self.history = History()
        self.site = Site(self.history, self._status, self._metrics, host.is_own_connection, self._unready)
        self.observes = False
        self._reloaded = reloaded
        self._pool = pool
        self._closed = closed
        self._secrets = secrets
        self._members = members
        self._clock_offset = clock_offset
        self._leaves = leaves
        self._journal: Journal | None = None
        self._recorder: Recorder | None = None
        self._tasks = Tasks()
        self._note: Path | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._runs = False
        self._started_at = time.time()

    # -- as the addon lives

    def configure(self, updated: set[str]) -> None:
        """Take over what the options say. Raises OptionsError where a file cannot be written."""
        if updated & RECORDING:
            self._record(ctx.options.codexpool_record)
        if OPTION not in updated:
            return
        path = ctx.options.codexpool_events
        if path:
            try:
                Journal.check(Path(path))
            except ValueError as error:
                self._refuse(str(error))
                path = ""
        self._close_journal()
        if path:
            self._journal = Journal(Path(path))
            self.history.listeners.append(self._journal.write)

    def _refuse(self, reason: str) -> None:
        """A file cannot be written: at the start that is a reason not to, after a reload none to serve nobody."""
        if not self._reloaded:
            raise exceptions.OptionsError(reason)
        logger.error("%s. The proxy goes on without it", reason)

    def attend(self, keeper: Keeper) -> None:
        """Hear of what happens to identities from now on."""
        keeper.on_status = self._status_changed
        keeper.on_breaker = self._breaker_changed

    def running(self) -> None:
        """The proxy serves from now on, or goes on with another pool.toml."""
        if not self._runs:
            self._runs = True
            self._say(Kind.START, f"codexpool {__version__} runs, on {', '.join(self.listens) or 'no address'}")
            self._announcing = self._tasks.spawn(self._announce())

    def done(self) -> None:
        """The proxy ends, or loads the addon anew."""
        self._tasks.stop()
        self._say(Kind.STOP, "codexpool ends")
        self._close_journal()
        self._close_recording()
        self.withdraw()

    def withdraw(self) -> None:
        """Commands are to find this proxy no more."""
        if self._announcing is not None:
            self._announcing.cancel()
        if self._note is not None:
            running_proxies.withdraw(self._note)
            self._note = None

    @property
    def listens(self) -> list[str]:
        """The addresses that the proxy listens on."""
        proxyserver = ctx.master.addons.get("proxyserver")
        addresses = proxyserver.listen_addrs() if proxyserver is not None else []
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in addresses]

    async def _announce(self) -> None:
        """Leave the note by which commands find this proxy: as soon as it can be written."""
        await asyncio.sleep(SETTLED)  # It may have begun to listen elsewhere a moment ago (see `host.set_defaults`).
        folder, is_failing = state_path(os.environ).parent, False
        for pause in tasks.growing_pauses(*ANNOUNCE_PAUSES):
            try:
                arguments = folder, self.listens, ctx.options.confdir
                self._note = await tasks.in_thread(running_proxies.announce, *arguments)
                break
            except OSError as error:
                if not is_failing:
                    said = "%s: where this proxy listens cannot be noted there yet (%s); commands need --proxy URL"
                    logger.warning(said, folder, error.strerror or error)
                is_failing = True
                await asyncio.sleep(pause)
        if is_failing:
            logger.info("%s: the note of where this proxy listens is written", folder)

    # -- a recording

    @harmless
    def over(self, flow: http.HTTPFlow) -> None:
        """A flow has its answer, or has ended in an error, or its socket is closed."""
        if self._recorder is not None:
            self._recorder.add(flow)

    @harmless
    def message_came(self, flow: http.HTTPFlow) -> None:
        """A WebSocket message has come."""
        if self._recorder is not None:
            self._recorder.message(flow)

    def _record(self, path: str) -> None:
        self._close_recording()
        if not path:
            return
        from codexpool.recording.files import RecordingError
        from codexpool.recording.recorder import Recorder

        try:
            all_hosts = host.is_on("codexpool_record_all_hosts")
            self._recorder = Recorder(Path(path), all_hosts=all_hosts, secrets=self._secrets, names=self._names)
        except RecordingError as error:
            self._refuse(f"codexpool_record: {error}")

    def _names(self) -> list[str]:
        pool, _ = self._pool()
        return list(pool.identities) if pool is not None else []

    def _close_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.finish()
            self._recorder = None

    def _close_journal(self) -> None:
        if self._journal is not None:
            self.history.listeners.remove(self._journal.write)
            self._journal.stop()
            self._journal = None

    # -- what happens to identities

    def _status_changed(self, identity: Identity, before: Condition) -> None:
        condition = identity.condition
        text = str(condition.evidence or "")
        event = Event(Kind.IDENTITY, time.time(), identity=identity.name, text=text)
        event.was, event.becomes = before.status, condition.status
        self.history.happened(event)

    def _breaker_changed(self, is_open: bool, text: str) -> None:
        self.history.happened(Event(Kind.BREAKER, time.time(), becomes="open" if is_open else "closed", text=text))

    def _say(self, kind: Kind, text: str) -> None:
        self.history.happened(Event(kind, time.time(), text=text))

    # -- what the page asks

    async def _status(self, now: float) -> bytes:
        return await joined(status.pieces(self._view(now), now))

    async def _metrics(self, accept: str, now: float) -> tuple[bytes, str]:
        return await metrics.scraped(self._view(now), accept, now)

    def _unready(self) -> str:
        if not self._runs:
            return health.STARTS
        pool, _ = self._pool()
        return health.unready(pool, is_closed=bool(self._closed()), observes=self.observes, leaves=self._leaves())

    def _view(self, now: float) -> status.View:
        (pool, config), journal = self._pool(), self._journal
        access, members = self._members(now)
        proxy = status.ProxyFacts(
            os.getpid(),
            __version__,
            version.VERSION,
            ".".join(map(str, sys.version_info[:3])),
            tuple(self.listens),
            self._started_at,
            self.observes,
        )
        return status.View(
            proxy,
            self.history,
            pool,
            config,
            self._closed(),
            journal.lost if journal is not None else 0,
            access,
            members,
            self._clock_offset(),
        )


ANNOUNCE_PAUSES = (1.0, 60.0)
"""Seconds between two attempts to leave the note of a running proxy: at first, and at most."""

SETTLED = 0.3
"""Seconds until the proxy is sure to listen where it stays."""
