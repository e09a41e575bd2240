"""Other hosts: over TLS with their own CA, and without TLS."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events

from tests.standin.certificates import Authority

NAME = "elsewhere.test"
ADDRESS = "127.0.0.2"
GREETING = b"220 elsewhere is ready\r\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class Stranger:
    """``https://elsewhere.test`` with the files of a folder, over HTTP/1 and HTTP/2.

    Beside it is a server that speaks first, and no TLS.
    """

    def __init__(self, folder: Path, files: Path) -> None:
        authority = Authority(folder)
        self.ca_file = authority.ca_file
        pem = authority.issue([NAME, ADDRESS])
        self.certificate = ssl.PEM_cert_to_DER_cert(pem.read_text().partition("-----END PRIVATE KEY-----\n")[2])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        self._files = files
        self._handler = functools.partial(Quiet, directory=str(files))
        self._tls = socket.create_server((ADDRESS, 443))
        self._plain = socket.create_server((ADDRESS, 2525))
        for serve in (self._serve_tls, self._serve_plain):
            threading.Thread(target=serve, daemon=True).start()

    def _serve_tls(self) -> None:
        while True:
            connection, address = self._tls.accept()
            threading.Thread(target=self._speak, args=(connection, address), daemon=True).start()

    def _speak(self, connection: socket.socket, address: Any) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as tunnel:
            if tunnel.selected_alpn_protocol() == "h2":
                self._speak_http2(tunnel)
            else:
                self._handler(tunnel, address, None)  # type: ignore[arg-type]

    def _speak_http2(self, tunnel: ssl.SSLSocket) -> None:
        """Answer each request with the file of its path."""
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        protocol.initiate_connection()
        tunnel.sendall(protocol.data_to_send())
        while data := tunnel.recv(65536):
            for event in protocol.receive_data(data):
                if isinstance(event, h2.events.RequestReceived) and event.stream_id is not None:
                    path = dict(event.headers or ())[b":path"].decode().partition("?")[0]
                    file = self._files / path.lstrip("/")
                    protocol.send_headers(event.stream_id, [(":status", "200" if file.is_file() else "404")])
                    protocol.send_data(event.stream_id, file.read_bytes() if file.is_file() else b"", end_stream=True)
            tunnel.sendall(protocol.data_to_send())

    def _serve_plain(self) -> None:
        while True:
            connection, _ = self._plain.accept()
            with contextlib.suppress(OSError), connection:
                connection.sendall(GREETING)
                connection.sendall(connection.recv(64))
