"""The HTTP client for requests of our own, whose host names are resolved in threads of our own.

asyncio resolves names in the few threads of the loop's default executor, and so does mitmproxy for each connection to
a server. A resolver that does not answer for whoami's host must not be what a client's request waits behind.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from codexpool import __version__
from codexpool.common import tasks


class Names(httpcore.AnyIOBackend):
    """Connects as httpcore does, but to addresses that a thread of its own has found."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            # A daemon: the end of the process does not wait for a resolver.
            found = await tasks.in_thread(_addresses, host, port, daemon=True)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in found[:-1]:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError:
                continue
        return await super().connect_tcp(found[-1], port, timeout, local_address, socket_options)


def client(tls: ssl.SSLContext, proxy: str | None, seconds: float, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """Return a client that heeds no proxy of the environment and keeps no cookies.

    ``proxy`` is the URL of a proxy, ``seconds`` bounds each step of a request, ``headers`` are sent with all of them.
    """
    transport = httpx.AsyncHTTPTransport(verify=tls, proxy=proxy, trust_env=False)
    pool: Any = transport._pool
    pool._network_backend = Names()  # httpx has no parameter for that of httpcore
    made = httpx.AsyncClient(
        transport=transport,
        # The environment's HTTPS_PROXY may well be this very proxy: mitmproxy ignores it, and so do we.
        trust_env=False,
        timeout=seconds,
        headers={"user-agent": f"codexpool/{__version__}", **headers},
    )
    # What is asked for one identity is nothing for the next one to be known by.
    made.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return made


def _addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, each once. Raises OSError."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
