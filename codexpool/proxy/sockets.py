"""Open WebSockets: moves a session to another identity when its own can no longer serve it.

A socket keeps the identity of its handshake. To move a session, the proxy tells the client to connect again (see
`codexpool.protocol.frames.connect_again`). The client does so at once and silently, with its whole history, and the
new handshake gets another identity. The proxy repeats a client's message only to remove encrypted reasoning that the
identity cannot read.

A socket is in one of three states:

- idle: no request is under way. A ``response.create``, or an answer from the backend, makes it busy.
- busy: answers are on their way. The last event of the last answer, or an error, makes it idle.
- left: the client was told to connect again, or the socket was closed. Messages from both sides are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http, websocket

from codexpool.common import tasks
from codexpool.members.turn_queue import Slot
from codexpool.pool.causes import Cause
from codexpool.pool.exclusions import AWAY, MODEL_LASTS
from codexpool.pool.identity import Evidence, Identity, IdentityKey, Status
from codexpool.pool.needs import no_identity
from codexpool.pool.patience import PATIENCE
from codexpool.pool.pool import Pool
from codexpool.pool.states import CONDEMNED
from codexpool.pool.verdict import MAY_BE_ITS_OWN, NOT_PORTABLE, Finding, Next, Verdict
from codexpool.protocol import frames, models, rate_limits, strict
from codexpool.protocol.encrypted_reasoning import has_encrypted
from codexpool.protocol.endpoints import RESPONSES
from codexpool.protocol.headers import TURN_STATE
from codexpool.protocol.member_keys import message_without_keys
from codexpool.protocol.token_usage import tokens_of
from codexpool.proxy import turns
from codexpool.proxy.exchange import Exchange
from codexpool.proxy.flows import Flows
from codexpool.proxy.gate import Gate
from codexpool.proxy.judge import (
    BackendAnswer,
    judge,
    learn,
    learn_gauges,
    learn_limits,
    list_shown,
    of_failure,
    of_frame,
)
from codexpool.proxy.outgoing import Dressing
from codexpool.proxy.relay import Reader
from codexpool.proxy.replies import Advice, advice, limit_error, promo, seconds_to
from codexpool.proxy.resend import hang_up
from codexpool.proxy.turns import Denied, Turns
from codexpool.redaction import redact_text
from codexpool.traces.history import History
from codexpool.traces.trace import TurnTrace
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")

# Messages of a WebSocket that a flow keeps; mitmproxy would keep all of them until the socket is closed.
MESSAGES_KEPT = 16
ENDED = frozenset({*CONDEMNED, Status.LIMITED, Status.PAUSED})  # statuses of an identity that end its idle sockets
# Verdicts that end the socket. (`Next.RENEWED` is among them because only a new handshake carries the new token.)
MOVES = frozenset({Next.SAME, Next.RENEWED, Next.OTHER}) | MAY_BE_ITS_OWN
# Close codes a server uses for reasons of its own: done, restarting, or out of room.
SERVER_CLOSES = frozenset({1000, 1001, 1012, 1013})
# Close codes about the client's message: too long, or of a kind the server does not take (RFC 6455, 7.4.1)
MESSAGE_REFUSED = frozenset({1003, 1007, 1009})
CLIENT_REFUSED = frozenset({1008, 1011})  # close codes that refuse a client, even before it has sent a request
GRACE = 5.0  # seconds a client has to close its socket after it was told to connect again


class Pending(NamedTuple):
    """A ``response.create`` under way, the model it names, and its slot if it is a turn."""

    slot: Slot | None = None
    model: str = ""

    def release(self) -> None:
        if self.slot is not None:
            self.slot.release()


@dataclass(slots=True)
class OpenSocket:
    """One open socket, from its handshake to its end."""

    flow: http.HTTPFlow
    exchange: Exchange
    sockets: Sockets
    pending: list[Pending] = field(default_factory=list)  # requests without the end of their answer, in order
    last_request: bytes | None = None  # if it has encrypted reasoning, until its answer begins
    has_left: bool = False  # The client was told to connect again, or the socket was closed.
    has_begun: bool = False  # Part of the current answer has arrived.
    has_answered: bool = False  # An answer has been completed on this socket.
    is_behind: bool = False  # Another proxy has moved its session to another identity.
    turn: TurnTrace | None = None

    @property
    def _keeper(self) -> Keeper:
        return self.sockets.flows.keeper

    @property
    def _is_model(self) -> bool:
        """Whether this is a socket for the model. The messages of others are unknown: they always count as idle."""
        return self.exchange.asked.path == RESPONSES

    def _takes_requests(self) -> bool:
        return self._is_model and not self.has_left

    # -- hooks

    async def on_client(self, message: websocket.WebSocketMessage) -> None:
        """Pass on, change or drop a message of the client. One that begins a turn waits for its slot."""
        if self._takes_requests():
            try:
                await self._await_slot(message)
            except Exception:
                logger.exception("waiting for a slot for a message failed")
        if message.dropped:
            return
        if self.exchange.member is not None:
            self._remove_keys(message)
        if self.has_left:
            message.drop()
            _hang_up(self.flow)  # The client ignored the frame that told it to connect again.
        elif self._is_model and frames.kind(message.content) == frames.CREATE:
            self._ask(message)

    async def _await_slot(self, message: websocket.WebSocketMessage) -> None:
        if self.exchange.member is not None and (why := await _ambiguity(message)):
            self._remove_keys(message)
            message.drop()
            logger.warning("session %s: refused a message: %s", self.exchange.named, why)
            _inject(self.flow, frames.unservable(f"codexpool: this message is refused: {why}"))
            return
        if frames.kind(message.content) != frames.CREATE:
            return
        if not frames.begins_turn(message.content):
            self.pending.append(Pending())
            return
        # mitmproxy reads nothing from this socket meanwhile: waiting for a turn of its own would never end.
        may_wait = not any(pending.slot is not None for pending in self.pending)
        try:
            got = await self.sockets.turns.begin(self._keeper, self.exchange.member, may_wait=may_wait)
        except Exception:
            self.pending.append(Pending())  # The message is passed on, and its answer ends the first of the pending.
            raise
        if isinstance(got, Denied):
            message.drop()
            logger.info("session %s: %s", self.exchange.named, got.message)
            if got.is_limit:
                told_so = frames.limited(limit_error(got.message, got.returns_at), promo(got.message))
            else:
                told_so = frames.wait(got.message, seconds_to(got.returns_at, time.time()))
            _inject(self.flow, told_so)
        elif self._takes_requests():
            self.pending.append(Pending(got, frames.model_of(message.content)))
        else:  # It was closed while the turn waited.
            got.release()

    def on_backend(self, message: websocket.WebSocketMessage) -> None:
        """Pass on, change or drop a message of the backend, and learn from it."""
        if self.has_left:
            message.drop()
            return
        exchange = self.exchange
        self.sockets.history.received(exchange.trace, self.turn, len(message.content))
        if not self._is_model:
            return
        keeper = self._keeper
        match kind := frames.kind(message.content):
            case frames.LIMITS:
                learn_gauges(keeper, exchange.attempt, rate_limits.of_frame(frames.parsed(message.content)))
            case frames.ALSO_METADATA:
                self._show_list(message, frames.headers_of(frames.parsed(message.content)))
            case frames.METADATA:
                values = frames.headers_of(frames.parsed(message.content))
                if (turn_state := values.get(TURN_STATE)) is not None:
                    self.sockets.dressing.turn_states.issued(turn_state, exchange.attempt.metadata.key)
                learn_limits(keeper, exchange.asked, exchange.attempt, values)
                self._show_list(message, values)
            case frames.ERROR | frames.FAILED:
                self._fail(message, kind)
            case _ if kind in frames.ENDS:
                self._complete(message, kind)
            case _ if kind not in frames.PRELUDE:
                self.pending = self.pending or [Pending()]  # The answer may be unsolicited.
                self.last_request = None
                self.has_begun = True

    def read(self, message: websocket.WebSocketMessage) -> None:
        """Do what the hook would do with a message of the backend."""
        try:
            self.on_backend(message)
        except Exception:
            logger.exception("reading a message failed")
        trim(self.flow)

    def on_close(self) -> None:
        """Release what the socket holds, and learn from the way it ended."""
        closing = self.flow.websocket
        by_client = closing is not None and closing.closed_by_client
        self._end_turn(f"the socket was closed by {'the client' if by_client else 'the backend'}", failed=True)
        if closing is not None and not by_client and not self.has_left and self.sockets.flows.serves:
            self._closed_by_backend(closing.close_code)
        self._release_slots()
        self.has_left = True

    def close_if_unserved(self, pool: Pool) -> None:
        """Close an idle socket that may not go on: its identity does not serve any more, or its member key is gone.

        A client notices that at once, and connects again for its next request. A frame it would read only after it
        has sent that request.
        """
        if self.pending or self.has_left:
            return
        identity = self._identity(pool)
        if identity is None or identity.status in ENDED:
            self._close("its identity no longer serves")
        elif not pool.may_serve(identity.name, self.exchange.asked):
            self._close("its session was pinned to another identity")
        elif not self.sockets.gate.may_go_on(self.exchange.member):
            self._close("its member key is no longer valid")

    def session_moved(self) -> None:
        """Follow a session that another proxy has moved: at once if the socket is idle, else with its next turn."""
        self.is_behind = True
        if not self.pending and not self.has_left:
            self._close("another proxy has moved its session")

    def close_if_ending(self) -> None:
        """Close an idle socket if the proxy is ending."""
        if self.sockets.are_ending and not self.pending and not self.has_left:
            self._close("the proxy is ending")  # mitmproxy passes on the current message first.

    # -- from the client

    def _ask(self, message: websocket.WebSocketMessage) -> None:
        exchange, pool = self.exchange, self._keeper.pool
        identity = self._identity(pool)
        may_go_on = self.sockets.gate.may_go_on(exchange.member)
        if not may_go_on or identity is None or not pool.serves_on(identity, exchange.asked, time.time()):
            message.drop()
            _inject(self.flow, frames.connect_again())
            self._leave("its identity no longer serves" if may_go_on else "its member key is no longer valid")
            return
        behind = "another proxy has moved its session" if self.is_behind else ""
        lacking = "its account's list does not have the model"
        if why := behind or (self._leaves_for_model(pool, frames.model_of(message.content)) and lacking):
            message.drop()
            _inject(self.flow, frames.connect_again())
            self._leave(why)
            return
        self.has_begun = False
        exchange.attempt.at = time.time()
        if self.turn is None:  # Of several requests at once the trace has the first.
            self.turn = exchange.trace.begin_turn(exchange.attempt.at)
        session = pool.sessions.get(exchange.session)
        content = self.sockets.dressing.message(message.content, exchange.asked, session, exchange.attempt)
        if content is not message.content:
            message.content = content
        self.last_request = content if b'"encrypted_content"' in content else None

    def _leaves_for_model(self, pool: Pool, model: str) -> bool:
        """Have the session leave the identity of this socket if it lacks the model, and another one serves it."""
        if not pool.entitlements.differ:
            return False
        exchange = self.exchange
        # A handshake that names the model gets another identity by that; any other one only if it must not return.
        lasts = AWAY if exchange.asked.model == model else MODEL_LASTS
        asked = exchange.asked._replace(model=model)
        return pool.leaves_for_model(exchange.attempt.name, asked, time.time(), lasts)

    # -- from the backend

    def _show_list(self, message: websocket.WebSocketMessage, values: Mapping[bytes, bytes]) -> None:
        """Name the list of models that the client gets, if a frame names that of the identity."""
        if (etag := values.get(models.ETAG)) is not None:
            shown = list_shown(self._keeper, self.exchange, etag.decode("latin-1"))
            message.content = frames.with_header(message.content, models.ETAG, shown)

    def _complete(self, message: websocket.WebSocketMessage, kind: str) -> None:
        exchange, keeper = self.exchange, self._keeper
        pending = self._end_first()
        self._end_turn(kind.removeprefix("response."), failed=False)
        if pending.slot is not None:
            turns.served(keeper, exchange, tokens_of(message.content), pending.model)
        self.has_answered = True
        # A request that only warms the socket up is no turn: it says nothing about calls of a model.
        asked = exchange.asked._replace(is_turn=pending.slot is not None)
        keeper.served(exchange.attempt.name, asked, exchange.attempt.at)
        self.close_if_ending()

    def _fail(self, message: websocket.WebSocketMessage, kind: str) -> None:
        attempt = self.exchange.attempt
        message.content = frames.scrubbed(message.content, attempt.secrets, attempt.name)
        frame = frames.parsed(message.content)
        received = of_failure(frames.failure_of(frame)) if kind == frames.FAILED else of_frame(frame)
        if kind == frames.ERROR and (received is None or not received.status):
            return  # The client goes on waiting.
        if received is not None and received.status >= 400:
            self._judge(message, received)
        if not message.dropped:
            self._end_first()
            outcome = f"failed: {received.status} {received.code}" if received is not None else kind
            self._end_turn(outcome, failed=True)
            self.close_if_ending()

    def _judge(self, message: websocket.WebSocketMessage, received: BackendAnswer) -> None:
        exchange, keeper = self.exchange, self._keeper
        request, self.last_request = self.last_request, None
        if exchange.session is None:
            request = None  # Nothing could be remembered: the next request would be refused in the same way.
        lightens = received.code == NOT_PORTABLE and request is not None and has_encrypted(request, "")
        verdict, evidence = judge(
            keeper.pool, exchange.asked, exchange.attempt, "MESSAGE", received, repeatable=False, lightens=lightens
        )
        if self.turn is not None:
            self.turn.verdict, self.turn.evidence = verdict, str(evidence)
        self.sockets.history.judged(exchange.attempt.name, verdict)
        learn(keeper, exchange.asked, exchange.attempt, received, verdict, evidence, self._model_of_request)
        if verdict.next is Next.LIGHTER and request is not None:
            self._retry_lighter(message, request)
        elif verdict.next in MOVES:
            self._move(message, received, verdict)
            exchange.attempt.outcome = str(evidence)

    def _retry_lighter(self, message: websocket.WebSocketMessage, request: bytes) -> None:
        """Repeat a request without the reasoning that another account has encrypted, here and from now on.

        A request that builds on an earlier answer of this socket cannot be repeated, because the refusal may have
        discarded that answer: then the client connects again, and sends its whole history.
        """
        exchange, dressing = self.exchange, self.sockets.dressing
        session = self._keeper.pool.sessions.get(exchange.session)
        dressing.not_portable(exchange.asked, session, exchange.attempt)
        if frames.parsed(request).get("previous_response_id") is not None:
            message.content = frames.connect_again()
            self._leave("its encrypted reasoning is from another account")
            return
        message.drop()
        content = dressing.message(request, exchange.asked, session, exchange.attempt)
        _inject(self.flow, content, to_client=False)

    def _move(self, message: websocket.WebSocketMessage, received: BackendAnswer, verdict: Verdict) -> None:
        """Replace a refusal by the frame that moves the session to another identity, or says why that is impossible.

        The client must not come back to the same identity. If that identity is still able to serve, its session is
        kept away from it; if that is not possible, the client is not told to connect again.
        """
        pool, asked, now = self._keeper.pool, self.exchange.asked, time.time()
        if verdict.next is Next.ONCE and pool.exclusions.has_left(asked.session, now):
            return  # This was the second identity.
        attempt = self.exchange.attempt
        is_able = verdict.next is not Next.SAME and pool.is_able(attempt.name, attempt.bearer.fingerprint, asked, now)
        lasts = MODEL_LASTS if verdict.finding is Finding.NOT_FOR_THIS_MODEL else AWAY
        if is_able and not pool.leaves(attempt.name, asked, now, lasts):
            if received.status == 401:
                message.content = frames.unservable(no_identity(pool, asked, now).message)
            return
        can_serve = pool.can_serve(asked, now)
        if not can_serve and verdict.next in MAY_BE_ITS_OWN:
            return
        if can_serve or pool.awaited(asked, now, PATIENCE):
            message.content = frames.connect_again()
            self._leave(f"{received.status} {redact_text(received.code)}")
            return
        why = no_identity(pool, asked, now)
        logger.warning("session %s: %s", self.exchange.named, why.message)
        advised = advice(why.returns_at, why.is_limit, now)
        if why.returns_at is None or advised is Advice.FINAL:
            message.content = frames.unservable(why.message)
        elif advised is Advice.WAIT:
            message.content = frames.wait(why.message, seconds_to(why.returns_at, now))
        else:
            message.content = frames.limited(limit_error(why.message, why.returns_at), promo(why.summary))

    def _closed_by_backend(self, code: int | None) -> None:
        exchange, attempt, at = self.exchange, self.exchange.attempt, time.time()
        pool, session = self._keeper.pool, exchange.named
        if code in MESSAGE_REFUSED:
            logger.info("session %s: %s closed its socket with %d", session, attempt.name, code)
        elif (self.pending and not self.has_begun and code not in SERVER_CLOSES) or (
            code in CLIENT_REFUSED and not self.has_answered
        ):  # That may be the identity's fault, and no status says so.
            why = f"its socket was closed with {code or 'no code'} before an answer"
            evidence = Evidence(at, "MESSAGE", exchange.asked.path, fingerprint=attempt.bearer.fingerprint, note=why)
            logger.warning("session %s: %s: %s", session, attempt.name, why)
            pool.states.doubted(attempt.name, evidence, Cause.of(exchange.asked, f"closed with {code}"))
        elif self.pending:
            logger.info("session %s: %s closed its socket during an answer (%s)", session, attempt.name, code)
            pool.troubled(attempt.name, at)

    # -- the socket itself

    def _identity(self, pool: Pool) -> Identity | None:
        """Return the identity of this socket, or None if its name is now another one's in pool.toml."""
        attempt = self.exchange.attempt
        identity = pool.identities.get(attempt.name)
        if identity is None or identity.metadata is None or identity.metadata.key != attempt.metadata.key:
            return None
        return identity

    def _model_of_request(self) -> str:
        """Return the model of the request that is being answered; empty if that is not certain."""
        if self.flow.websocket is None or len(self.pending) != 1:
            return ""
        for message in reversed(self.flow.websocket.messages):
            if message.from_client and not message.dropped and frames.kind(message.content) == frames.CREATE:
                model = frames.parsed(message.content).get("model")
                return model if isinstance(model, str) else ""
        return ""

    def _remove_keys(self, message: websocket.WebSocketMessage) -> None:
        clean = message_without_keys(message.content)
        if clean is not None:
            message.content = clean
            logger.warning("session %s: removed a member key from a message", self.exchange.named)

    def _end_first(self) -> Pending:
        pending = self.pending.pop(0) if self.pending else Pending()
        pending.release()
        return pending

    def _release_slots(self) -> None:
        for pending in self.pending:
            pending.release()
        self.pending.clear()

    def _end_turn(self, outcome: str, failed: bool) -> None:
        if self.turn is not None:
            turn, self.turn = self.turn, None
            self.sockets.history.turn_ended(self.exchange.trace, turn, outcome, failed)

    def _leave(self, why: str) -> None:
        self.has_left, self.last_request = True, None
        self._release_slots()
        self._end_turn(f"told to connect again ({why})", failed=True)
        name = self.exchange.attempt.name
        logger.info("session %s: told to connect again, away from %s (%s)", self.exchange.named, name, why)
        asyncio.get_running_loop().call_later(GRACE, _hang_up, self.flow)

    def _close(self, why: str) -> None:
        self._leave(why)
        _hang_up(self.flow)


