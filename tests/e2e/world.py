"""What the tests of this folder stand on: a stand-in, a proxy in front of it, and plain clients."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h11
import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.e2e import tunnels
from tests.running import CLIENT, ROOT, Proxy, pool_toml, until
from tests.standin import HOSTS, RESPONSES, Answer, Seen, StandIn, Token

DOOR = Path(__file__).with_name("door.py")
OTHERS = Path(__file__).with_name("others.py")
BACKEND = "https://chatgpt.com"
MODEL = BACKEND + RESPONSES
OWN = BACKEND + "/backend-api/wham/settings/user"  # keeps the client's own credential
USAGE = BACKEND + "/backend-api/wham/usage"
FAILED_CLOSED = "codexpool_failed_closed"
STANDIN_OPTIONS = ("pace", "deltas", "websockets", "encrypted", "families", "compress")

_CLEAN = ("CODEXPOOL_CONFIG", "CODEX_AUTHAPI_BASE_URL", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY")


class E2EProxy(Proxy):
    """A `Proxy` with the environment, the working directory and the configuration one chooses."""

    def __init__(
        self,
        standin: StandIn,
        folder: Path,
        *arguments: str,
        door: bool = True,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        configured: bool = True,
        ready: int = 0,
        **more: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(standin, folder, *(("-s", str(OTHERS)) if door else ()), *arguments, **more)
        if door:
            self._command[1:1] = ["-s", str(DOOR)]
        if not configured:
            at = self._command.index(f"codexpool_config={self.pool}")
            del self._command[at - 1 : at + 1]
        kept = {name: value for name, value in self._environ.items() if name not in _CLEAN}
        # A configuration folder of its own: that of the person who runs this is not looked at.
        self._environ = {**kept, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "xdg"), **(environ or {})}
        self._cwd = cwd
        self.ready = ready
        """How many identities it waits for when it starts."""
        self._from = 0

    def start(self, wait: bool = True) -> None:
        self._from = len(self.log) if self.log_file.exists() else 0
        here = Path.cwd()
        try:
            os.chdir(self._cwd or here)
            super().start(wait=False)
        finally:
            os.chdir(here)
        if wait:
            self.listens()

    def listens(self) -> None:
        """Wait until it listens where it will stay, and every identity it is to have is ready."""
        assert self._process is not None
        process = self._process
        until(lambda: self._listening() or process.poll() is not None, 60, f"the proxy to listen:\n{self.log}")
        assert process.poll() is None, self.log
        until(
            lambda: self.log[self._from :].count(" is ready: ") >= self.ready,
            30,
            f"the pool to be ready:\n{self.log}",
        )

    def stop(self, signal_number: int = signal.SIGINT) -> int:
        """End it, if it has not ended by itself."""
        assert self._process is not None
        code = self._process.poll()
        return super().stop(signal_number) if code is None else code

    def end(self) -> None:
        """End it, if it was ever started."""
        if self._process is not None:
            self.stop()

    def ends(self, seconds: float = 60) -> int:
        """Wait until it has ended by itself; its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def door(self, *words: str) -> Any:
        """Send a command to the door."""
        proxy = self.url.replace("://", "://door:knocks@")  # the password if proxyauth is set
        with httpx.Client(proxy=proxy, trust_env=False, verify=False, timeout=30) as client:
            answer = client.get("http://door.test/" + "/".join(quote(word, safe="") for word in words))
            assert answer.status_code == 200, answer.text
            return answer.json()

    def status(self) -> dict[str, Any]:
        """The status document."""
        with httpx.Client(proxy=self.url, trust_env=False, timeout=30) as client:
            return dict(client.get("http://codex.pool/api/status").json())

    @contextmanager
    def broken(self, module: str, name: str) -> Iterator[None]:
        """Make a function of codexpool raise inside the block."""
        self.door("break", module, name)
        try:
            yield
        finally:
            self.door("restore")

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))

    def client_of_http2(self) -> httpx.Client:
        """Return a client that prefers HTTP/2."""

        class PrefersHttp2(ssl.SSLContext):
            def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
                super().set_alpn_protocols(["h2", "http/1.1"])

        context = PrefersHttp2(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca_file)
        options: Any = {"verify": context, "headers": own_headers(), "timeout": 30, "trust_env": False}
        return httpx.Client(proxy=self.url, http2=True, **options)

    def async_client(self, **more: Any) -> httpx.AsyncClient:
        """Return an asynchronous client."""
        return httpx.AsyncClient(
            proxy=self.url, verify=self.trust, headers=own_headers(), timeout=30, trust_env=False, **more
        )


