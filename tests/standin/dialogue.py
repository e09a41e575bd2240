"""The turns on one open WebSocket: messages are answered in order, and each can continue the previous one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, NoReturn, Protocol

from tests.standin.agents import refused as refused_agent
from tests.standin.answers import Event, MalformedError, parse_generation
from tests.standin.connections import Socket
from tests.standin.endpoints import Backend
from tests.standin.exchange import CutError, Headers, Reply, Request, Transport, error_body
from tests.standin.faults import Answer, Plan
from tests.standin.tokens import Token, refused, turn_state
from tests.standin.tools import Conversation


class Desk(Protocol):
    """The parts of the service that a dialogue needs: the record of requests, and the answers."""

    backend: Backend
    plan: Plan

    def received(
        self,
        method: str,
        target: str,
        headers: Headers,
        transport: Transport,
        connection: int,
        server_name: str,
        peer: str,
    ) -> Request: ...

    def note_leak(self, request: Request) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...


class Dialogue:
    """The messages on one socket, under the identity of its upgrade."""

    def __init__(self, desk: Desk, socket: Socket, upgrade: Request, writer: asyncio.StreamWriter) -> None:
        self._desk = desk
        self._backend = desk.backend
        self._socket = socket
        self._upgrade = upgrade
        self._writer = writer
        self._talk = Conversation()
        """The conversation up to the last answer, which the next message can continue."""

    async def run(self) -> None:
        """Answer messages until either side closes. Raises RemoteProtocolError."""
        messages: asyncio.Queue[str] = asyncio.Queue()
        turns = self._desk.spawn(self._take_turns(messages))
        try:
            async for text in self._socket.messages():
                messages.put_nowait(text)
        finally:
            turns.cancel()
            await asyncio.gather(turns, return_exceptions=True)

    async def _take_turns(self, messages: asyncio.Queue[str]) -> None:
        while True:
            request = self._message(await messages.get())
            seen = request.seen
            try:
                self._talk = await self._turn(request)
                seen.complete = True
            except CutError:
                seen.cut = True
                self._writer.transport.abort()
            except OSError:
                return
            finally:
                seen.closed = 0 if seen.complete or seen.cut else self._socket.closed
                seen.aborted = not (seen.complete or seen.cut or seen.closed)

    def _message(self, text: str) -> Request:
        # The identity of a socket is that of its upgrade; a message has no headers of its own.
        upgrade = self._upgrade
        target, seen, name = upgrade.path, upgrade.seen, upgrade.server_name
        request = self._desk.received("MESSAGE", target, seen.headers, "message", seen.connection, name, seen.peer)
        request.received(text.encode())
        return request

    async def _turn(self, request: Request) -> Conversation:
        """Answer one ``response.create``; return the conversation that the next one can continue."""
        self._desk.note_leak(request)
        answer = self._desk.plan.take(request)
        if answer is not None:
            await asyncio.sleep(answer.delay)
            if answer.cut == "head" or (answer.close and not answer.close_after):
                await self._leave(answer)
        try:
            if answer is not None and answer.status:
                raise _TurnError(answer.frame())
            token, data, talk = self._admit(request)
        except _TurnError as error:
            request.seen.status = int(error.frame["status"])
            await self._socket.send(error.frame)
            return Conversation()
        request.seen.status = 200
        return await self._generate(request, token, data, talk, answer)

    def _admit(self, request: Request) -> tuple[Token, dict[str, Any], Conversation]:
        """Return the token, the request and the conversation of a message."""
        token = self._backend.known(request.bearer)
        if token is None or not token.is_good:
            raise _TurnError(_frame(refused(token)))
        if request.code and request.code != "invalid_timestamp":  # Signed at the handshake.
            raise _TurnError(_frame(refused_agent(request)))
        try:
            data = parse_generation(request.body)
            if data.get("type") != "response.create":
                raise MalformedError(f"type is {data.get('type')!r}")
            talk = self._talk_before(data).continued(data)
        except MalformedError as error:
            request.seen.refusal = str(error)
            raise _TurnError(_frame(Reply.of_json(error_body("invalid_request", str(error)), 400))) from error
        if refusal := self._backend.refuse_generation(data, token):
            raise _TurnError(_frame(refusal))
        return token, data, talk

    def _talk_before(self, data: dict[str, Any]) -> Conversation:
        previous = data.get("previous_response_id")
        if previous is None:
            return Conversation()
        if not previous or previous != self._talk.response_id:
            text = f"Previous response with id '{previous}' not found."
            raise _TurnError(_frame(Reply.of_json(error_body("previous_response_not_found", text), 400)))
        return self._talk

    async def _generate(
        self, request: Request, token: Token, data: dict[str, Any], talk: Conversation, answer: Answer | None
    ) -> Conversation:
        number, pace = request.seen.number, self._backend.style.changed_by(answer).pace
        headers = {"x-codex-turn-state": turn_state(token, number)}
        await self._socket.send({"type": "response.metadata", "headers": headers})
        for frame in self._backend.limits.frames(token, data["model"]):
            await self._socket.send(frame)
        left = _deltas_before_leaving(answer)
        for event in self._backend.events(token, number, data, talk, answer):
            if answer is not None and left is not None and (left <= 0 or event["type"] == "response.completed"):
                await self._leave(answer)
            await self._socket.send(event)
            talk = talk.answered(event)
            if left is not None:
                left -= event["type"].endswith(".delta")
            if pace and data.get("generate") is not False:
                await asyncio.sleep(pace)
        return talk

    async def _leave(self, answer: Answer) -> NoReturn:
        """Cut the connection or close the socket, as planned. Raises CutError or ConnectionError."""
        if answer.cut:
            raise CutError
        await self._socket.close(answer.close)
        raise ConnectionError("closed as planned")


class _TurnError(Exception):
    """A message that gets an error frame."""

    def __init__(self, frame: Event) -> None:
        super().__init__(frame["status"])
        self.frame = frame


def _frame(reply: Reply) -> Event:
    assert isinstance(reply.body, bytes)
    return {"type": "error", "status": reply.status, **json.loads(reply.body), "headers": dict(reply.headers)}


def _deltas_before_leaving(answer: Answer | None) -> int | None:
    if answer is None or not (answer.cut or answer.close):
        return None
    return 1 if answer.cut else answer.close_after