class Sockets:
    """All open WebSockets of swap paths."""

    def __init__(self, flows: Flows, dressing: Dressing, history: History, gate: Gate, turns: Turns) -> None:
        self.flows = flows
        self.dressing = dressing
        self.history = history
        self.gate = gate
        self.turns = turns
        self.are_ending = False
        self._open: WeakKeyDictionary[http.HTTPFlow, OpenSocket] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Register the socket of a handshake that was answered."""
        self._open[flow] = socket = OpenSocket(flow, exchange, self)
        socket.close_if_ending()

    def closed(self, flow: http.HTTPFlow) -> None:
        """Forget a socket. In the middle of an answer the client connects again by itself."""
        if (socket := self._open.pop(flow, None)) is not None:
            socket.on_close()

    async def on_message(self, flow: http.HTTPFlow) -> None:
        """Act on the last message before it is passed on."""
        message, socket = _new_message(flow), self._open.get(flow)
        if message is None or socket is None:
            return
        if message.from_client:
            size = len(message.content)  # as the client sent it
            await socket.on_client(message)
            self.history.sent(socket.exchange.trace, socket.turn, size)
        else:
            socket.on_backend(message)

    def reader(self, flow: http.HTTPFlow) -> Reader | None:
        """Return what reads the messages of a socket's backend."""
        socket = self._open.get(flow)
        return socket.read if socket is not None else None

    def refuse_unknown(self, flow: http.HTTPFlow) -> None:
        """Drop a client's message on a socket from before a reload, and have its client connect again.

        The identity of such a socket, its member and what they may ask are unknown now.
        """
        message = _new_message(flow)
        if message is None or not message.from_client:
            return
        message.drop()
        if frames.kind(message.content) == frames.CREATE:
            _inject(flow, frames.connect_again())
        else:
            _hang_up(flow)

    def pool_changed(self, pool: Pool) -> None:
        """Close the idle sockets that may not go on after a change of the identities or the members."""
        for socket in list(self._open.values()):
            socket.close_if_unserved(pool)

    def sessions_moved(self, moved: Mapping[str, IdentityKey]) -> None:
        """Have the sockets of sessions that other proxies moved leave the identity that served them until now."""
        for socket in list(self._open.values()):
            exchange = socket.exchange
            if exchange.session is not None and moved.get(exchange.session) == exchange.attempt.metadata.key:
                socket.session_moved()

    def end(self) -> None:
        """Close idle sockets now, and busy ones as soon as they have their answer."""
        self.are_ending = True
        for socket in list(self._open.values()):
            socket.close_if_ending()


def trim(flow: http.HTTPFlow) -> None:
    """Forget all but the last few messages of a connection."""
    if flow.websocket is not None:
        del flow.websocket.messages[:-MESSAGES_KEPT]


def _new_message(flow: http.HTTPFlow) -> websocket.WebSocketMessage | None:
    """Return the message that mitmproxy is about to pass on, unless an addon has injected or dropped it."""
    message = flow.websocket.messages[-1] if flow.websocket is not None else None
    return None if message is None or message.injected or message.dropped else message


async def _ambiguity(message: websocket.WebSocketMessage) -> str:
    """Return why parsers could disagree on a member's message; empty if they cannot."""
    if not message.is_text:
        return "it is binary"
    if len(message.content) > strict.AT_ONCE:
        return await tasks.in_thread(strict.ambiguity, message.content)
    return strict.ambiguity(message.content)


def _hang_up(flow: http.HTTPFlow) -> None:
    if flow.live:
        hang_up(ctx.master.addons.get("proxyserver"), flow)


def _inject(flow: http.HTTPFlow, message: bytes, to_client: bool = True) -> None:
    ctx.master.commands.call("inject.websocket", flow, to_client, message)
