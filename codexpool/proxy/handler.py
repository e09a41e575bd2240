"""What the addon needs of a handler: one swaps the identity of requests, one only observes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mitmproxy import http

from codexpool.config.files import Watcher
from codexpool.config.model import PoolConfig
from codexpool.members.ledger import Ledger
from codexpool.pool.pool import Pool
from codexpool.proxy.flows import Closed
from codexpool.proxy.gate import Gate
from codexpool.proxy.probe import Outlook
from codexpool.proxy.resend import Sender
from codexpool.proxy.tunnels import Tunnels
from codexpool.state.fleet import Fleet
from codexpool.upkeep.watching import PoolFile


@dataclass(frozen=True, slots=True)
class NoPool:
    """There is no pool.toml in any of the places ``looked_at``."""

    looked_at: str


Setup = Closed | NoPool | PoolConfig  # A pool, none, or the reason why requests are refused.


class View(Protocol):
    """What the page, the journal and a recording may look at."""

    @property
    def observes(self) -> bool:
        """Whether requests are only observed."""

    @property
    def closed(self) -> str:
        """Why requests of swap paths are refused; empty if they are not."""

    @property
    def pool(self) -> Pool | None:
        """The pool as it is now."""

    @property
    def config(self) -> PoolConfig | None:
        """The configuration the pool was made from."""

    @property
    def pool_file(self) -> PoolFile | None:
        """The file that the configuration is from; None without one."""

    @property
    def clock_offset(self) -> float | None:
        """How far this machine's clock is ahead of the backend's, in seconds; None if unknown."""

    @property
    def fleet(self) -> Fleet | None:
        """The proxies that share the state; None if there is no pool, and in observe mode."""

    @property
    def ledger(self) -> Ledger | None:
        """What members and identities have used; None if no requests are served."""

    def tokens(self) -> list[str]:
        """Return the tokens of the pool, which must not be written anywhere."""

    def own_use(self, flow: http.HTTPFlow, now: float) -> tuple[int, dict[str, Any]]:
        """Return the status and document for the holder of the member key in a request for the proxy itself."""

    def members(self, now: float) -> tuple[str, list[dict[str, Any]]]:
        """Return who may use the pool, and what each member has used at ``now`` (unix seconds)."""


class Hooks(Sender, Protocol):
    """The hooks of the addon, in the order of a request's life. By default a hook does nothing."""

    def check_options(self, config: PoolConfig) -> None:
        """Raise OptionsError if mitmproxy's options do not allow serving this pool."""
        return

    async def hosts_known(self, seconds: float) -> None:
        """Wait until the hosts identities are served from are known, ``seconds`` at most."""
        return

    def refusal(self, client: Any, to_host: str, port: int) -> str:
        """Return why a client may not use this proxy for an address; empty if it may."""
        return ""

    def dry_run(self, flow: http.HTTPFlow) -> Outlook:
        """Return what would become of a request, without any effect."""
        return Outlook(pool=False)

    def open(self, flow: http.HTTPFlow) -> None:
        """Handle the headers of a request."""

    def turns_away(self, flow: http.HTTPFlow, reason: str) -> bool:
        """Answer a request that must not begin because the proxy is ending; return whether it was one."""
        return False

    async def assign(self, flow: http.HTTPFlow) -> None:
        """Handle a whole request."""

    def headers_came(self, flow: http.HTTPFlow) -> None:
        """Handle the headers of a response."""

    async def judge(self, flow: http.HTTPFlow) -> None:
        """Handle a whole response."""

    async def judge_loss(self, flow: http.HTTPFlow) -> None:
        """Handle a flow that ended in an error."""

    def finish(self, flow: http.HTTPFlow) -> bool:
        """Return whether the client gets the response or error a flow has now."""
        return True

    def fail(self, flow: http.HTTPFlow, error: Exception, doing: str) -> None:
        """Handle an exception of our own in a hook."""

    def socket_opened(self, flow: http.HTTPFlow) -> None:
        """Handle the start of a WebSocket."""

    async def message(self, flow: http.HTTPFlow) -> None:
        """Handle a WebSocket message."""

    def socket_closed(self, flow: http.HTTPFlow) -> None:
        """Handle the end of a WebSocket."""

    def end_sockets(self) -> None:
        """Have open sockets connect again elsewhere: the proxy is ending."""
        return


class Handler(Hooks, View, Protocol):
    """Handles flows: one handler swaps the identity of requests, the other only observes them."""

    gate: Gate
    tunnels: Tunnels

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts whose requests may be swapped."""

    @property
    def open_sockets(self) -> int:
        """How many sockets were told to connect again and are still open."""

    def start(self, setup: Setup, watcher: Watcher) -> None:
        """Begin, or begin again with another pool.toml. ``watcher`` knows the files to follow."""

    def stop(self, reason: str = "") -> None:
        """Stop. With a ``reason``, requests still under way that must not leave are refused with it."""
