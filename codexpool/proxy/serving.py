"""The handler that sends requests under the identities of a pool."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from mitmproxy import http
from mitmproxy.connection import Client

from codexpool.config.files import Watcher
from codexpool.config.model import PoolConfig
from codexpool.members.ledger import Ledger
from codexpool.pool.identity import Condition, Identity, IdentityKey
from codexpool.pool.pool import Pool
from codexpool.protocol import endpoints
from codexpool.protocol.routes import BACKEND_ONLY
from codexpool.proxy.answers import Answers
from codexpool.proxy.attempts import Attempts
from codexpool.proxy.flows import Closed, Flows, Passthrough, Serving
from codexpool.proxy.gate import Denied, Gate
from codexpool.proxy.handler import NoPool, Setup
from codexpool.proxy.mitm import options
from codexpool.proxy.mitm.garbage import import_exempt
from codexpool.proxy.outgoing import Dressing
from codexpool.proxy.relay import Reader
from codexpool.proxy.requests import Requests
from codexpool.proxy.sockets import Sockets, trim
from codexpool.proxy.tunnels import Tunnels
from codexpool.proxy.turns import Turns
from codexpool.state import State
from codexpool.state.fleet import Fleet
from codexpool.state.location import location, scope_of
from codexpool.state.opening import open_state
from codexpool.traces.events import Event, Kind
from codexpool.traces.history import History
from codexpool.upkeep.keeper import Keeper
from codexpool.upkeep.watching import PoolFile
from codexpool.web import me
from codexpool.web.status import member_rows

logger = logging.getLogger("codexpool")

FOR_MEMBERS = frozenset({endpoints.AUTH_HOST, endpoints.API_HOST})  # Hosts that a member's client asks with its key.


class SwapHandler:
    """Sends requests under the identities of a pool (see `codexpool.proxy.handler.Handler` for the methods).

    `Requests` handles what goes out, `Answers` what comes back, `Sockets` the messages on open WebSockets: their
    methods are the hooks. They share `Flows`: the exchanges under way, and the pool that serves them.
    """

    observes = False

    def __init__(self, history: History) -> None:
        self.history = history
        self.flows = Flows()
        self.gate = Gate(history)
        self.tunnels = Tunnels(lambda: self.flows.hosts)
        self.turns = Turns()
        dressing = Dressing()
        attempts = Attempts(self.flows, dressing, history)
        self.requests = Requests(self.flows, attempts, dressing, self.gate, self.tunnels, self.turns, history)
        self.answers = Answers(self.flows, attempts, dressing, self.turns, history)
        self.sockets = Sockets(self.flows, dressing, history, self.gate, self.turns)

        self.open, self.turns_away, self.assign = self.requests.open, self.requests.turns_away, self.requests.assign
        self.dry_run = self.requests.dry_run
        self.outbound, self.is_outdated = self.requests.outbound, self.requests.is_outdated

        self.headers_came, self.head_seen = self.answers.headers_came, self.answers.head_seen
        self.should_hold, self.judge_beginning = self.answers.should_hold, self.answers.judge_beginning
        self.judge_incomplete, self.response_complete = self.answers.judge_incomplete, self.answers.response_complete
        self.judge, self.judge_loss = self.answers.judge, self.answers.judge_loss
        self.connection_lost, self.fail = self.answers.connection_lost, self.answers.fail
        self.finish, self.should_resend = self.answers.finish, self.answers.should_resend

        self.end_sockets = self.sockets.end

    # -- its life

    def start(self, setup: Setup, watcher: Watcher) -> None:
        self.stop()
        if not isinstance(setup, PoolConfig):
            self.flows.mode = setup if isinstance(setup, Closed) else self._without_pool(setup)
            return
        options.note_pool()
        if not setup.identities:
            what = "does not exist yet" if setup.is_missing else "has no identities"
            logger.warning("%s %s, so no request is served: codexpool add NAME", setup.path, what)
        environ, scope = os.environ, partial(scope_of, os.environ)
        keeper = Keeper(setup, lambda: _open_state(environ), environ, options.own_route(), self, scope)
        keeper.start(watcher)
        self.flows.mode = Serving(keeper)

    @staticmethod
    def _without_pool(setup: NoPool) -> Closed | Passthrough:
        """Pass everything through, unless there was a pool: its clients must not use their own credentials."""
        if options.had_a_pool():
            logger.error("pool.toml is gone. As soon as there is one, it is used. Looked at: %s", setup.looked_at)
            return Closed("pool.toml is gone; the proxy's log says where it is looked for")
        logger.warning(
            "no pool.toml found, so no request is swapped. As soon as there is one (codexpool add NAME), it is "
            "used. Looked at: %s",
            setup.looked_at,
        )
        return Passthrough()

    def check_options(self, config: PoolConfig) -> None:
        options.refuse_unfit_for_a_pool(BACKEND_ONLY | (FOR_MEMBERS if config.members else frozenset()))

    def stop(self, reason: str = "") -> None:
        keeper = self.flows.keeper_if_any
        if keeper is not None or reason:
            self.flows.mode = Closed(reason or "the pool is being loaded; try again")
        if keeper is not None:
            keeper.stop()

    def changed(self, keeper: Keeper) -> None:
        """Follow a change of the identities or the members."""
        self.gate.follow(keeper.config)
        self.sockets.pool_changed(keeper.pool)

    def status_changed(self, identity: Identity, before: Condition) -> None:
        condition = identity.condition
        event = Event(Kind.IDENTITY, time.time(), identity=identity.name, text=str(condition.evidence or ""))
        event.was, event.becomes = before.status, condition.status
        self.history.record(event)

    def identities_renamed(self, names: Mapping[str, str]) -> None:
        self.history.renamed(names)

    def breaker_changed(self, is_open: bool, text: str) -> None:
        self.history.record(Event(Kind.BREAKER, time.time(), becomes="open" if is_open else "closed", text=text))

    def sessions_moved(self, moved: Mapping[str, IdentityKey]) -> None:
        self.sockets.sessions_moved(moved)

    def session_count(self) -> int:
        return self.history.session_count

    # -- what may be looked at

    @property
    def closed(self) -> str:
        return self.flows.closed

    @property
    def hosts(self) -> frozenset[str]:
        return self.flows.hosts

    @property
    def pool(self) -> Pool | None:
        return self.flows.keeper.pool if self.flows.serves else None

    @property
    def config(self) -> PoolConfig | None:
        return self.flows.keeper.config if self.flows.serves else None

    @property
    def pool_file(self) -> PoolFile | None:
        return self.flows.keeper.file if self.flows.serves else None

    @property
    def clock_offset(self) -> float | None:
        return self.flows.keeper.clock.offset if self.flows.serves else None

    @property
    def fleet(self) -> Fleet | None:
        return self.flows.keeper.heartbeat.fleet(location(os.environ)) if self.flows.serves else None

    @property
    def ledger(self) -> Ledger | None:
        return self.flows.keeper.ledger if self.flows.serves else None

    def tokens(self) -> list[str]:
        return self.flows.keeper.tokens() if self.flows.serves else []

    def members(self, now: float) -> tuple[str, list[dict[str, Any]]]:
        if not self.flows.serves:
            return self.gate.access, []
        keeper = self.flows.keeper
        return self.gate.access, member_rows(keeper.config, keeper.queue, keeper.ledger, now)

    def own_use(self, flow: http.HTTPFlow, now: float) -> tuple[int, dict[str, Any]]:
        found = self.gate.holder(flow)  # in any case: this hides the key
        if not self.flows.serves:
            return 503, {"error": {"message": self.closed or "there is no pool here"}}
        if isinstance(found, Denied):
            return found.status, {"error": {"message": found.why}}
        keeper = self.flows.keeper
        return 200, me.document(found, keeper.pool, keeper.queue, keeper.ledger, now)

    # -- connections

    async def hosts_known(self, seconds: float) -> None:
        if isinstance(self.flows.mode, Serving):
            await self.flows.mode.keeper.hosts_known(seconds)

    def refusal(self, client: Client, to_host: str, port: int) -> str:
        match self.flows.mode:
            case Passthrough():
                return ""
            case Serving(keeper):
                return self.gate.refuses_connection(client, to_host, port, keeper.hosts)
            case Closed():
                return self.gate.refuses_connection(client, to_host, port, BACKEND_ONLY)

    # -- open sockets

    def socket_opened(self, flow: http.HTTPFlow) -> None:
        exchange = self.flows.get(flow)
        if exchange is None:
            return
        self.history.socket_opened(exchange.trace)
        if exchange.is_answered:
            self.sockets.opened(flow, exchange)

    async def message(self, flow: http.HTTPFlow) -> None:
        """Act on a WebSocket message, and have the flow keep only the last few of its connection."""
        is_known, swaps = self.flows.get(flow) is not None, self.flows.policy(flow.request).swaps
        try:
            if self.flows.serves and is_known:
                await self.sockets.on_message(flow)
            elif self.flows.serves and swaps:
                self.sockets.refuse_unknown(flow)
        except Exception:  # It is passed on as it is: it has no secret, and there is no way to answer it.
            logger.exception("reading a message failed")
        if is_known or swaps:
            trim(flow)

    def message_reader(self, flow: http.HTTPFlow) -> Reader | None:
        return self.sockets.reader(flow) if self.flows.serves and flow in self.flows else None

    def socket_closed(self, flow: http.HTTPFlow) -> None:
        exchange, socket = self.flows.get(flow), flow.websocket
        self.sockets.closed(flow)
        if exchange is not None and socket is not None:
            by = "the client" if socket.closed_by_client else "the backend"
            self.history.socket_closed(exchange.trace, f"by {by} ({socket.close_code})")

    @property
    def open_sockets(self) -> int:
        return len(self.sockets)


def _open_state(environ: Mapping[str, str]) -> State:
    """Open the state, for which SQLAlchemy is imported: in the thread that opens it, not at start-up."""
    import_exempt("sqlalchemy")
    return open_state(location(environ))
