"""WebSockets in mid-flight: a turn that its identity cannot go on with is gone on with under another one.

The identity of a socket is fixed at its handshake, and a socket is never moved. What moves a session is that the
client connects again: it has one frame for that, upon which it does so at once, with its whole history and without
a word (see `codexpool.protocol.frames.connect_again`); the handshake then gets another identity. So nothing that
was passed on is ever repeated by us, and what a client sends is passed on or dropped, never kept for another
socket.

The states of a socket, and what ends them:

- idle: nothing is asked. A ``response.create`` makes it busy, and so does whatever the backend says unasked.
- busy: answers are on their way. The last event of the last of them, or an error, makes it idle.
- left: the client was told to connect again, or the socket was closed. What still comes of either side is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http, websocket

from codexpool.common import tasks
from codexpool.members.turn_queue import Slot
from codexpool.pool.causes import Cause
from codexpool.pool.exclusions import AWAY, MODEL_HOLDS
from codexpool.pool.identity import Evidence, Identity, Status
from codexpool.pool.needs import nobody
from codexpool.pool.patience import PATIENCE
from codexpool.pool.states import CONDEMNED
from codexpool.pool.verdict import MAY_BE_ITS_OWN, NOT_PORTABLE, Finding, Next, Verdict
from codexpool.protocol import frames, rate_limits, strict
from codexpool.protocol.encrypted_reasoning import has_encrypted
from codexpool.protocol.endpoints import RESPONSES
from codexpool.protocol.headers import TURN_STATE
from codexpool.protocol.member_keys import message_without_keys
from codexpool.protocol.token_usage import tokens_of
from codexpool.proxy import turns
from codexpool.proxy.exchange import Exchange
from codexpool.proxy.gate import Gate
from codexpool.proxy.judge import Said, judge, learn, of_failure, of_frame, saw, saw_gauges
from codexpool.proxy.outgoing import Dressing
from codexpool.proxy.replies import Told, limit_error, promo, seconds_to, told
from codexpool.proxy.resend import hang_up
from codexpool.proxy.turns import Denied, Turns
from codexpool.redaction import redact_text
from codexpool.traces.history import History
from codexpool.traces.trace import TurnTrace
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")

MESSAGES_KEPT = 16
"""Messages of a WebSocket that a flow shows; mitmproxy would keep them all until it is closed."""

ENDED = frozenset({*CONDEMNED, Status.LIMITED, Status.PAUSED})
"""What an identity has become when its idle sockets are told to connect again."""


ITS_OWN_DOING = frozenset({1000, 1001, 1012, 1013})
"""Close codes with which a server ends sockets for reasons of its own: it is done, restarts or has no room."""

OF_THE_MESSAGE = frozenset({1003, 1007, 1009})
"""Close codes about what the client has sent: it is too long, or nothing that the server takes (RFC 6455, 7.4.1)."""

TURNS_AWAY = frozenset({1008, 1011})
"""Close codes that turn a client away, even before it has asked anything."""


GRACE = 5.0
"""Seconds that a client has to let go of a socket, once it was told to connect again."""


class Place(NamedTuple):
    """What one request holds while it is asked, if it is a turn; and the model that it asks."""

    slot: Slot | None = None
    model: str = ""

    def leave(self) -> None:
        if self.slot is not None:
            self.slot.release()


@dataclass(slots=True)
class Socket:
    """An open socket.

    ``asked`` counts the requests whose answers have not ended: with none it is idle. ``request`` is the last of them
    if it has encrypted reasoning, until the answer begins. After ``has_left`` nothing is passed on any more.
    """

    exchange: Exchange
    asked: int = 0
    request: bytes | None = None
    has_left: bool = False
    has_begun: bool = False
    """Something has come of the answer to what is asked now..."""
    has_answered: bool = False
    """... or of any answer on this socket."""
    turn: TurnTrace | None = None
    """What is asked now, for the trace."""
    places: list[Place] = field(default_factory=list)
    """Of what is asked, in its order."""

    @property
    def is_model(self) -> bool:
        """Whether it is the model's. Of others nobody knows what a message asks: they are always taken for idle."""
        return self.exchange.asked.path == RESPONSES

    def leave_all(self) -> None:
        """Nothing is asked any more."""
        for place in self.places:
            place.leave()
        self.places.clear()


def trim(flow: http.HTTPFlow) -> None:
    """Forget all but the last few messages of a connection."""
    if flow.websocket is not None:
        del flow.websocket.messages[:-MESSAGES_KEPT]


