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
from pathlib import Path
from typing import TYPE_CHECKING

from mitmproxy import ctx, exceptions, http, version

from codexpool import __version__
from codexpool.common import tasks
from codexpool.common.never_raises import harmless
from codexpool.common.tasks import Tasks
from codexpool.local import running_proxies
from codexpool.proxy.handler import View
from codexpool.proxy.mitm import options as host
from codexpool.proxy.mitm.shutdown import Shutdown
from codexpool.state import state_path
from codexpool.traces.events import Event, Kind
from codexpool.traces.history import History
from codexpool.traces.journal import OPTION, Journal
from codexpool.web import health, status
from codexpool.web.site import Site

logger = logging.getLogger("codexpool")

if TYPE_CHECKING:
    from codexpool.recording.recorder import Recorder

RECORDING = frozenset({"codexpool_record", "codexpool_record_all_hosts"})


class Telemetry:
    """The page, the journal and the recording of a proxy.

    They look at ``view``, which is the handler there is now; ``shutdown`` knows whether the proxy is ending.
    """

    def __init__(self, view: View, shutdown: Shutdown, history: History, reloaded: bool) -> None:
        self.view = view
        self.history = history
        self.site = Site(self)
        self._shutdown = shutdown
        self._reloaded = reloaded
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

    def _record(self, path: str) -> None:
        self._close_recording()
        if not path:
            return
        from codexpool.recording.files import RecordingError
        from codexpool.recording.recorder import Recorder

        try:
            all_hosts = host.is_on("codexpool_record_all_hosts")
            self._recorder = Recorder(Path(path), all_hosts=all_hosts, secrets=self._tokens, names=self._names)
        except RecordingError as error:
            self._refuse(f"codexpool_record: {error}")

    def _names(self) -> list[str]:
        pool = self.view.pool
        return list(pool.identities) if pool is not None else []

    def _tokens(self) -> list[str]:
        return self.view.tokens()

    def _close_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.finish()
            self._recorder = None

    def _close_journal(self) -> None:
        if self._journal is not None:
            self.history.listeners.remove(self._journal.write)
            self._journal.stop()
            self._journal = None

    def _say(self, kind: Kind, text: str) -> None:
        self.history.record(Event(kind, time.time(), text=text))

    # -- what the page asks

    def is_own_connection(self, peer: tuple[object, ...]) -> bool:
        return host.is_own_connection(peer)

    def unready(self) -> str:
        if not self._runs:
            return health.STARTS
        view, leaves = self.view, self._shutdown.has_begun
        return health.unready(view.pool, is_closed=bool(view.closed), observes=view.observes, leaves=leaves)

    def status_view(self, now: float) -> status.View:
        view, journal = self.view, self._journal
        access, members = view.members(now)
        proxy = status.ProxyFacts(
            os.getpid(),
            __version__,
            version.VERSION,
            ".".join(map(str, sys.version_info[:3])),
            tuple(self.listens),
            self._started_at,
            view.observes,
        )
        return status.View(
            proxy,
            self.history,
            view.pool,
            view.config,
            view.closed,
            journal.lost if journal is not None else 0,
            access,
            members,
            view.clock_offset,
        )


ANNOUNCE_PAUSES = (1.0, 60.0)
"""Seconds between two attempts to leave the note of a running proxy: at first, and at most."""

SETTLED = 0.3
"""Seconds until the proxy is sure to listen where it stays."""
