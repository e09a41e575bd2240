"""Clients that behave like Codex: sessions, turns, tools, retries and fallbacks."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import zstandard
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tests.e2e.world import MODEL, OWN, USAGE, own_headers
from tests.running import CLIENT
from tests.soak.constants import DISCOVERY, INNER, MODELS, OUTER, SEARCH, SILENCE, SLOW, Event
from tests.soak.world import NoAnswerError, NoSocketError, World


class Client:
    """One client, with one session after another."""

    def __init__(self, world: World, number: int, seed: int, sockets: bool) -> None:
        self.world, self.number, self.prefers_sockets = world, number, sockets
        self.dice = random.Random(f"{seed}-{number}")
        self._words = itertools.count(1)
        self._http: httpx.AsyncClient | None = None
        # Of the session:
        self._session = ""
        self._on_sockets = sockets
        self._socket: ClientConnection | None = None
        self._history: list[Event] = []
        self._turn_state: str | None = None
        # Of the socket:
        self._built_on = ""
        """The id of the last answer on the socket..."""
        self._known = 0
        """... and how much of the history it includes."""

    async def run(self) -> None:
        """Hold sessions until the world ends."""
        try:
            for number in itertools.count(1):
                await self._hold_session(f"s{self.number}-{number}")
                if self.world.ended.is_set():
                    return
        finally:
            await self._leave_socket()
            if self._http is not None:
                await self._http.aclose()

    async def _hold_session(self, session: str) -> None:
        if self._http is not None and self.dice.random() < 0.25:  # as if the program restarted
            await self._http.aclose()
            self._http = None
        if self._http is None:
            options: Any = {"headers": own_headers(), "timeout": SILENCE, "trust_env": False}
            self._http = httpx.AsyncClient(proxy=self.world.proxy.url, verify=self.world.trust, **options)
        self._session, self._history = session, []
        self._on_sockets = self.prefers_sockets
        self.world.findings.counts["sessions"] += 1
        await self._begin()
        for _ in range(self.dice.randint(1, 8)):
            await self._turn()
            if self.world.ended.is_set():
                break
            await asyncio.sleep(self.dice.uniform(0.1, 1.0))
        await self._leave_socket()

    async def _begin(self) -> None:
        """Send the requests that precede the first turn."""
        account = (await self._ask("GET", DISCOVERY))["accounts"][0]["id"]
        if account != CLIENT.account_id:
            self.world.findings.add(f"{self._session}: discovery names the account {account}")
        await self._ask("GET", MODELS)
        if self.dice.random() < 0.2:
            await self._ask("GET", self.dice.choice((OWN, USAGE)))
        if self.dice.random() < 0.2:
            await self._ask("POST", SEARCH)

    async def _ask(self, method: str, url: str) -> Any:
        """Send a request that is not for the model, with the retries of a turn."""
        assert self._http is not None
        where = url.partition("?")[0].rpartition("/")[2]

        async def once() -> Any:
            assert self._http is not None
            more: Any = {} if method == "GET" else {"json": {"query": "x"}}
            try:
                answer = await self._http.request(method, url, headers=self._headers, **more)
            except httpx.TransportError as error:
                raise self._lost(error, where) from error
            if answer.status_code != 200:
                raise self.world.refused(answer.status_code, answer.headers, _json(answer.content), where)
            return answer.json()

        self.world.findings.counts["other requests"] += 1
        return await self._persistently(once, where) or {"accounts": [{"id": CLIENT.account_id}]}

    @property
    def _headers(self) -> dict[str, str]:
        return {"thread-id": self._session, "session-id": self._session, "x-codex-routing-hint": "model=gpt-test"}

    # -- a turn

    async def _turn(self) -> None:
        word = f"w{self.number}-{next(self._words)}"
        tools = " tools:1" if self.dice.random() < 0.25 else ""
        text = f"{'y' * self.dice.randint(0, 1500)}{tools} echo:{word}"
        content = [{"type": "input_text", "text": text}]
        self._history.append({"type": "message", "role": "user", "content": content})
        self._turn_state = None
        findings = self.world.findings
        findings.counts["turns"] += 1
        for _ in range(2):
            begun = time.monotonic()
            items = await self._persistently(lambda: self._request(word), word)
            if items is None:
                findings.counts["turns that ended in an error"] += 1
                return
            findings.waits.append(time.monotonic() - begun)
            findings.counts["answers on sockets" if self._on_sockets else "answers over HTTP"] += 1
            self._history += items
            self._known = len(self._history)
            call = next((item for item in items if item["type"] == "function_call"), None)
            if call is None:
                return
            output = {"type": "function_call_output", "call_id": call["call_id"], "output": "done"}
            self._history.append(output)

    async def _persistently(self, attempt: Callable[[], Awaitable[Any]], about: str) -> Any:
        """Retry as often as Codex does. Return None, and record it, if all attempts fail."""
        failures: list[str] = []
        begun = time.monotonic()
        result = await self._tries(attempt, about, failures)
        if (took := time.monotonic() - begun) > SLOW:
            self.world.findings.slow.append(f"{self._session} {about}: {took:.1f} s, {failures}")
        return result

    async def _tries(self, attempt: Callable[[], Awaitable[Any]], about: str, failures: list[str]) -> Any:
        while True:
            for outer in range(OUTER + 1):
                try:
                    result = await self._with_inner_retries(attempt, failures)
                except NoAnswerError as error:
                    if error.final:
                        self.world.findings.add(f"{self._session} {about}: final after {failures}")
                        return None
                    wait = 0.2 * 2**outer * self.dice.uniform(0.9, 1.1) if error.wait is None else error.wait
                    if outer < OUTER:
                        await asyncio.sleep(wait)
                else:
                    self.world.findings.retries[len(failures)] += 1
                    if sum("codexpool" in what for what in failures) > 1:
                        self.world.findings.counts["moved visibly"] += 1
                        self.world.findings.visible[" | ".join(failures)] += 1
                    return result
            if not self._on_sockets:
                self.world.findings.add(f"{self._session} {about}: given up after {failures}")
                return None
            self.world.findings.counts["fell back to HTTP"] += 1
            await self._leave_socket()
            self._on_sockets = False

    async def _with_inner_retries(self, attempt: Callable[[], Awaitable[Any]], failures: list[str]) -> Any:
        inner = 0
        while True:
            try:
                return await attempt()
            except NoAnswerError as error:
                failures.append(error.what)
                self.world.findings.troubles[error.what] += 1
                if not error.inner or inner == INNER or self._on_sockets:
                    raise
                await asyncio.sleep(0.2 * 2**inner if error.wait is None else error.wait)
                inner += 1

    async def _request(self, word: str) -> list[Event]:
        """Send one model request. Return the items of its answer, or raise NoAnswerError."""
        if not self._on_sockets:
            return await self._post(word)
        try:
            if self._socket is None:
                await self._connect()
            return await self._send_turn(word)
        except NoSocketError as error:
            self.world.findings.troubles[error.what] += 1
            self._on_sockets = False
            return await self._post(word)
        except NoAnswerError:
            await self._leave_socket(rudely=True)
            raise

    def _body(self, items: list[Event], **more: Any) -> Event:
        return {"model": "gpt-test", "stream": True, "store": False, "input": items, **more}

    def _lost(self, error: Exception, where: str) -> NoAnswerError:
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            self.world.findings.add(f"{self._session}: {where}: no byte for {SILENCE:.0f} s ({error!r})")
        return NoAnswerError(f"{where}: {type(error).__name__}", inner=True)

    # -- over HTTP

    async def _post(self, word: str) -> list[Event]:
        assert self._http is not None
        content = zstandard.compress(json.dumps(self._body(self._history)).encode())
        headers = {**self._headers, "content-encoding": "zstd", "content-type": "application/json"}
        if self._turn_state is not None:
            headers["x-codex-turn-state"] = self._turn_state
        events: list[Event] = []
        try:
            async with self._http.stream("POST", MODEL, content=content, headers=headers) as answer:
                if answer.status_code != 200:
                    body = _json(await answer.aread())
                    raise self.world.refused(answer.status_code, answer.headers, body, "POST")
                self._turn_state = answer.headers.get("x-codex-turn-state")
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        events.append(json.loads(line[6:]))
        except httpx.TransportError as error:
            self.world.take_part(events, word, self._session)
            trouble = self._lost(error, "POST")
            trouble.inner = not events
            raise trouble from error
        if events and events[-1]["type"] == "response.completed":
            return self.world.take(events, word, self._session)[1]
        self.world.take_part(events, word, self._session)
        if events and events[-1]["type"] == "response.failed":
            raise self.world.failed(events[-1], "POST")
        raise NoAnswerError("POST: the stream ended early")

    # -- over a WebSocket

    async def _connect(self) -> None:
        first = not self._history[1:]
        headers = {**own_headers(), **self._headers}
        options: Any = {"proxy": self.world.proxy.url, "ssl": self.world.trust, "max_size": None}
        try:
            self._socket = await connect(
                MODEL.replace("https", "wss"), additional_headers=headers, open_timeout=SILENCE, **options
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status == 426:
                raise NoSocketError("handshake 426") from error
            headers = {name.lower(): value for name, value in error.response.headers.raw_items()}
            raise self.world.refused(status, headers, _json(error.response.body or b""), "handshake") from error
        except (OSError, EOFError, WebSocketException) as error:
            raise self._lost(error, "handshake") from error
        self.world.findings.counts["sockets"] += 1
        self._built_on, self._known = "", 0
        if first:  # a prewarm, which may fail
            await self._send({**self._body([]), "generate": False})
            self._built_on = (await self._events("prewarm"))[-1]["response"]["id"]

    async def _send_turn(self, word: str) -> list[Event]:
        more: Event = {}
        if self._built_on:
            more["previous_response_id"] = self._built_on
        if self._turn_state is not None:
            more["client_metadata"] = {"x-codex-turn-state": self._turn_state}
        await self._send(self._body(self._history[self._known if self._built_on else 0 :], **more))
        self._built_on, items = self.world.take(await self._events(word), word, self._session)
        return items

    async def _send(self, body: Event) -> None:
        assert self._socket is not None
        try:
            await self._socket.send(json.dumps({"type": "response.create", **body}))
        except ConnectionClosed as error:
            raise NoAnswerError("socket was closed", wait=0) from error

    async def _events(self, word: str) -> list[Event]:
        """Return the events of one answer, or raise NoAnswerError."""
        events: list[Event] = []
        try:
            async for event in self._frames():
                match event["type"]:
                    case "codex.rate_limits":
                        continue
                    case "response.metadata":
                        self._turn_state = event["headers"].get("x-codex-turn-state", self._turn_state)
                        continue
                    case "error":
                        body = {"error": event.get("error")}
                        raise self.world.refused(int(event["status"]), event.get("headers", {}), body, "frame")
                    case "response.failed":
                        raise self.world.failed(event, "frame")
                events.append(event)
                if event["type"] == "response.completed":
                    return events
        except NoAnswerError:
            self.world.take_part(events, word, self._session)
            raise
        raise AssertionError("the frames of a socket end in an exception")

    async def _frames(self) -> AsyncIterator[Event]:
        assert self._socket is not None
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    yield json.loads(await self._socket.recv())
            except (ConnectionClosed, TimeoutError) as error:
                code = error.rcvd.code if isinstance(error, ConnectionClosed) and error.rcvd else "no close frame"
                if isinstance(error, TimeoutError):
                    self._lost(error, "socket")
                raise NoAnswerError(f"socket closed ({code})") from error

    async def _leave_socket(self, rudely: bool = False) -> None:
        """Leave the socket, sometimes without a close frame, as Codex does."""
        socket, self._socket = self._socket, None
        if socket is None:
            return
        if rudely or self.dice.random() < 0.5:
            socket.transport.abort()
        else:
            await socket.close()


def _json(body: bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return bytes(body).decode("utf-8", "replace")
