"""How codexpool's own requests (whoami, discovery, token renewals, webhooks) reach their servers.

Host names are resolved in threads of our own: asyncio and mitmproxy resolve theirs in the few threads of the event
loop's default executor, where a resolver that hangs on one of our hosts would delay the clients' requests.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import certifi

from codexpool import __version__
from codexpool.common import tasks
from codexpool.protocol.inflate import UnreadableError, inflated

if TYPE_CHECKING:
    import httpx  # Imported in the functions: it is slow, and not needed at start-up.

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # At INFO they log every request.

MAX_ANSWER: Final = 1 << 20  # Bytes of an answer, both as received and inflated.
JSON: Final[Mapping[str, str]] = {"accept": "application/json", "accept-encoding": "gzip"}


class NoAnswerError(Exception):
    """The request got no usable answer. The text says why, without anything that a server sent."""


@dataclass(frozen=True, slots=True)
class Route:
    """The upstream proxy and the trust of the proxy's own connections.

    ``proxy`` is a URL (see `proxy_url`), ``trusted`` a PEM file or a folder of them that is trusted besides the usual
    authorities; ``insecure`` is mitmproxy's ``ssl_insecure``.
    """

    proxy: str | None = field(default=None, repr=False)  # It may contain a password.
    trusted: str | None = None
    insecure: bool = False


def proxy_url(scheme: str, host: str, port: int, auth: str) -> str:
    """Return the URL of a proxy; ``auth`` is mitmproxy's ``user:password``, with any characters in it."""
    user, colon, password = auth.partition(":")
    credentials = f"{quote(user, safe='')}{colon}{quote(password, safe='')}@" if auth else ""
    return f"{scheme}://{credentials}{f'[{host}]' if ':' in host else host}:{port}"


def client(route: Route, seconds: float, headers: Mapping[str, str] = JSON) -> httpx.AsyncClient:
    """Return a client that ignores the environment's proxies and keeps no cookies.

    ``seconds`` bounds each step of a request; ``headers`` are sent with every request. Reads files and imports
    modules: not for the event loop. Raises NoAnswerError if the trusted certificates cannot be read.
    """
    _skip_command_line()
    import httpx

    try:
        tls = _tls(route)
    except OSError as error:
        raise NoAnswerError(f"trusted certificates: {error}") from error

    # trust_env: the environment's HTTPS_PROXY may well be this very proxy.
    transport = httpx.AsyncHTTPTransport(verify=tls, proxy=route.proxy, trust_env=False)
    pool: Any = transport._pool
    pool._network_backend = _Network()  # httpx has no parameter for httpcore's.
    made = httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        timeout=seconds,
        headers={"user-agent": f"codexpool/{__version__}", **headers},
    )
    # A cookie set for one identity would link the next one to it.
    made.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return made


async def answer(
    client: httpx.AsyncClient, method: str, url: str, seconds: float, most: int = MAX_ANSWER, **more: Any
) -> httpx.Response:
    """Send a request and return the whole answer, received within ``seconds`` and of ``most`` bytes.

    Raises NoAnswerError.
    """
    import httpx

    try:
        async with asyncio.timeout(seconds), client.stream(method, url, **more) as response:
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > most:
                    raise NoAnswerError(f"an answer of more than {most} bytes")
        content = inflated(bytes(body), response.headers.get("content-encoding", ""), most)
    except (TimeoutError, httpx.TimeoutException):
        raise NoAnswerError(f"no whole answer within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnreadableError) as error:
        raise NoAnswerError(type(error).__name__) from error
    response.headers.pop("content-encoding", None)
    return httpx.Response(response.status_code, headers=response.headers, content=content)


class LazyClient:
    """A client that the first request makes, in a thread. ``seconds`` bounds each of its requests."""

    def __init__(self, route: Route, seconds: float) -> None:
        self._route = route
        self._seconds = seconds
        self._client: asyncio.Future[httpx.AsyncClient] | None = None

    async def answer(self, method: str, url: str, **more: Any) -> httpx.Response:
        """Send a request and return the whole answer. Raises NoAnswerError."""
        if self._client is None or (self._client.done() and self._client.exception() is not None):
            self._client = asyncio.ensure_future(tasks.in_thread(client, self._route, self._seconds))
        return await answer(await asyncio.shield(self._client), method, url, self._seconds, **more)


def _skip_command_line() -> None:
    """Keep httpx from importing its command line, and with it rich: 3 MiB that a proxy would keep for nothing."""
    if "httpx" not in sys.modules:
        command_line: Any = ModuleType("httpx._main")
        command_line.main = lambda: None
        sys.modules.setdefault(command_line.__name__, command_line)


@functools.cache
def _tls(route: Route) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if route.trusted is not None:
        is_folder = Path(route.trusted).is_dir()
        context.load_verify_locations(**{"capath" if is_folder else "cafile": route.trusted})
    if route.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Network:
    """httpcore's network backend, except that names are resolved in a thread of our own."""

    def __init__(self) -> None:
        import httpcore

        self._backend = httpcore.AnyIOBackend()
        self.connect_unix_socket = self._backend.connect_unix_socket
        self.sleep = self._backend.sleep

    async def connect_tcp(self, host: str, port: int, *more: Any, **named: Any) -> Any:
        import httpcore

        try:
            # A daemon thread: the end of the process must not wait for a resolver.
            *others, last = await tasks.in_thread(_addresses, host, port, daemon=True)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in others:
            try:
                return await self._backend.connect_tcp(address, port, *more, **named)
            except httpcore.ConnectError:
                continue
        return await self._backend.connect_tcp(last, port, *more, **named)


def _addresses(host: str, port: int) -> list[str]:
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
