"""The requests under way, and the pool that serves them."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from mitmproxy import http

from codexpool.protocol import routes
from codexpool.protocol.routes import AS_SHIPPED, Policy, Route
from codexpool.proxy.exchange import Exchange, route_of
from codexpool.upkeep.keeper import Keeper


@dataclass(frozen=True, slots=True)
class Closed:
    """Requests of swap paths are refused. ``reason`` is for the client."""

    reason: str


@dataclass(frozen=True, slots=True)
class Passthrough:
    """No pool is configured: nothing is changed."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Requests of swap paths are sent under the identities of a pool."""

    keeper: Keeper


Mode = Closed | Passthrough | Serving


class NotServingError(Exception):
    """No pool serves."""


class Flows(WeakKeyDictionary[http.HTTPFlow, Exchange]):
    """The exchange of each flow under way that is swapped, and the mode the proxy is in."""

    def __init__(self) -> None:
        super().__init__()
        self.mode: Mode = Closed("the pool is not set up yet")
        self._hosts = routes.BACKEND_ONLY

    @property
    def keeper(self) -> Keeper:
        """The keeper of the pool. Raises NotServingError if no pool serves."""
        if isinstance(self.mode, Serving):
            return self.mode.keeper
        raise NotServingError(self.closed or "no pool is configured")

    @property
    def keeper_if_any(self) -> Keeper | None:
        """The keeper of the pool, if one serves."""
        return self.mode.keeper if isinstance(self.mode, Serving) else None

    @property
    def serves(self) -> bool:
        """Whether requests are sent under the identities of a pool."""
        return isinstance(self.mode, Serving)

    @property
    def closed(self) -> str:
        """Why requests of swap paths are refused; empty if they are not."""
        return self.mode.reason if isinstance(self.mode, Closed) else ""

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts the path policy is for.

        Those of identities that have left the pool stay: a client may go on asking there.
        """
        if (keeper := self.keeper_if_any) is not None and not keeper.hosts <= self._hosts:
            self._hosts |= keeper.hosts
        return self._hosts

    def route(self, request: http.Request) -> Route:
        """Return the row of the path policy for a request as it would leave."""
        keeper = self.keeper_if_any
        return route_of(request, keeper.config.routes if keeper is not None else AS_SHIPPED, self.hosts)

    def policy(self, request: http.Request) -> Policy:
        """Return the path policy for a request as it would leave."""
        return self.route(request).policy
