"""Over real sockets: a throw-away CA, upstreams for HTTP/1 and HTTP/2, and a `mitmdump` of its own.

What an upstream does is said by the query of a request:

=============  ========================================================================
``refusals``   so many attempts get a 401 (default 1)
``how``        plain: after the body; early: before the body; slow: the 401's body in two parts, apart;
               close: the connection ends with it; cut: nothing but an end of the connection
``answer``     echo: digest and length of the body; sse: two events, the second on `Upstream.go_on`;
               zstd: compressed bytes; cut: an end in the middle; hang: nothing
=============  ========================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import re
import socket
import ssl
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE = 20.0
"""Seconds after which a test that waits for something gives up."""

ZSTD = bytes.fromhex("28b52ffd2004210000") + b"\x00zstd as it came\xff"
"""Bytes that call themselves zstd; whoever decodes or re-encodes them changes them."""


# -- certificates


def make_ca(folder: Path) -> tuple[Path, Path]:
    """A CA and a certificate of it for localhost. Returns the CA's file and that of the server (with its key)."""
    ca_key, ca = _certificate("codexpool tests", None, None)
    key, certificate = _certificate("localhost", ca_key, ca)
    ca_file, server_file = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server_file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return ca_file, server_file


def _certificate(
    name: str, issuer_key: ec.EllipticCurvePrivateKey | None, issuer: x509.Certificate | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
    )
    return key, builder.sign(issuer_key or key, hashes.SHA256())


