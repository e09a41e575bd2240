"""The stand-in's side of the event loop: from an open connection to requests, answers and the record of both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine
from functools import partial
from typing import Any

import h2.exceptions
import wsproto.utilities

from codexpool.tokens.bearer import fingerprint
from tests.standin.connections import FramingError, Head, Http1, Socket
from tests.standin.dialogue import Dialogue
from tests.standin.endpoints import Backend
from tests.standin.exchange import CutError, Headers, Reply, Request, Seen, Transport, error_body
from tests.standin.faults import Answer, Plan
from tests.standin.http2 import Http2
from tests.standin.listeners import ConnectProxy, Link, Tls
from tests.standin.tokens import MEMBER_KEY, Refusal, misplaced

BACKLOG = 1024


class Service:
    """What runs in the loop. Other threads read its lists and set its plan."""

    def __init__(self, backend: Backend, tls: Tls, hosts: set[str]) -> None:
        self.backend = backend
        self.tls = tls
        self.hosts = hosts
        self.plan = Plan()
        self.seen: list[Seen] = []
        self.leaks: list[Seen] = []
        self.troubles: list[str] = []
        self.record = True
        self._numbers = itertools.count(1)
        self._connections = itertools.count(1)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: dict[asyncio.StreamWriter, Transport] = {}
        self._sockets: set[Socket] = set()

    # -- the loop's life

    async def listen(self, address: str, port: int, proxy_port: int) -> tuple[int, int]:
        """Open both listeners; returns their ports."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.trouble(f"{context}"))
        self._servers = [
            await loop.create_server(self.link, address, port, ssl=self.tls.context, backlog=BACKLOG),
            await loop.create_server(lambda: ConnectProxy(self), address, proxy_port, backlog=BACKLOG),
        ]
        first, second = (server.sockets[0].getsockname()[1] for server in self._servers)
        return first, second

    async def end(self) -> None:
        """Close the listeners, drop every connection, and wait for what was going on."""
        for server in self._servers:
            server.close()
        self.drop(None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The transports call connection_lost in the next iteration of the loop.
        await asyncio.sleep(0)

    def drop(self, transport: Transport | None) -> None:
        """Cut the connections of one kind, or all of them."""
        for writer, kind in list(self._writers.items()):
            if transport in (None, kind):
                writer.transport.abort()

    def close(self, code: int) -> None:
        """Send a close frame on all open WebSockets."""
        for socket in self._sockets:
            self.spawn(socket.close(code))

    def push(self, frame: dict[str, Any]) -> None:
        """Send a frame on all open WebSockets."""
        for socket in self._sockets:
            self.spawn(_push(socket, frame))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something until it ends or the stand-in does."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def trouble(self, text: str) -> None:
        """Note something that should not have happened, on either side."""
        self.troubles.append(text)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.trouble(f"{type(error).__name__}: {error}")

    # -- connections

    def link(self) -> Link:
        """The protocol for one connection that is, or is about to be, a TLS one."""
        return Link(lambda *connection: self.spawn(self._serve(*connection)))

    def admits(self, head: Head) -> bool:
        """Whether this is a CONNECT to a host the stand-in plays; what is not goes on record as refused."""
        host, _, port = head.target.rpartition(":")
        if head.method == "CONNECT" and host in self.hosts and port == "443":
            return True
        request = self.received(head.method, head.target, head.headers, "connect", next(self._connections))
        request.seen.host = host
        request.seen.status = 403
        request.seen.refusal = f"no tunnel to {head.target}"
        self.note_leak(request)
        return False

    async def _serve(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._connections)
        tls = writer.get_extra_info("ssl_object")
        over_h2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        self._writers[writer] = "h2" if over_h2 else "http/1.1"
        peer, *_ = writer.get_extra_info("peername") or ("",)
        name = self.tls.server_name(writer)
        received = partial(self.received, connection=number, server_name=name, peer=peer)
        try:
            if over_h2:
                await Http2(reader, writer, partial(received, transport="h2"), self.answer).serve()
            else:
                await self._serve_http1(link, Http1(reader, writer), received)
        except (FramingError, wsproto.utilities.RemoteProtocolError, h2.exceptions.ProtocolError) as error:
            self.trouble(f"connection {number}: {type(error).__name__}: {error}")
        except CutError:
            writer.transport.abort()
        except (OSError, EOFError):
            # The peer left; the record of its request notes that.
            pass
        finally:
            del self._writers[writer]
            writer.close()

    async def _serve_http1(self, link: Link, http: Http1, received: Any) -> None:
        while (head := await http.next_request()) is not None:
            request: Request = received(*head, transport="http/1.1")
            seen = request.seen
            upgrade = (request.header("upgrade") or "").lower() == "websocket"
            if upgrade:
                request.transport = seen.transport = "websocket"
            link.answering = asyncio.current_task()
            try:
                if (early := self.plan.take_early(request)) is not None:
                    return await self._refuse_early(http, request, early)
                reply = await self.answer(request, await http.body(request.headers))
                if reply.status == 101 and upgrade and not reply.cut:
                    socket = Socket(http, head.target, head.headers)
                    await socket.accept(reply.headers)
                    seen.complete = True
                    link.answering = None
                    self._writers[http.writer] = "websocket"
                    return await self._converse(socket, request, http.writer)
                await http.send(reply)
                seen.complete = True
            except CutError:
                seen.cut = True
                raise
            except FramingError as error:
                seen.status, seen.refusal = 400, f"bad framing: {error}"
                await http.send(Reply.of_json(error_body("bad_request", str(error)), 400))
                raise
            finally:
                link.answering = None
                seen.aborted = not (seen.complete or seen.cut or seen.refusal)
            if (request.header("connection") or "").lower() == "close":
                return None
        return None

    async def _refuse_early(self, http: Http1, request: Request, answer: Answer) -> None:
        self.note_leak(request)
        request.seen.status = answer.status
        http.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await http.send(answer.reply())
        request.seen.complete = True

    async def _converse(self, socket: Socket, upgrade: Request, writer: asyncio.StreamWriter) -> None:
        self._sockets.add(socket)
        try:
            await Dialogue(self, socket, upgrade, writer).run()
        finally:
            self._sockets.discard(socket)

    # -- requests

    def received(
        self,
        method: str,
        target: str,
        headers: Headers,
        transport: Transport,
        connection: int,
        server_name: str = "",
        peer: str = "",
    ) -> Request:
        """A request whose head has come, on record from now on."""
        path, _, query = target.partition("?")
        lower = [(name.lower(), value) for name, value in headers]
        seen = Seen(next(self._numbers), "", method, path, headers, transport, connection, peer, query=query)
        request = Request("", method, path, query, lower, transport, seen, server_name)
        self.backend.agents.identify(request)
        request.host = seen.host = (request.header("host") or "").removesuffix(":443").lower()
        if bearer := request.bearer:
            seen.fingerprint = fingerprint(bearer)
            token = self.backend.known(bearer)
            seen.name = token.name if token is not None else ""
        if self.record:
            self.seen.append(seen)
        return request

    async def answer(self, request: Request, body: bytes) -> Reply:
        """The reply to a whole request: refused, as planned, or as the endpoints have it."""
        answer: Answer | None = None
        try:
            request.received(body)
            refusal = self._refusal(request)
            self.note_leak(request)
            if refusal is None:
                answer = self.plan.take(request)
                reply = answer.reply() if answer and answer.status else self.backend.reply(request, answer)
            else:
                request.seen.refusal = refusal.reason
                reply = Reply.of_json(error_body(refusal.code, refusal.reason), refusal.status)
        except ValueError as error:
            # A body that cannot be decoded or lacks something (MalformedError).
            request.seen.refusal = str(error)
            reply = Reply.of_json(error_body("invalid_request", str(error)), 400)
        except Exception as error:  # whatever it is, the connection is served on, and tests see it
            self.trouble(f"{request.method} {request.path}: {error!r}")
            reply = Reply.of_json(error_body("internal", repr(error)), 500)
        if answer is not None:
            reply.cut, reply.interim = answer.cut, answer.interim
            reply.trailers = [(name.lower(), value) for name, value in answer.trailers.items()]
            await asyncio.sleep(answer.delay)
        request.seen.status = reply.status
        return reply

    def _refusal(self, request: Request) -> Refusal | None:
        if request.server_name and request.server_name != request.host:
            return Refusal(421, "misdirected", f"TLS to {request.server_name}, Host says {request.host}")
        if request.host not in self.hosts:
            return Refusal(421, "misdirected", f"no such host: {request.host}")
        return self.backend.refusal(request)

    def note_leak(self, request: Request) -> None:
        """A token of the pool belongs into Authorization of a request it may be spent on, and nowhere else.

        A member key of a proxy in front belongs nowhere here.
        """
        if misplaced(request, [*self.backend.secrets(), MEMBER_KEY], spent=self.backend.admitted(request)):
            self.leaks.append(request.seen)


async def _push(socket: Socket, frame: dict[str, Any]) -> None:
    # Either side may have just closed.
    with contextlib.suppress(OSError):
        await socket.send(frame)
