"""The end of a proxy that lets turns finish.

mitmproxy ends at once upon SIGTERM, in the middle of whatever is under way. With the addon mitmdump first stops
listening, so that a successor can listen in its place, has open sockets connect again, and lets requests run to their
end. After `BOUND` seconds, or upon a second SIGTERM, it ends as mitmproxy would. SIGINT ends it at once, as ever; so
does SIGTERM under mitmproxy's own window and mitmweb, and on Windows, which has no such signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from mitmproxy import ctx, http

from codexpool.common.tasks import Tasks

logger = logging.getLogger("codexpool")

BOUND: Final = 30.0
"""Seconds after SIGTERM for which requests under way are waited for."""

LOOK: Final = 0.1
"""Seconds between two looks at whether anything is under way."""

REASON: Final = "this proxy ends, and begins nothing new; try again"
"""What a client is told that begins a turn on a connection that was open before."""


class Leaving:
    """``tell`` has everybody who is to know hear that the proxy ends (open sockets, the commands); it is called once,
    when nothing is listened to any more. ``open_sockets`` counts the sockets that were told and are still open.
    """

    def __init__(self, tell: Callable[[], None], open_sockets: Callable[[], int]) -> None:
        self.has_begun = False
        """Whether the proxy was told to end, and only goes on with what is under way."""
        self._tell = tell
        self._open_sockets = open_sockets
        self._flows: WeakSet[http.HTTPFlow] = WeakSet()
        self._tasks = Tasks()

    # -- as the addon lives

    def running(self) -> None:
        """SIGTERM is answered here from now on."""
        if type(ctx.master).__name__ == "DumpMaster":
            _answer(self.asked)

    def done(self) -> None:
        """The proxy ends, or loads the addon anew: SIGTERM is mitmproxy's again. What was to end does end."""
        self._tasks.stop()
        if ctx.master.should_exit.is_set():
            logging.getLogger("asyncio").addFilter(_is_no_cancellation)
        if self.has_begun:
            ctx.master.shutdown()
        elif type(ctx.master).__name__ == "DumpMaster":
            _answer(ctx.master.shutdown)

    # -- hooks

    def begins(self, flow: http.HTTPFlow) -> None:
        """A request's headers have come."""
        self._flows.add(flow)

    def answered(self, flow: http.HTTPFlow) -> None:
        """An answer is about to be passed on. The client's next request is for the successor, over a connection anew.

        (mitmproxy closes one over which it has sent that header. HTTP/2 forbids it.)
        """
        response, is_http1 = flow.response, flow.request.http_version.startswith("HTTP/1")
        if self.has_begun and is_http1 and response is not None and response.status_code != 101:
            response.headers["connection"] = "close"

    # -- the end

    def asked(self) -> None:
        """SIGTERM has come."""
        if self.has_begun:
            logger.warning("SIGTERM once more: the proxy ends at once")
            ctx.master.shutdown()
            return
        self.has_begun = True
        self._tasks.spawn(self._leave())

    async def _leave(self) -> None:
        proxyserver: Any = ctx.master.addons.get("proxyserver")
        try:
            async with asyncio.timeout(BOUND):
                await proxyserver.servers.update([])
                self._tell()
                left = self._under_way(proxyserver)
                if left:
                    logger.info("SIGTERM: %d under way, with %.0f seconds to end", left, BOUND)
                while left:
                    await asyncio.sleep(LOOK)
                    left = self._under_way(proxyserver)
        except TimeoutError:
            logger.warning("the proxy ends, and cuts what is still under way: %d", self._under_way(proxyserver))
        finally:
            ctx.master.shutdown()

    def _under_way(self, proxyserver: Any) -> int:
        """Requests without their answer, sockets still open, and clients that have not been sent all."""
        requests = sum(flow.live and flow.websocket is None for flow in self._flows)
        return requests + self._open_sockets() + _unsent(proxyserver)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """As a process ends asyncio cancels what is connected, and some versions log each of those with a traceback."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _answer(signal_calls: Callable[[], object]) -> None:
    """Have SIGTERM call something, where there is such a signal and this is the thread for it."""
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal_calls)


def _unsent(proxyserver: Any) -> int:
    """Clients for whom bytes wait in this process: they would be lost with it."""
    connections = list(proxyserver.connections.values())
    writers = [io.writer for one in connections if (io := one.transports.get(one.client)) is not None]
    return sum(isinstance(one, asyncio.StreamWriter) and one.transport.get_write_buffer_size() > 0 for one in writers)