def server_tls(server_file: Path, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    context.set_alpn_protocols([alpn])
    return context


# -- upstreams


@dataclass(eq=False)
class Request:
    """A request as the upstream has got it, and how to answer it."""

    line: Connection
    stream: int
    path: str
    headers: dict[str, str]
    digest: Any = field(default_factory=hashlib.sha256)
    length: int = 0
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The proxy has taken it back."""

    @property
    def attempt(self) -> int:
        return int(self.headers.get("authorization", "Bearer at-test-0").rpartition("-")[2])

    def word(self, name: str, default: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(name, [default])[0]


class Connection(ABC):
    """One connection of the proxy to an upstream."""

    def __init__(self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upstream = upstream
        self.reader = reader
        self.writer = writer
        self.tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def serve(self) -> None: ...

    @abstractmethod
    def begin(self, request: Request, status: int, fields: dict[str, str]) -> None: ...

    @abstractmethod
    def write(self, request: Request, data: bytes) -> None: ...

    @abstractmethod
    def end(self, request: Request) -> None: ...

    def start(self, request: Request) -> None:
        self.upstream.requests[request.path].append(request)
        task = asyncio.create_task(self.upstream.respond(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cut(self) -> None:
        self.writer.transport.abort()

    def refuse_rudely(self, request: Request) -> None:
        """Refuse, and close with the request unread: what the proxy still sends is answered with a reset."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]
        self.begin(request, 401, {"connection": "close"})
        self.write(request, b"refused %d" % request.attempt)
        self.end(request)
        self.writer.close()


class H1Connection(Connection):
    """HTTP/1.1. The next request is read when the last is both read and answered."""

    async def serve(self) -> None:
        conn = h11.Connection(h11.SERVER)
        request: Request | None = None
        try:
            while True:
                event = conn.next_event()
                if event is h11.NEED_DATA:
                    if not (data := await self.reader.read(1 << 18)):
                        break
                    conn.receive_data(data)
                elif isinstance(event, h11.Request):
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                    request = Request(self, 0, event.target.decode(), headers)
                    self.start(request)
                elif isinstance(event, h11.Data):
                    assert request is not None
                    request.digest.update(event.data)
                    request.length += len(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    assert request is not None
                    request.whole.set()
                    following = bytes(conn.trailing_data[0])
                    conn = h11.Connection(h11.SERVER)
                    if following:
                        conn.receive_data(following)
        except (ConnectionError, ssl.SSLError, h11.RemoteProtocolError):
            pass
        finally:
            if request is not None:
                request.gone.set()

    def begin(self, request: Request, status: int, fields: dict[str, str]) -> None:
        fields = {"transfer-encoding": "chunked", **fields}
        head = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.writer.write("\r\n".join(head).encode())

    def write(self, request: Request, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, request: Request) -> None:
        self.writer.write(b"0\r\n\r\n")


class H2Connection(Connection):
    async def serve(self) -> None:
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.conn.initiate_connection()
        requests: dict[int, Request] = {}
        try:
            self._flush()
            while data := await self.reader.read(1 << 18):
                for event in self.conn.receive_data(data):
                    self._take(event, requests)
                self._flush()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            for request in requests.values():
                request.gone.set()

    def _take(self, event: h2.events.Event, requests: dict[int, Request]) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = {str(name): str(value) for name, value in event.headers or ()}
            requests[event.stream_id] = Request(self, event.stream_id, headers[":path"], headers)
            self.start(requests[event.stream_id])
        elif isinstance(event, h2.events.DataReceived):
            request = requests[event.stream_id]
            request.digest.update(event.data or b"")
            request.length += len(event.data or b"")
            self.conn.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            requests[event.stream_id].whole.set()
        elif isinstance(event, h2.events.StreamReset):
            requests[event.stream_id].gone.set()

    def _flush(self) -> None:
        self.writer.write(self.conn.data_to_send())

    def begin(self, request: Request, status: int, fields: dict[str, str]) -> None:
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self.conn.send_headers(request.stream, [(":status", str(status)), *fields.items()])
        self._flush()

    def write(self, request: Request, data: bytes) -> None:
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self.conn.send_data(request.stream, data)
        self._flush()

    def end(self, request: Request) -> None:
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self.conn.end_stream(request.stream)
        self._flush()


class Upstream:
    """A server on a port of its own; what it has got is in `requests`, by path."""

    def __init__(self, protocol: str) -> None:
        self.connection_class = H2Connection if protocol == "h2" else H1Connection
        self.alpn = "h2" if protocol == "h2" else "http/1.1"
        self.requests: defaultdict[str, list[Request]] = defaultdict(list)
        self.refused: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.go_on: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @contextlib.asynccontextmanager
    async def running(self, server_file: Path) -> Any:
        server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=server_tls(server_file, self.alpn), limit=1 << 20
        )
        self.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.connection_class(self, reader, writer).serve()
        finally:
            writer.close()

    def attempts(self, path: str) -> list[int]:
        return [request.attempt for request in self.requests[path]]

    async def respond(self, request: Request) -> None:
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            if 0 < request.attempt <= int(request.word("refusals", "1")):
                await self._refuse(request, request.word("how", "plain"))
                self.refused[request.path].set()
            else:
                await self._answer(request, request.word("answer", "echo"))

    async def _refuse(self, request: Request, how: str) -> None:
        line = request.line
        if how == "rude":
            line.refuse_rudely(request)
            return
        if how != "early":
            await asyncio.wait_for(request.whole.wait(), PATIENCE)
        if how == "cut":
            line.cut()
            return
        line.begin(request, 401, {"connection": "close"} if how == "close" else {})
        line.write(request, b"refused ")
        if how == "slow":
            await asyncio.sleep(0.3)
        line.write(request, b"%d" % request.attempt)
        line.end(request)
        if how == "close":
            line.writer.close()

    async def _answer(self, request: Request, answer: str) -> None:
        line = request.line
        await asyncio.wait_for(request.whole.wait(), PATIENCE)
        match answer:
            case "echo":
                line.begin(request, 200, {"x-attempt": str(request.attempt)})
                line.write(request, f"{request.path} {request.length} {request.digest.hexdigest()}".encode())
            case "zstd":
                line.begin(request, 200, {"content-encoding": "zstd"})
                line.write(request, ZSTD)
            case "sse":
                line.begin(request, 200, {"content-type": "text/event-stream"})
                line.write(request, b"data: one\n\n")
                await asyncio.wait_for(self.go_on[request.path].wait(), PATIENCE)
                line.write(request, b"data: two\n\n")
            case "cut":
                # An HTTP/1 client could not tell the cut from the end of a body without a length.
                line.begin(request, 200, {"content-length": "1000"} if self.alpn == "h2" else {})
                line.write(request, b"data: one\n\n")
                await asyncio.wait_for(self.go_on[request.path].wait(), PATIENCE)
                line.cut()
                return
            case "hang":
                await asyncio.wait_for(request.gone.wait(), PATIENCE)
                return
        line.end(request)


# -- the proxy


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class _Offering(ssl.SSLContext):
    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        pass


class Mitmdump:
    """A `mitmdump` with the addon of these tests, on free ports of the loopback interface.

    It is an explicit proxy at `url`, and at `reverse_url` a reverse proxy of ``origin``.
    """

    def __init__(self, folder: Path, ca_file: Path, origin: str, *arguments: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.log_file = folder / "log"
        repository = Path(__file__).parents[2]
        command = [
            *(sys.executable, "-c", "from mitmproxy.tools.main import mitmdump; mitmdump()"),
            *("-s", str(Path(__file__).with_name("refusing_addon.py"))),
            *("--set", f"confdir={folder}"),
            *("--set", f"ssl_verify_upstream_trusted_ca={ca_file}"),
            *("--set", "flow_detail=0"),
            *("--listen-host", "127.0.0.1"),
            *("--mode", "regular@0"),
            *("--mode", f"reverse:{origin}@{_free_port()}"),
            *arguments,
        ]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=repository,
                env={"PYTHONPATH": str(repository), "PYTHONUNBUFFERED": "1", "HOME": str(folder)},
            )
        self.url = f"http://{self._listening('HTTP')}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def memory(self) -> int:
        """Bytes of memory that it has now."""
        return self._status("VmRSS")

    @property
    def most_memory(self) -> int:
        """Bytes of memory that it had at most."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) << 10  # type: ignore[index]

    @property
    def reverse_url(self) -> str:
        return f"http://{self._listening('reverse')}"

    def trust(self, offers: Sequence[str] = ()) -> ssl.SSLContext:
        """TLS towards the proxy. ``offers`` stands whatever else a client library would offer by ALPN."""
        context = _Offering(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / "mitmproxy-ca-cert.pem")
        if offers:
            ssl.SSLContext.set_alpn_protocols(context, offers)
        return context

    def _listening(self, kind: str) -> str:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := re.search(rf"{kind}\S* proxy.* listening at (127\.0\.0\.1:\d+)", self.log):
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(self.log)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