class Sockets:
    """All open WebSockets of swap paths."""

    def __init__(self, dressing: Dressing, history: History, gate: Gate, turns: Turns) -> None:
        self._dressing = dressing
        self._gate = gate
        self._turns = turns
        self._history = history
        self._sockets: WeakKeyDictionary[http.HTTPFlow, Socket] = WeakKeyDictionary()
        self._ends = False
        """Whether the proxy was told to end."""

    def __len__(self) -> int:
        """How many are open."""
        return len(self._sockets)

    def opened(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """A handshake was served."""
        self._sockets[flow] = socket = Socket(exchange)
        self._end_if_idle(flow, socket)

    def closed(self, flow: http.HTTPFlow, keeper: Keeper | None) -> None:
        """A socket is closed. In the middle of an answer the client connects again by itself."""
        socket = self._sockets.pop(flow, None)
        if socket is None or flow.websocket is None:
            return
        by = "the client" if flow.websocket.closed_by_client else "the backend"
        self._ended(socket, f"the socket was closed by {by}", failed=True)
        socket.leave_all()
        if keeper is not None and not socket.has_left and not flow.websocket.closed_by_client:
            self._closed_by_backend(socket, flow.websocket.close_code, keeper)

    @staticmethod
    def _closed_by_backend(socket: Socket, code: int | None, keeper: Keeper) -> None:
        """The backend has closed a socket. Before an answer that may be the identity's fault, and does not say so."""
        exchange, attempt, at = socket.exchange, socket.exchange.attempt, time.time()
        if code in OF_THE_MESSAGE:
            logger.info("session %s: %s closed its socket with %d", _session(socket), attempt.name, code)
        elif (socket.asked and not socket.has_begun and code not in ITS_OWN_DOING) or (
            code in TURNS_AWAY and not socket.has_answered
        ):
            why = f"its socket was closed with {code or 'no code'} before an answer"
            evidence = Evidence(at, "MESSAGE", exchange.asked.path, fingerprint=attempt.bearer.fingerprint, note=why)
            logger.warning("session %s: %s: %s", _session(socket), attempt.name, why)
            keeper.pool.states.doubted(attempt.name, evidence, at, Cause.of(exchange.asked, f"closed with {code}"))
        elif socket.asked:
            logger.info("session %s: %s closed its socket in mid-turn (%s)", _session(socket), attempt.name, code)
            keeper.pool.troubled(attempt.name, at)

    def message(self, flow: http.HTTPFlow, keeper: Keeper) -> None:
        """A message has come, from either side, and is about to be passed on."""
        socket = self._sockets.get(flow)
        if socket is None or flow.websocket is None:
            return
        message = flow.websocket.messages[-1]
        if message.injected or message.dropped:
            return
        if message.from_client and socket.exchange.member is not None:
            _take_keys_out(message, socket)
        if socket.has_left:
            message.drop()
            if message.from_client:  # It has not let go of the socket: then it is told so in another way.
                self._hang_up(flow)
        elif not socket.is_model:
            return  # Nobody with a key has one, and without a key nothing of it counts.
        elif message.from_client:
            self._asked(flow, socket, message, keeper)
        else:
            self._answered(flow, socket, message, keeper)

    def changed(self, keeper: Keeper) -> None:
        """Something about the identities has changed: idle sockets of those that do not serve any more are closed.

        An idle client notices that at once, and connects anew with its next request. A frame it would read only after
        it has sent that request.
        """
        for flow, socket in list(self._sockets.items()):
            identity = _identity_of(socket, keeper)
            if socket.asked or socket.has_left:
                continue
            if identity is None or identity.status in ENDED:
                self._leave(flow, socket, "its identity does not serve any more")
                self._hang_up(flow)
            elif not self._gate.may_go_on(socket.exchange.member):
                self._leave(flow, socket, "its member key opens nothing any more")
                self._hang_up(flow)

    def end(self) -> None:
        """The proxy ends: idle sockets are closed now, and busy ones as soon as they have their answer."""
        self._ends = True
        for flow, socket in list(self._sockets.items()):
            self._end_if_idle(flow, socket)

    async def turn_begins(self, flow: http.HTTPFlow, keeper: Keeper) -> None:
        """A message has come: if it begins a turn, that waits here for its place; if there is none, it is told so."""
        socket = self._sockets.get(flow)
        if socket is None or flow.websocket is None or socket.has_left or not socket.is_model:
            return
        message = flow.websocket.messages[-1]
        if message.injected or not message.from_client:
            return
        if socket.exchange.member is not None and (why := await _ambiguity(message)):
            _take_keys_out(message, socket)
            message.drop()
            logger.warning("session %s: a message is refused: %s", _session(socket), why)
            self._inject(flow, frames.unservable(f"codexpool: this message is refused: {why}"))
            return
        if frames.kind(message.content) != frames.CREATE:
            return
        if not frames.begins_turn(message.content):
            socket.places.append(Place())
            return
        may_wait = not any(place.slot is not None for place in socket.places)  # They would end behind it only.
        try:
            got = await self._turns.begin(keeper, socket.exchange.member, may_wait=may_wait)
        except Exception:
            socket.places.append(Place())  # It is passed on, and its answer is to find what it began with.
            raise
        if isinstance(got, Denied):
            message.drop()
            logger.info("session %s: %s", _session(socket), got.message)
            self._inject(flow, _told(got))
        elif flow in self._sockets and not socket.has_left:
            socket.places.append(Place(got, frames.model_of(message.content)))
        else:  # It was closed meanwhile.
            got.release()

    def stranger(self, flow: http.HTTPFlow) -> None:
        """A message has come on a socket that was opened before a reload.

        Nobody knows any more whose socket it is, under whom it speaks, or what it may ask: nothing leaves on it.
        """
        message = flow.websocket.messages[-1] if flow.websocket is not None else None
        if message is None or message.injected or not message.from_client:
            return
        message.drop()
        if frames.kind(message.content) == frames.CREATE:
            self._inject(flow, frames.connect_again())
        else:
            self._hang_up(flow)

    # -- from the client

    def _asked(
        self, flow: http.HTTPFlow, socket: Socket, message: websocket.WebSocketMessage, keeper: Keeper
    ) -> None:
        if frames.kind(message.content) != frames.CREATE:
            return
        exchange, pool = socket.exchange, keeper.pool
        identity = _identity_of(socket, keeper)
        may_go_on = self._gate.may_go_on(exchange.member)
        if not may_go_on or identity is None or not pool.serves_on(identity, exchange.asked, time.time()):
            message.drop()
            self._inject(flow, frames.connect_again())
            self._leave(flow, socket, "its identity does not serve" if may_go_on else "its member key opens nothing")
            return
        socket.asked += 1
        socket.has_begun = False
        exchange.attempt.at = time.time()
        self._begun(socket, exchange.attempt.at)
        session = pool.sessions.get(exchange.session)
        content = self._dressing.message(message.content, exchange.asked, session, exchange.attempt)
        if content is not message.content:
            message.content = content
        socket.request = content if b'"encrypted_content"' in content else None

    # -- from the backend

    def _answered(
        self, flow: http.HTTPFlow, socket: Socket, message: websocket.WebSocketMessage, keeper: Keeper
    ) -> None:
        exchange = socket.exchange
        exchange.trace.bytes_in += len(message.content)
        if socket.turn is not None:
            socket.turn.bytes_in += len(message.content)
        match kind := frames.kind(message.content):
            case frames.LIMITS:
                saw_gauges(keeper, exchange.attempt, rate_limits.of_frame(frames.parsed(message.content)))
            case frames.METADATA:
                values = frames.headers_of(frames.parsed(message.content))
                if (turn_state := values.get(TURN_STATE)) is not None:
                    self._dressing.turn_states.issued(turn_state, exchange.attempt.metadata.key)
                saw(keeper, exchange.asked, exchange.attempt, values)
            case frames.ERROR | frames.FAILED:
                self._failed(flow, socket, message, kind, keeper)
            case _ if kind in frames.ENDS:
                place = self._one_less(socket)
                self._ended(socket, kind.removeprefix("response."), failed=False)
                if place.slot is not None:
                    turns.served(keeper, exchange, tokens_of(message.content), place.model)
                socket.has_answered = True
                # What only warms the socket up is no turn: it says nothing of calls for a model.
                asked = exchange.asked._replace(is_turn=place.slot is not None)
                keeper.served(exchange.attempt.name, asked, exchange.attempt.at)
                self._end_if_idle(flow, socket)
            case _ if kind not in frames.PRELUDE:
                socket.asked = max(1, socket.asked)
                socket.request = None
                socket.has_begun = True

    def _failed(
        self, flow: http.HTTPFlow, socket: Socket, message: websocket.WebSocketMessage, kind: str, keeper: Keeper
    ) -> None:
        attempt = socket.exchange.attempt
        if attempt.bearer.token.encode() in message.content or b"x-error-json" in message.content:
            message.content = frames.scrubbed(message.content, attempt.bearer.token, attempt.name)
        frame = frames.parsed(message.content)
        said = of_failure(frames.failure_of(frame)) if kind == frames.FAILED else of_frame(frame)
        if kind == frames.ERROR and (said is None or not said.status):
            return  # The client waits on.
        if said is not None and said.status >= 400:
            self._judge(flow, socket, message, said, keeper)
        if not message.dropped:
            self._one_less(socket)
            self._ended(socket, f"failed: {said.status} {said.code}" if said is not None else kind, failed=True)
            self._end_if_idle(flow, socket)

    def _judge(
        self,
        flow: http.HTTPFlow,
        socket: Socket,
        message: websocket.WebSocketMessage,
        said: Said,
        keeper: Keeper,
    ) -> None:
        exchange = socket.exchange
        request, socket.request = socket.request, None
        if exchange.session is None:
            request = None  # Nothing could be remembered, and the next request would be refused in the same way.
        lightens = said.code == NOT_PORTABLE and request is not None and has_encrypted(request, "")
        verdict, evidence = judge(
            keeper, exchange.asked, exchange.attempt, "MESSAGE", said, repeatable=False, lightens=lightens
        )
        if socket.turn is not None:
            socket.turn.verdict, socket.turn.evidence = verdict, str(evidence)
        self._history.judged(exchange.attempt.name, verdict)
        model = partial(_model_asked, flow, socket)
        learn(keeper, exchange.asked, exchange.attempt, said, verdict, evidence, model)
        if verdict.next is Next.LIGHTER and request is not None:
            self._ask_lighter(flow, socket, message, request, keeper)
        elif verdict.next in MOVES:
            self._move(flow, socket, message, said, verdict, keeper)
            exchange.attempt.outcome = str(evidence)

    def _ask_lighter(
        self,
        flow: http.HTTPFlow,
        socket: Socket,
        message: websocket.WebSocketMessage,
        request: bytes,
        keeper: Keeper,
    ) -> None:
        """Have the same asked without what another account has encrypted, here and from now on.

        If the request builds upon what this socket was told before, that may be lost with the refusal: then the
        client connects again, and sends its whole history.
        """
        exchange = socket.exchange
        session = keeper.pool.sessions.get(exchange.session)
        self._dressing.not_portable(exchange.asked, session, exchange.attempt)
        if frames.parsed(request).get("previous_response_id") is not None:
            message.content = frames.connect_again()
            self._leave(flow, socket, "its encrypted reasoning is of another account")
            return
        message.drop()
        content = self._dressing.message(request, exchange.asked, session, exchange.attempt)
        self._inject(flow, content, to_client=False)

    def _move(
        self,
        flow: http.HTTPFlow,
        socket: Socket,
        message: websocket.WebSocketMessage,
        said: Said,
        verdict: Verdict,
        keeper: Keeper,
    ) -> None:
        """Have the turn go on under another identity, or say that there is none.

        A client that is told to connect again must not come back to the same identity. Where nothing about that has
        changed, its session is kept away from it; and a session that cannot be is not told so.
        """
        pool, asked, now = keeper.pool, socket.exchange.asked, time.time()
        may_relay = verdict.next in MAY_BE_ITS_OWN
        if verdict.next is Next.ONCE and pool.away.has_moved(asked.session, now):
            return  # This was the other one.
        attempt = socket.exchange.attempt
        is_well = verdict.next is not Next.SAME and pool.is_able(attempt.name, attempt.bearer.fingerprint, asked, now)
        lasts = MODEL_HOLDS if verdict.finding is Finding.NOT_FOR_THIS_MODEL else AWAY
        if is_well and not pool.leaves(attempt.name, asked, now, lasts):
            if said.status == 401:
                message.content = frames.unservable(nobody(pool, asked, now).message)
            return
        can_serve = pool.can_serve(asked, now)
        if not can_serve and may_relay:
            return
        if can_serve or pool.may_serve_soon(asked, now, PATIENCE):
            message.content = frames.connect_again()
            self._leave(flow, socket, f"{said.status} {redact_text(said.code)}")
            return
        why = nobody(pool, asked, now)
        logger.warning("session %s: %s", _session(socket), why.message)
        told_so = told(why.returns_at, why.is_limit, now)
        if why.returns_at is None or told_so is Told.FINAL:
            message.content = frames.unservable(why.message)
        elif told_so is Told.WAIT:
            message.content = frames.wait(why.message, seconds_to(why.returns_at, now))
        else:
            message.content = frames.limited(limit_error(why.message, why.returns_at), promo(why.summary))

    # -- the socket itself

    def _end_if_idle(self, flow: http.HTTPFlow, socket: Socket) -> None:
        """If the proxy ends, close a socket that nothing is asked on. (A message of now is passed on before that.)"""
        if self._ends and not socket.asked and not socket.has_left:
            self._leave(flow, socket, "the proxy ends")
            self._hang_up(flow)

    def _leave(self, flow: http.HTTPFlow, socket: Socket, why: str) -> None:
        socket.has_left, socket.request = True, None
        socket.leave_all()
        self._ended(socket, f"told to connect again ({why})", failed=True)
        name = socket.exchange.attempt.name
        logger.info("session %s: told to connect again, away from %s (%s)", _session(socket), name, why)
        asyncio.get_running_loop().call_later(GRACE, self._hang_up, flow)

    def _one_less(self, socket: Socket) -> Place:
        """The first of the requests has had its answer: the place that it had."""
        socket.asked = max(0, socket.asked - 1)
        place = socket.places.pop(0) if socket.places else Place()
        place.leave()
        return place

    def _begun(self, socket: Socket, at: float) -> None:
        """A request for the model, for the trace: of several at once the first counts."""
        if socket.turn is None:
            socket.turn = socket.exchange.trace.asked(at)

    def _ended(self, socket: Socket, outcome: str, failed: bool) -> None:
        if socket.turn is not None:
            turn, socket.turn = socket.turn, None
            self._history.turn_ended(socket.exchange.trace, turn, outcome, failed)

    def _hang_up(self, flow: http.HTTPFlow) -> None:
        if flow.live:
            hang_up(ctx.master.addons.get("proxyserver"), flow)

    def _inject(self, flow: http.HTTPFlow, message: bytes, to_client: bool = True) -> None:
        ctx.master.commands.call("inject.websocket", flow, to_client, message)


def _identity_of(socket: Socket, keeper: Keeper) -> Identity | None:
    """The identity that a socket speaks as; None where pool.toml has somebody else under its name by now."""
    attempt = socket.exchange.attempt
    identity = keeper.pool.identities.get(attempt.name)
    if identity is None or identity.metadata is None or identity.metadata.key != attempt.metadata.key:
        return None
    return identity


def _model_asked(flow: http.HTTPFlow, socket: Socket) -> str:
    """The model that the request which is answered now asks; empty where that is not certain."""
    if flow.websocket is None or socket.asked != 1:
        return ""
    for message in reversed(flow.websocket.messages):
        if message.from_client and not message.dropped and frames.kind(message.content) == frames.CREATE:
            model = frames.parsed(message.content).get("model")
            return model if isinstance(model, str) else ""
    return ""


async def _ambiguity(message: websocket.WebSocketMessage) -> str:
    """Why a member's message could be read in two ways; empty where it cannot."""
    if not message.is_text:
        return "it is binary"
    if len(message.content) > strict.AT_ONCE:
        return await tasks.in_thread(strict.ambiguity, message.content)
    return strict.ambiguity(message.content)


def _take_keys_out(message: websocket.WebSocketMessage, socket: Socket) -> None:
    clean = message_without_keys(message.content)
    if clean is not None:
        message.content = clean
        logger.warning("session %s: a member key was in a message, and was taken out", _session(socket))


def _told(denied: Denied) -> bytes:
    """The frame upon which a client shows a bound, or waits a moment and asks again."""
    if denied.is_limit:
        return frames.limited(limit_error(denied.message, denied.returns_at), promo(denied.message))
    return frames.wait(denied.message, seconds_to(denied.returns_at, time.time()))


MOVES = frozenset({Next.SAME, Next.RENEWED, Next.OTHER}) | MAY_BE_ITS_OWN
"""What becomes of a request that shall not go on where it is. (After a renewal the handshake has the new token.)"""


def _session(socket: Socket) -> str:
    return socket.exchange.named
