"""How codexpool's own requests (whoami, discovery, token renewals, webhooks) reach their servers.

Host names are resolved in threads of our own: asyncio and mitmproxy resolve theirs in the few threads of the event
loop's default executor, where a resolver that hangs on one of our hosts would delay the clients' requests.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import certifi

from codexpool import __version__
from codexpool.common import tasks
from codexpool.credentials.upstream_proxy import VARIABLE, is_direct
from codexpool.protocol.inflate import UnreadableError, inflated

if TYPE_CHECKING:
    import httpx  # Imported in the functions: it is slow, and not needed at start-up.

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # At INFO they log every request.

MAX_ANSWER: Final = 1 << 20  # Bytes of an answer, both as received and inflated.
AT_ONCE: Final = 64  # Requests of one client. httpx compares each with all others: thousands would block the loop.
JSON: Final[Mapping[str, str]] = {"accept": "application/json", "accept-encoding": "gzip"}


BROKEN: Final = dict.fromkeys(("ReadError", "WriteError", "RemoteProtocolError"), "the connection broke off")
"""What the names of errors mean; httpx is imported only when it is used."""


class NoAnswerError(Exception):
    """The request got no usable answer. The text says why, without anything that a server sent."""


@dataclass(frozen=True, slots=True)
class Route:
    """The upstream proxy and the trust of the proxy's own connections.

    ``proxy`` is the URL of a `codexpool.credentials.upstream_proxy.UpstreamProxy`, ``trusted`` a PEM file or a folder
    of them that is trusted besides the usual authorities and those of ``SSL_CERT_FILE``; ``insecure`` is mitmproxy's
    ``ssl_insecure``, and ``excluded`` are the hosts that are reached without the proxy (``NO_PROXY``).
    """

    proxy: str | None = field(default=None, repr=False)  # It may contain a password.
    trusted: str | None = None
    insecure: bool = False
    excluded: str = ""


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
    def transport(proxy: httpx.Proxy | None) -> httpx.AsyncHTTPTransport:
        made = httpx.AsyncHTTPTransport(verify=tls, proxy=proxy, trust_env=False)
        pool: Any = made._pool
        pool._network_backend = _Network()  # httpx has no parameter for httpcore's.
        return made

    way: Any = transport(None)
    if route.proxy is not None:
        to_proxy = tls if route.proxy.startswith("https:") else None
        way = _Fork(route, way, transport(httpx.Proxy(route.proxy, ssl_context=to_proxy)))
    made = httpx.AsyncClient(
        transport=way,
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
        raise NoAnswerError(_mistrust(error) or _reason(error)) from error
    response.headers.pop("content-encoding", None)
    return httpx.Response(response.status_code, headers=response.headers, content=content)


class LazyClient:
    """A client that the first request makes, in a thread. ``seconds`` bounds each request from when it is sent."""

    def __init__(self, route: Route, seconds: float) -> None:
        self._route = route
        self._seconds = seconds
        self._client: asyncio.Future[httpx.AsyncClient] | None = None
        self._room = asyncio.Semaphore(AT_ONCE)

    async def answer(self, method: str, url: str, **more: Any) -> httpx.Response:
        """Send a request and return the whole answer. Raises NoAnswerError."""
        if self._client is None or (self._client.done() and self._client.exception() is not None):
            self._client = asyncio.ensure_future(tasks.in_thread(client, self._route, self._seconds))
        made = await asyncio.shield(self._client)
        async with self._room:
            return await answer(made, method, url, self._seconds, **more)


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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the one that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _mistrust(error: BaseException) -> str:
    """Return why the certificate of a server is not trusted; empty if an error is another one."""
    found = next((one for one in _causes(error) if isinstance(one, ssl.SSLCertVerificationError)), None)
    if found is None:
        return ""
    return f"its certificate is not trusted: {found.verify_message}; SSL_CERT_FILE may name a company's authority"


def _reason(error: BaseException) -> str:
    """Return why there is no answer: what the operating system says, if that was the cause."""
    for link in _causes(error):
        if isinstance(link, socket.gaierror):
            return "its name has no address; is this machine online?"
        if isinstance(link, ssl.SSLError):  # Its errno is not the operating system's.
            return "the TLS handshake failed"
        if isinstance(link, OSError) and link.errno is not None:
            return os.strerror(link.errno).lower()
    return BROKEN.get(type(error).__name__, type(error).__name__)


class _Fork:
    """Sends requests through the upstream proxy, except those for hosts that are reached without it."""

    def __init__(self, route: Route, direct: httpx.AsyncBaseTransport, proxied: httpx.AsyncBaseTransport) -> None:
        self._excluded = route.excluded
        self._proxy = urlsplit(route.proxy or "").netloc.rpartition("@")[2]
        self._direct = direct
        self._proxied = proxied

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises NoAnswerError if the proxy is what failed."""
        import httpx

        if is_direct(request.url.host, self._excluded):
            return await self._direct.handle_async_request(request)
        try:
            return await self._proxied.handle_async_request(request)
        except httpx.ProxyError as error:
            raise NoAnswerError(f"the proxy {self._proxy} {_refusal(error)}") from error
        except httpx.ConnectError as error:
            if _mistrust(error):
                raise
            problem = "breaks off TLS connections" if _has_begun(error) else "cannot be reached"
            raise NoAnswerError(f"the proxy {self._proxy} {problem}") from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise NoAnswerError(f"the connection through the proxy {self._proxy} broke off") from error

    async def __aenter__(self) -> _Fork:
        await self._direct.__aenter__()
        await self._proxied.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._direct.__aexit__(*raised)
        await self._proxied.__aexit__(*raised)

    async def aclose(self) -> None:
        await self._direct.aclose()
        await self._proxied.aclose()


def _has_begun(error: BaseException) -> bool:
    """Return whether there was a connection, on which TLS failed."""
    names = ("EndOfStream", "BrokenResourceError")
    return any(isinstance(link, ssl.SSLError) or type(link).__name__ in names for link in _causes(error))


def _refusal(error: httpx.ProxyError) -> str:
    """Return what a proxy answered to CONNECT: its status, and none of its words."""
    if (found := re.match(r"\d{3}\b", str(error))) is None:
        return "does not answer as an HTTP proxy does"
    remedy = f": check user and password in {VARIABLE}" if found[0] == "407" else ""
    return f"answers {found[0]}{remedy}"


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
