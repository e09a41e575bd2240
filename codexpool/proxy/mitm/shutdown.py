"""A shutdown that lets turns finish.

On SIGTERM mitmproxy ends at once. With the addon, mitmdump first stops listening, so that a successor can listen in
its place; then it has open sockets connect again and lets requests finish. After `BOUND` seconds, or on a second
SIGTERM, it ends as mitmproxy would. SIGINT always ends it at once; so does SIGTERM in mitmproxy's own window, in
mitmweb, and on Windows, which has no such signal.
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
from codexpool.proxy.mitm import options

logger = logging.getLogger("codexpool")

BOUND: Final = 30.0  # seconds after SIGTERM in which requests can finish
LOOK: Final = 0.1  # seconds between checks for requests under way
# The answer to a new request on a connection that was open before.
REASON: Final = "this proxy is shutting down and takes no new requests; try again"

MITMDUMP: Final = "DumpMaster"  # the class of its master


class Shutdown:
    """Handles SIGTERM. ``tell`` is called once the proxy has stopped listening; it ends idle sockets."""

    def __init__(self, tell: Callable[[], None], open_sockets: Callable[[], int]) -> None:
        self.has_begun = False
        self._tell = tell
        self._open_sockets = open_sockets
        self._flows: WeakSet[http.HTTPFlow] = WeakSet()
        self._tasks = Tasks()

    def running(self) -> None:
        """Handle SIGTERM from now on."""
        if options.has_master(MITMDUMP):
            _on_sigterm(self.begin)

    def done(self) -> None:
        """Give SIGTERM back to mitmproxy. Finish a shutdown under way, which a reload interrupts."""
        self._tasks.stop()
        if ctx.master.should_exit.is_set():
            logging.getLogger("asyncio").addFilter(_is_no_cancellation)
        if self.has_begun:
            ctx.master.shutdown()
        elif options.has_master(MITMDUMP):
            _on_sigterm(ctx.master.shutdown)

    def track(self, flow: http.HTTPFlow) -> None:
        """Note a request, once its headers are there."""
        self._flows.add(flow)

    def close_after(self, flow: http.HTTPFlow) -> None:
        """During a shutdown, have the client open a connection to the successor for its next request.

        (mitmproxy closes a connection after this header. HTTP/2 forbids it.)
        """
        response, is_http1 = flow.response, flow.request.http_version.startswith("HTTP/1")
        if self.has_begun and is_http1 and response is not None and response.status_code != 101:
            response.headers["connection"] = "close"

    def begin(self) -> None:
        """Shut down; called again, end at once."""
        if self.has_begun:
            logger.warning("second SIGTERM: ending at once")
            ctx.master.shutdown()
            return
        self.has_begun = True
        self._tasks.spawn(self._finish())

    async def _finish(self) -> None:
        proxyserver: Any = ctx.master.addons.get("proxyserver")
        try:
            async with asyncio.timeout(BOUND):
                await proxyserver.servers.update([])
                self._tell()
                left = self._under_way(proxyserver)
                if left:
                    logger.info("SIGTERM: requests under way: %d; waiting up to %.0f s", left, BOUND)
                while left:
                    await asyncio.sleep(LOOK)
                    left = self._under_way(proxyserver)
        except TimeoutError:
            left = self._under_way(proxyserver)
            logger.warning("ending after %.0f seconds; cut what was under way: %d", BOUND, left)
        finally:
            ctx.master.shutdown()

    def _under_way(self, proxyserver: Any) -> int:
        """Count requests without an answer, open sockets, and clients with unsent bytes, which would be lost."""
        requests = sum(flow.live and flow.websocket is None for flow in self._flows)
        connections = list(proxyserver.connections.values())
        writers = [io.writer for one in connections if (io := one.transports.get(one.client)) is not None]
        unsent = (isinstance(one, asyncio.StreamWriter) and one.transport.get_write_buffer_size() for one in writers)
        return requests + self._open_sockets() + sum(map(bool, unsent))


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Filter out a traceback per connection, which some versions of asyncio log when the process ends."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _on_sigterm(function: Callable[[], object]) -> None:
    # Windows has no such signal, and only the main thread may handle it.
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, function)