class World:
    """A stand-in, a proxy, and the actions of a client."""

    def __init__(self, standin: StandIn, proxy: E2EProxy, tokens: tuple[Token, ...]) -> None:
        self.standin, self.proxy, self.tokens = standin, proxy, tokens
        self._since = 0

    # -- what was seen

    def reset(self) -> None:
        """Forget earlier requests, faults and limits, and revive all tokens."""
        self.proxy.door("restore")
        self.standin._plan.clear()
        for token in self.tokens:
            token.alive = True
            self.standin.unlimit(token.token)
        until(lambda: not self.proxy.door("rested"), 20, "whoami's word")
        self.standin.leaks.clear()
        self._since = len(self.standin.seen)

    @property
    def seen(self) -> list[Seen]:
        """The stand-in's requests since `reset`, without those that the pool makes for itself, and whoami's."""
        seen = list(self.standin.seen)[self._since :]
        return [one for one in seen if one.host != "auth.openai.com" and not one.by_pool]

    def whoamis(self, name: str | None = None) -> list[Seen]:
        """Return whoami's requests since `reset`."""
        seen = list(self.standin.seen)[self._since :]
        return [one for one in seen if one.host == "auth.openai.com" and name in (None, one.name)]

    def check(self) -> None:
        """Check that the stand-in refused nothing, and that no pool token went where it does not belong."""
        assert [(s.method, s.host, s.path, s.refusal) for s in self.standin.seen[self._since :] if s.refusal] == []
        assert self.standin.leaks == []

    def nothing_of_the_client_left(self) -> None:
        """Check that every swap path was requested with a token of the pool."""
        pool = {token.token for token in self.tokens}
        for seen in self.seen:
            if seen.path.startswith(("/backend-api/codex/", "/backend-api/wham/accounts/check")):
                assert (seen.header("authorization") or "").removeprefix("Bearer ") in pool, seen

    # -- what a client does

    def turn(self, client: httpx.Client, session: str = "s", text: str = "hello", **more: Any) -> httpx.Response:
        """Send a model request, as Codex does over HTTP."""
        headers = {"thread-id": session, **more.pop("headers", {})}
        return client.post(MODEL, json={"model": "m", "input": text}, headers=headers, **more)

    @asynccontextmanager
    async def socket(self, session: str = "s", **headers: str) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket to the model."""
        names = {**own_headers(), "thread-id": session, **headers}
        url = MODEL.replace("https", "wss")
        proxy, trust = self.proxy.url, self.proxy.trust
        async with connect(url, proxy=proxy, ssl=trust, additional_headers=names, max_size=None) as socket:
            yield socket


def own_headers() -> dict[str, str]:
    """What a client says of itself."""
    return {"authorization": f"Bearer {CLIENT.token}", "chatgpt-account-id": CLIENT.account_id}


async def socket_turn(socket: ClientConnection, text: str = "hello", model: str = "m") -> list[dict[str, Any]]:
    """One turn on an open WebSocket: the events of its answer."""
    await socket.send(json.dumps({"type": "response.create", "model": model, "input": text}))
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(15):
        while not events or events[-1]["type"] not in ("response.completed", "error"):
            events.append(json.loads(await socket.recv()))
    return events


def served_by(answer: httpx.Response | list[dict[str, Any]]) -> str:
    """Whose answer it is: the stand-in says so in its text."""
    if isinstance(answer, httpx.Response):
        assert answer.status_code == 200, answer.text
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        answer = [json.loads(line) for line in lines]
    text = "".join(event["delta"] for event in answer if event["type"] == "response.output_text.delta")
    assert text.startswith("answer from "), answer
    return text.removeprefix("answer from ").partition(",")[0]


def raw_exchange(world: World, request: bytes, host: str = "chatgpt.com") -> tuple[int, bytes]:
    """Send these very bytes on a tunnel to ``host``; status and all that came back."""
    with socket.create_connection(("127.0.0.1", world.proxy.port), 15) as plain:
        assert b" 200 " in tunnels.asked(plain, f"{host}:443")
        with world.proxy.trust.wrap_socket(plain, server_hostname=host) as tunnel:
            tunnel.sendall(request)
            parser = h11.Connection(h11.CLIENT)
            parser.send(h11.Request(method="GET", target="/", headers=[("host", host)]))
            parser.send(h11.EndOfMessage())
            status, body = 0, b""
            while True:
                match parser.next_event():
                    case h11.NEED_DATA:
                        parser.receive_data(tunnel.recv(65536))
                    case h11.Response(status_code=status):
                        pass
                    case h11.Data(data=data):
                        body += data
                    case _:
                        return status, body


@contextmanager
def a_world(folder: Path, *tokens: Token, arguments: tuple[str, ...] = (), **more: Any) -> Iterator[World]:
    """A world with these identities, ready to serve."""
    standin_options = {name: more.pop(name) for name in STANDIN_OPTIONS if name in more}
    plan: tuple[Answer, ...] = more.pop("plan", ())
    alive = sum(token.alive for token in tokens)
    with StandIn(tokens, clients=[CLIENT], folder=folder, **standin_options) as standin:
        for answer in plan:
            standin.plan(answer)
        pool_toml(folder, *tokens, head=more.pop("head", ""), tail=more.pop("tail", ""))
        more.setdefault("ready", alive)
        wait, started = more.pop("wait", True), more.pop("started", True)
        proxy = E2EProxy(standin, folder, *arguments, **more)
        try:
            if started:
                proxy.start(wait)
            yield World(standin, proxy, tokens)
        finally:
            proxy.end()


def copied_entry(folder: Path) -> Path:
    """A copy of the entry file with the package beside it, to be damaged."""
    shutil.copytree(ROOT / "codexpool", folder / "codexpool", ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.copy(ROOT / "addon", folder / "addon"))


__all__ = [
    "BACKEND",
    "DOOR",
    "FAILED_CLOSED",
    "HOSTS",
    "MODEL",
    "OWN",
    "USAGE",
    "E2EProxy",
    "World",
    "a_world",
    "copied_entry",
    "own_headers",
    "raw_exchange",
    "served_by",
    "socket_turn",
]
