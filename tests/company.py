"""A company's proxy: it lets nobody pass without user and password, and its authority signs for all hosts.

It reads TLS as such proxies do: behind it is the stand-in, whose own authority nobody trusts by default.
"""

from __future__ import annotations

import base64
import re
import select
import socket
import socketserver
import threading
from typing import Any

from tests.standin import StandIn


class CompanyProxy:
    """Runs in threads. ``asked`` are the hosts (and URLs without TLS) that it was asked for with a valid password."""

    def __init__(self, standin: StandIn, auth: str) -> None:
        self.ca_file = standin.ca_file
        self.asked: list[str] = []
        self.refused = 0
        self.heads: list[bytes] = []
        self._auth = b"Basic " + base64.b64encode(auth.encode())
        self._behind = ("127.0.0.1", standin.proxy_port)
        company = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                company._serve(self.connection, self.rfile)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.place = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> CompanyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, client: socket.socket, reader: Any) -> None:
        lines = []
        while (line := reader.readline()).strip():
            lines.append(line)
        if not lines:
            return
        self.heads.append(b"".join(lines))
        given = [line for line in lines if line.lower().startswith(b"proxy-authorization:")]
        if [line.split(b":", 1)[1].strip() for line in given] != [self._auth]:
            self.refused += 1
            client.sendall(b"HTTP/1.1 407 Who are you?\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n")
            return
        self.asked.append(re.sub(r":443$", "", lines[0].split()[1].decode()))
        with socket.create_connection(self._behind, 10) as server:
            server.sendall(b"".join(line for line in lines if line not in given) + b"\r\n")
            _join(client, server)


def _join(one: socket.socket, other: socket.socket) -> None:
    peers = {one: other, other: one}
    while True:
        for readable in select.select(list(peers), [], [])[0]:
            try:
                data = readable.recv(65_536)
                peers[readable].sendall(data)
            except OSError:
                return
            if not data:
                return
