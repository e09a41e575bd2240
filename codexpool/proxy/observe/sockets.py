"""Open WebSockets in observe mode: their turns are followed, and every message is passed on as it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from mitmproxy import http, websocket

from codexpool.protocol import frames
from codexpool.protocol.encrypted_reasoning import has_encrypted
from codexpool.protocol.headers import PLACEHOLDER, TURN_STATE
from codexpool.proxy import judge
from codexpool.proxy.observe.observation import Observation
from codexpool.proxy.sockets import MOVES
from codexpool.redaction import redact_text
from codexpool.traces.history import History
from codexpool.traces.trace import TurnTrace

logger = logging.getLogger("codexpool")


@dataclass(slots=True)
class ObservedSocket:
    """An open socket, and its last request if that has encrypted reasoning."""

    observation: Observation
    turn: TurnTrace | None = None
    request: bytes = b""


class ObservedSockets:
    """The open WebSockets of observed requests."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._sockets: WeakKeyDictionary[http.HTTPFlow, ObservedSocket] = WeakKeyDictionary()

    def __contains__(self, flow: http.HTTPFlow) -> bool:
        return flow in self._sockets

    def opened(self, flow: http.HTTPFlow, observation: Observation) -> None:
        """Follow a socket from its 101 on."""
        self._sockets[flow] = ObservedSocket(observation)
        self._history.socket_opened(observation.trace)

    def message(self, flow: http.HTTPFlow) -> None:
        """Read a message from either side before it is passed on."""
        socket = self._sockets.get(flow)
        if socket is None or flow.websocket is None:
            return
        message = flow.websocket.messages[-1]
        if not message.injected:
            self._asked(socket, message) if message.from_client else self._answered(socket, message)

    def closed(self, flow: http.HTTPFlow, secrets: Iterable[bytes]) -> None:
        """End a socket, and remove the client's ``secrets`` from the messages the flow shows."""
        socket = self._sockets.pop(flow, None)
        if socket is None or flow.websocket is None:
            return
        by = "the client" if flow.websocket.closed_by_client else "the backend"
        self._ended(socket, f"the socket was closed by {by}", failed=True)
        self._history.socket_closed(socket.observation.trace, f"by {by} ({flow.websocket.close_code})")
        hidden = PLACEHOLDER.format("client").encode()
        for message in flow.websocket.messages:
            for secret in secrets:
                if secret in message.content:
                    message.content = message.content.replace(secret, hidden)

    def _asked(self, socket: ObservedSocket, message: websocket.WebSocketMessage) -> None:
        trace = socket.observation.trace
        if frames.kind(message.content) == frames.CREATE:
            socket.request = message.content if b'"encrypted_content"' in message.content else b""
            if socket.turn is None:
                socket.turn = trace.begin_turn(time.time())
        self._history.sent(trace, socket.turn, len(message.content))

    def _answered(self, socket: ObservedSocket, message: websocket.WebSocketMessage) -> None:
        content, observation = message.content, socket.observation
        self._history.received(observation.trace, socket.turn, len(content))
        match kind := frames.kind(content):
            case frames.METADATA:
                values = frames.headers_of(frames.parsed(content))
                if (turn_state := values.get(TURN_STATE)) is not None:
                    observation.issued(turn_state)
            case frames.ERROR | frames.FAILED:
                self._failed(socket, content, kind)
            case _ if kind in frames.ENDS:
                observation.served()
                self._ended(socket, kind.removeprefix("response."), failed=False)

    def _failed(self, socket: ObservedSocket, content: bytes, kind: str) -> None:
        frame = frames.parsed(content)
        failed = kind == frames.FAILED
        received = judge.of_failure(frames.failure_of(frame)) if failed else judge.of_frame(frame)
        if received is None:
            self._ended(socket, "failed", failed=True)
        elif received.status:  # Without one the client goes on waiting.
            outcome = f"failed: {received.status} {received.code}".rstrip()
            if socket.observation.exchange.tries:
                lightens = has_encrypted(socket.request, "")
                verdict, evidence = socket.observation.verdict(received, "MESSAGE", False, lightens)
                if socket.turn is not None:
                    socket.turn.verdict, socket.turn.evidence = verdict, str(evidence)
                outcome += ", would be told to connect again" if verdict.next in MOVES else ""
            self._ended(socket, outcome, failed=True)

    def _ended(self, socket: ObservedSocket, outcome: str, failed: bool) -> None:
        if socket.turn is None:
            return
        turn, socket.turn = socket.turn, None
        observation = socket.observation
        self._history.turn_ended(observation.trace, turn, outcome, failed)
        session = observation.exchange.asked.session or "-"
        text = f"a turn on the socket of session {session}: {observation.would}; {outcome}"
        logger.info("observed: %s", redact_text(text))
