"""Tunnels through a proxy, asked for by hand."""

from __future__ import annotations

import socket
from collections.abc import Callable


def asked(plain: socket.socket, target: str, more: str = "") -> bytes:
    """Ask for a tunnel to ``host:port``, with more header lines; the head of the proxy's reply.

    The target alone says where to: a client can write anything in its Host header.
    """
    plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
    return reply(plain, lambda said: said.endswith(b"\r\n\r\n"))


def reply(plain: socket.socket, ends: Callable[[bytes], bool]) -> bytes:
    """The proxy's own reply, and no byte of the tunnel that may follow in the same segment."""
    said = b""
    while not ends(said) and (byte := plain.recv(1)):
        said += byte
    return said
