"""What shows the proxy's work: the status page, the events file, a recording, and the note for commands.

None of it changes a request. A request pays for its trace; everything else happens on demand, or in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx, exceptions, http

from codexpool import __version__
from codexpool.common import tasks
from codexpool.common.tasks import Tasks, harmless
from codexpool.local import running_proxies
from codexpool.local.installed import installed_version
from codexpool.proxy.handler import View
from codexpool.proxy.mitm import options as host
from codexpool.proxy.mitm.imports import import_later
from codexpool.proxy.mitm.shutdown import Shutdown
from codexpool.state.location import location
from codexpool.traces.events import Event, Kind
from codexpool.traces.history import History
from codexpool.traces.journal import OPTION, Journal
from codexpool.upkeep.pool_finder import PoolFinder
from codexpool.upkeep.watching import PoolFile
from codexpool.web import site, status
from codexpool.web.site import Site

logger = logging.getLogger("codexpool")

if TYPE_CHECKING:
    from codexpool.recording.recorder import Recorder

RECORDING = frozenset({"codexpool_record", "codexpool_record_all_hosts"})


class Telemetry:
    """The page, the events file and the recording of a proxy. They show ``view``, which is the current handler."""

    def __init__(self, view: View, finder: PoolFinder, shutdown: Shutdown, history: History, reloaded: bool) -> None:
        self.view = view
        self.finder = finder
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
        self._installed = __version__

    # -- its life

    def configure(self, updated: set[str]) -> None:
        """Apply the options. Raises OptionsError if a file cannot be written."""
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
        """Refuse to start without a file that cannot be written; after a reload, go on without it."""
        if not self._reloaded:
            raise exceptions.OptionsError(reason)
        logger.error("%s; the proxy goes on without it", reason)

    def running(self) -> None:
        """Announce the proxy, the first time."""
        if not self._runs:
            self._runs = True
            text = f"codexpool {__version__} runs, on {', '.join(self.listens) or 'no address'}"
            self.history.record(Event(Kind.START, time.time(), text=text))
            self._announcing = self._tasks.spawn(self._announce())
            self._tasks.spawn(import_later())
            self._tasks.spawn(self._watch_installed())

    def done(self) -> None:
        """End: the proxy stops, or reloads the addon."""
        self._tasks.stop()
        self.history.record(Event(Kind.STOP, time.time(), text="codexpool ends"))
        self._close_journal()
        self._close_recording()
        self.withdraw()

    def withdraw(self) -> None:
        """Hide this proxy from commands."""
        if self._announcing is not None:
            self._announcing.cancel()
        if self._note is not None:
            running_proxies.withdraw(self._note)
            self._note = None

    @property
    def listens(self) -> list[str]:
        """The addresses the proxy listens on."""
        proxyserver = ctx.master.addons.get("proxyserver")
        addresses = proxyserver.listen_addrs() if proxyserver is not None else []
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in addresses]

    async def _announce(self) -> None:
        """Write the note by which commands find this proxy, as soon as that is possible."""
        await asyncio.sleep(SETTLED)  # It may still change its address (see `host.set_defaults`).
        folder, is_failing = location(os.environ).folder, False
        for pause in tasks.growing_pauses(*ANNOUNCE_PAUSES):
            try:
                arguments = folder, self.listens, ctx.options.confdir
                self._note = await tasks.in_thread(running_proxies.announce, *arguments)
                break
            except OSError as error:
                if not is_failing:
                    text = "%s: the note for commands cannot be written yet (%s); until then they need --proxy URL"
                    logger.warning(text, folder, error.strerror or error)
                is_failing = True
                await asyncio.sleep(pause)
        if is_failing:
            logger.info("%s: the note for commands is written", folder)

    async def _watch_installed(self) -> None:
        """Report that another version is installed than runs."""
        while True:
            await asyncio.sleep(INSTALLED_EVERY)
            before, self._installed = self._installed, await tasks.in_thread(installed_version)
            if self._installed not in (before, __version__):
                text = "codexpool %s is installed, and %s still runs: restart the proxy when it suits you"
                logger.warning(text, self._installed, __version__)

    # -- a recording

    @harmless
    def over(self, flow: http.HTTPFlow) -> None:
        """Record a flow that is over."""
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
            self._recorder = Recorder(
                Path(path),
                all_hosts=all_hosts,
                secrets=lambda: self.view.tokens(),
                names=lambda: list(self.view.pool.identities) if self.view.pool is not None else [],
            )
        except RecordingError as error:
            self._refuse(f"codexpool_record: {error}")

    def _close_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.finish()
            self._recorder = None

    def _close_journal(self) -> None:
        if self._journal is not None:
            self.history.listeners.remove(self._journal.write)
            self._journal.stop()
            self._journal = None

    # -- for the page

    def authority(self) -> bytes:
        return host.authority()

    def own_use(self, flow: http.HTTPFlow, now: float) -> tuple[int, dict[str, Any]]:
        return self.view.own_use(flow, now)

    def is_own_connection(self, peer: tuple[object, ...]) -> bool:
        return host.is_own_connection(peer)

    def unready(self) -> str:
        if not self._runs:
            return site.STARTING
        view, leaves = self.view, self._shutdown.has_begun
        return site.unready(view.pool, is_closed=bool(view.closed), observes=view.observes, leaves=leaves)

    def status_view(self, now: float) -> status.View:
        view, journal = self.view, self._journal
        access, members = view.members(now)
        return status.View(
            self.history,
            view.pool,
            view.config,
            view.closed,
            journal.lost if journal is not None else 0,
            access,
            members,
            view.clock_offset,
            self.listens,
            self._started_at,
            view.observes,
            view.fleet,
            view.ledger,
            self._pool_file(),
            self._installed,
        )

    def _pool_file(self) -> PoolFile | None:
        file, found = self.view.pool_file, self.finder
        if file is not None:
            return file._replace(problem=file.problem or found.problem)
        return PoolFile(found.rejected, None, problem=found.problem) if found.rejected is not None else None


INSTALLED_EVERY = 2.0  # Seconds between two looks at the version that is installed.
ANNOUNCE_PAUSES = (1.0, 60.0)  # Seconds between two attempts to write the note: at first, and at most.
SETTLED = 0.3  # Seconds until the proxy listens at its final address.
