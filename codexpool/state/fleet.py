"""The proxies that share a state, and how this one is connected to it. `codexpool.state.presence` has the table."""

from __future__ import annotations

from typing import Final, NamedTuple

BEAT = 5.0  # Seconds between two heartbeats of a proxy.
DEAD_AFTER: Final = 15.0  # Seconds without a heartbeat, by the database's clock, after which a proxy counts as dead.
FORGOTTEN_AFTER: Final = 3600.0  # Seconds after which a dead one is no longer listed.


class Proxy(NamedTuple):
    """A proxy as of its last heartbeat.

    ``writer`` identifies it (`State.name`). ``up`` is how many seconds ago it started, ``silent`` how many seconds
    ago it sent a heartbeat, both by the database's clock, which may differ from this machine's.
    """

    writer: str
    host: str
    version: str
    pid: int
    up: float
    silent: float
    sessions: int

    @property
    def is_alive(self) -> bool:
        return self.silent <= DEAD_AFTER


class Fleet(NamedTuple):
    """What a proxy knows of the state's engine, and of the proxies that use it, itself (``own``) included.

    ``where`` has no password. ``since`` is the unix second at which the engine was reached or lost, ``waiting`` the
    number of rows still to be written. ``proxies`` are as of ``read_at``.
    """

    engine: str
    where: str
    is_connected: bool
    since: float
    waiting: int
    own: str = ""
    proxies: tuple[Proxy, ...] = ()
    read_at: float = 0.0
