"""The stand-in itself: two listeners on loopback, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tests.standin.agents import Agent, make
from tests.standin.certificates import Authority
from tests.standin.credits import LIFETIME
from tests.standin.endpoints import NO_FAMILIES, Backend, Encrypted
from tests.standin.exchange import Seen, Transport
from tests.standin.faults import LEAVING, Answer
from tests.standin.limits import MAIN, SHORT
from tests.standin.listeners import Tls
from tests.standin.logins import ACCESS_LIFETIME, access_token, auth_json
from tests.standin.service import Service
from tests.standin.tokens import Token

HOSTS = ("chatgpt.com", "gov.chatgpt.com", "auth.openai.com", "ab.chatgpt.com", "api.openai.com")
"""The hosts it always plays, besides the origins of its tokens; a tunnel to any other one is refused."""

Protocol = Literal["http/1.1", "h2"]


class StandIn:
    """A strict backend on loopback: it knows each token's account, user, plan, FedRAMP flag and routing.

    Every method may be called from any thread.

    Args:
        tokens: those of the pool, which may be spent on swapped paths only.
        clients: those of clients, which belong on all other paths.
        folder: where the certificates go; ``ca_file`` is for clients and proxies to trust.
        address: where it listens; proxies on other machines need one that they reach.
        port, proxy_port: of the TLS listener and of the CONNECT proxy in front of it; 0 takes a free one.
        alpn: what is spoken, the preferred one first.
        websockets: False answers every upgrade with a 426.
        deltas, pace: pieces of a model's answer, and the seconds between two events.
        encrypted: whether answers carry encrypted reasoning, and whether another account takes it back.
        families: the limit id of each model (slug) that has a limit of its own: ``{"spark": "codex_spark"}``.
        compress: the content-encoding of every stream of events (``zstd``, ``gzip``, ``br``, ``deflate``), whatever
            the request accepts; empty for one that it does accept, if any.
    """

    def __init__(
        self,
        tokens: Iterable[Token],
        *,
        folder: Path,
        clients: Iterable[Token] = (),
        address: str = "127.0.0.1",
        port: int = 0,
        proxy_port: int = 0,
        alpn: tuple[Protocol, ...] = ("http/1.1",),
        websockets: bool = True,
        deltas: int = 3,
        pace: float = 0.0,
        encrypted: Encrypted = "none",
        families: Mapping[str, str] = NO_FAMILIES,
        compress: str = "",
    ) -> None:
        self.backend = Backend(
            tokens,
            clients,
            websockets=websockets,
            deltas=deltas,
            pace=pace,
            encrypted=encrypted,
            families=families,
            compress=compress,
        )
        self._address = address
        self.port = port
        self.proxy_port = proxy_port
        self._authority = Authority(folder)
        self.ca_file = self._authority.ca_file
        known = (*self.backend.pool.values(), *self.backend.clients.values())
        hosts = {*HOSTS, *(token.host for token in known)}
        self._service = Service(self.backend, Tls(self._authority.issue(sorted(hosts)), alpn), hosts)
        self._plan = self._service.plan
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    # -- its life

    def start(self) -> StandIn:
        """Begin to listen; the ports are known afterwards. Raises OSError where a port is taken."""
        ports: Future[tuple[int, int]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ports)), name="stand-in", daemon=True)
        self._thread.start()
        self.port, self.proxy_port = ports.result(10)
        return self

    def stop(self) -> None:
        """Drop all connections, and end the thread. What was recorded stays."""
        if self._thread is not None and self._stopped is not None:
            self._call(self._stopped.set)
            self._thread.join(10)
        self._thread = None

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _main(self, ports: Future[tuple[int, int]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        try:
            ports.set_result(await self._service.listen(self._address, self.port, self.proxy_port))
        except OSError as error:
            ports.set_exception(error)
            return
        await self._stopped.wait()
        await self._service.end()

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- what it knows

    def add(self, token: Token, *, pool: bool = True, client: bool = False) -> None:
        """Know one more token, of the pool or of a client (or of both, where there is no proxy between)."""
        self.backend.learn(token, pool=pool, client=client)
        if token.host not in self._service.hosts:
            self._service.hosts.add(token.host)
            self._service.tls.load(self._authority.issue(sorted(self._service.hosts)))

    def kill(self, token: str) -> None:
        """From now on a token is dead, for the backend as well as for whoami."""
        self._known(token).alive = False

    def revive(self, token: str) -> None:
        """Undo `kill`."""
        self._known(token).alive = True

    def limit(
        self,
        token: str,
        resets_at: float,
        *,
        family: str = MAIN,
        window: int = SHORT,
        code: str = "usage_limit_reached",
    ) -> None:
        """The quota of a token's account is used up until then: its model calls are answered 429.

        Args:
            token: whose; every other token of the same account and user is limited with it.
            resets_at: unix seconds, rounded up to whole ones; a time that has passed limits nothing.
            family: the limit id of a family of models, whose calls alone it concerns; otherwise it concerns all.
            window: minutes; 10080 is the weekly window.
            code: code and type of the error.

        Raises ValueError for a family that no model belongs to.
        """
        self.backend.limits.reach(self._known(token), resets_at, family=family, window=window, code=code)

    def unlimit(self, token: str) -> None:
        """Undo `limit`, for all families."""
        self.backend.limits.lift(self._known(token))

    def grant(self, token: str, count: int = 1, *, lifetime: float = LIFETIME) -> None:
        """Give a token's account so many reset credits that last ``lifetime`` seconds."""
        self.backend.credits.grant(self._known(token), count, lifetime)

    def login(
        self, owner: Token, *, pool: bool = True, client: bool = False, lifetime: float = ACCESS_LIFETIME
    ) -> dict[str, Any]:
        """A new OAuth login of ``owner``'s account: the content of an ``auth.json``.

        ``lifetime`` is the access token's, in seconds. Its refresh token works once, as do all that follow.
        """
        ends = time.time() + lifetime
        login = replace(owner, token=access_token(owner, lifetime=lifetime), alive=True, expires_at=ends)
        self.add(login, pool=pool, client=client)
        return auth_json(login, self.backend.refresh_tokens.issue(login))

    def agent(self, owner: Token, *, sealed: bool = False) -> Agent:
        """Know a new agent identity of ``owner``'s account; ``sealed``: its tasks are handed out encrypted."""
        agent = make(owner, sealed=sealed)
        self.backend.agents.learn(agent)
        self.add(agent.token)
        return agent

    @property
    def refreshes(self) -> int:
        """How often the token endpoint was asked for new tokens."""
        return self.backend.refreshes

    def _known(self, token: str) -> Token:
        known = self.backend.known(token)
        if known is None:
            raise KeyError("the stand-in does not know this token")
        return known

    # -- what it does

    def plan(self, answer: Answer) -> None:
        """Have some requests answered otherwise than they would be."""
        self._plan.add(answer)

    def unplan(self) -> None:
        """Answer everything as usual again."""
        self._plan.clear()

    def drop(self, transport: Transport | None = None) -> None:
        """Cut the open connections (``http/1.1``, ``h2`` or ``websocket``), or all of them."""
        self._call(self._service.drop, transport)

    def close(self, transport: Literal["websocket"] = "websocket", code: int = 1001) -> None:
        """Send a close frame on every open socket, even during a turn. Raises ValueError for an invalid code."""
        if transport != "websocket" or code not in LEAVING:
            raise ValueError(f"no close frame for {transport} with {code}")
        self._call(self._service.close, code)

    def push(self, frame: dict[str, Any]) -> None:
        """Send a frame on every open socket, unasked."""
        self._call(self._service.push, frame)

    @property
    def cut_share(self) -> float:
        """The share of model calls whose connection is cut, at the head or in the middle of the body."""
        return self._plan.cut_share

    @cut_share.setter
    def cut_share(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{value} is no share")
        self._plan.cut_share = value

    # -- what it has seen

    @property
    def record(self) -> bool:
        """Whether ``seen`` is kept; a benchmark does without."""
        return self._service.record

    @record.setter
    def record(self, value: bool) -> None:
        self._service.record = value

    @property
    def seen(self) -> list[Seen]:
        """Every request, in order, refused ones and messages on WebSockets among them."""
        return self._service.seen

    @property
    def leaks(self) -> list[Seen]:
        """Requests that carried a token of the pool where none belongs."""
        return self._service.leaks

    @property
    def troubles(self) -> list[str]:
        """Broken framing, errors of the stand-in itself: what no test should find here."""
        return self._service.troubles

    def requests(self, path: str, name: str | None = None) -> list[Seen]:
        """What was seen of a path, in order; of one token's name if given."""
        return [seen for seen in list(self.seen) if seen.path == path and name in (None, seen.name)]

    @property
    def refusals(self) -> list[str]:
        """Every rule that was broken, in order."""
        return [f"{seen.method} {seen.host}{seen.path}: {seen.refusal}" for seen in list(self.seen) if seen.refusal]

    def wait(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        """Wait until ``condition()`` is true. Raises TimeoutError after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not come to hold within {seconds} s")
            time.sleep(0.01)
