"""Host names of our own requests, resolved in threads of our own.

asyncio resolves names in the few threads of the loop's default executor, and so does mitmproxy for each connection to
a server. A resolver that does not answer for whoami's host must not be what a client's request waits behind.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from codexpool import tasks


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


def transport(tls: ssl.SSLContext, proxy: str | None) -> httpx.AsyncHTTPTransport:
    """Return what an `httpx.AsyncClient` is to send its requests through."""
    made = httpx.AsyncHTTPTransport(verify=tls, proxy=proxy, trust_env=False)
    pool: Any = made._pool
    pool._network_backend = Names()  # httpx has no parameter for that of httpcore
    return made


def _addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, each once. Raises OSError."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
