"""Tells other proxies that this one runs, and knows which others do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

from codexpool import __version__
from codexpool.common import tasks
from codexpool.local.running_proxies import may_run
from codexpool.state import State, StateError
from codexpool.state.fleet import BEAT, Fleet, Proxy
from codexpool.state.location import Location
from codexpool.upkeep.persistence import Persistence

logger = logging.getLogger("codexpool")

STARTED = time.monotonic()  # When this run of the addon began; a keeper begins again with another pool.toml.
RESTART = 2.0  # Seconds by which an earlier process with the same pid has started earlier.
CLOSE_TIMEOUT = 2.0  # Seconds that the end waits for a heartbeat under way.


class Heartbeat:
    """The heartbeat of this proxy. ``session_count`` returns how many sessions it has served."""

    def __init__(self, persistence: Persistence, session_count: Callable[[], int]) -> None:
        self._persistence = persistence
        self._session_count = session_count
        self._state: State | None = None
        self._has_begun = asyncio.Event()
        self._proxies: tuple[Proxy, ...] = ()
        self._read_at = 0.0
        self._was_connected = False
        self._since = time.time()
        self._beating = threading.Lock()
        self._is_closed = False

    async def run(self) -> None:
        """Send heartbeats for ever, the first as soon as the state is open."""
        self._state = await self._persistence.opened()
        while True:
            try:
                own = self._own(self._state.name)
                self._proxies = await tasks.in_thread(self._beat, self._state, own, daemon=True)
                self._read_at = time.time()
                self._has_begun.set()
            except StateError:
                pass  # The state itself logs that it is lost.
            except Exception:  # A bug of ours must not let this proxy look dead for ever.
                logger.exception("state: the heartbeat failed; retrying in %.0f s", BEAT)
            self._note_connection()
            await asyncio.sleep(BEAT)

    async def begun(self) -> None:
        """Wait until the others know of this proxy."""
        await self._has_begun.wait()

    def fleet(self, at: Location) -> Fleet:
        """Return what is known of the proxies that share the state, which is ``at`` this place."""
        is_connected, own = self._note_connection(), self._state.name if self._state is not None else ""
        waiting = self._persistence.waiting
        return Fleet(at.engine, str(at), is_connected, self._since, waiting, own, self._proxies, self._read_at)

    def close(self) -> None:
        """Tell others that this proxy ends. Waits some seconds at most, and raises nothing."""
        if self._state is None or not self._beating.acquire(timeout=CLOSE_TIMEOUT):
            return  # Others notice within seconds that no heartbeat follows.
        try:
            self._is_closed = True
            if self._read_at and self._state.is_connected:
                with contextlib.suppress(StateError):
                    _leave(self._state)
        finally:
            self._beating.release()

    def _own(self, name: str) -> Proxy:
        up = time.monotonic() - STARTED
        return Proxy(name, socket.gethostname(), __version__, os.getpid(), up, 0.0, self._session_count())

    def _beat(self, state: State, own: Proxy) -> tuple[Proxy, ...]:
        from codexpool.state import presence  # In a thread: it imports SQLAlchemy.

        with self._beating:  # A heartbeat that comes after the farewell would look like a proxy that has died.
            if self._is_closed:
                return ()
            found = state.transact(lambda connection: presence.beat(connection, own))
            if not self._read_at:  # The first one.
                for proxy in (proxy for proxy in found if _was_killed(proxy, own)):
                    state.transact(partial(presence.leave, writer=proxy.writer))
            return found

    def _note_connection(self) -> bool:
        """Return whether the state can be used now, and note the time if that has changed."""
        is_connected = self._persistence.is_connected
        if is_connected is not self._was_connected:
            self._was_connected, self._since = is_connected, time.time()
        return is_connected


def _was_killed(proxy: Proxy, own: Proxy) -> bool:
    """Return whether another proxy of this machine is gone: what it has leased need not wait for its end.

    One that is taken for gone by mistake (two containers with one host name) is back with its next heartbeat.
    """
    if proxy.host != own.host or proxy.writer == own.writer:
        return False
    if proxy.pid == own.pid:  # In a container, the first process has the same one each time.
        return proxy.up - own.up > RESTART
    return not may_run(proxy.pid)


def _leave(state: State) -> None:
    from codexpool.state import presence

    state.transact(lambda connection: presence.leave(connection, state.name))
