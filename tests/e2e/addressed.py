"""Clients that use the backend's address instead of its name, inside a network namespace, as root.

The stand-in listens on port 443, and another server at another address; mitmdump runs in its regular mode and
as a SOCKS proxy. Prints one JSON line; `test_addressed.py` looks at it.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e import tunnels
from tests.e2e.conftest import OLD
from tests.e2e.outside import FIRST, HERE, MEMBERS, Machine, Reachable
from tests.namespaced import enter
from tests.running import CLIENT, ROOT, member, pat, pool_toml
from tests.standin import RESPONSES, StandIn

OTHER = "10.9.8.9"
"""The address of another server on port 443."""

OWN_PATH = "/backend-api/wham/tasks"


class Here(Reachable):
    """The proxy for this machine alone; ``strategy`` is mitmproxy's ``connection_strategy``."""

    def __init__(self, standin: StandIn, folder: Path, strategy: str, *arguments: str) -> None:
        super().__init__(standin, folder, *arguments)
        connects(self, strategy)
        at = self._command.index("--listen-host")
        self._command[at + 1] = HERE


def connects(proxy: Reachable, strategy: str) -> None:
    """Have a proxy connect early or late."""
    command = proxy._command
    command[command.index("connection_strategy=lazy")] = f"connection_strategy={strategy}"


class Pinned(Here):
    """The same behind a script that pins addresses."""

    def __init__(self, standin: StandIn, folder: Path, strategy: str) -> None:
        super().__init__(standin, folder, strategy)
        self._command[1:1] = ["-s", str(ROOT / "tests" / "e2e" / "pinning.py")]
        self._environ["PYTHONPATH"] = str(ROOT)


class Listener:
    """Somebody who listens, and notes what is said in the clear."""

    def __init__(self) -> None:
        self.heard = b""
        self.called = 0
        self._server = socket.create_server((OTHER, 443))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            self.called += 1
            with connection:
                self.heard += connection.recv(4096)


def connect(proxy: Here, host: str, port: int = 443) -> socket.socket:
    plain = socket.create_connection((HERE, proxy.port), 10)
    if b" 200 " not in (said := tunnels.asked(plain, f"{host}:{port}")):
        plain.close()
        raise ConnectionRefusedError(said.split(b"\r\n")[0].decode())
    return plain


def socks(proxy: Here, host: str, port: int = 443) -> socket.socket:
    """Ask for a tunnel as a client does that has looked up the name itself."""
    return greeted(socket.create_connection((HERE, proxy.socks), 10), host, port)


def greeted(plain: socket.socket, host: str, port: int = 443) -> socket.socket:
    plain.sendall(b"\x05\x01\x00")
    plain.recv(2)
    plain.sendall(b"\x05\x01\x00\x01" + socket.inet_aton(host) + port.to_bytes(2, "big"))
    # RFC 1928, section 6: ten bytes, with an IPv4 address
    if tunnels.reply(plain, lambda said: len(said) == 10)[1:2] != b"\x00":
        plain.close()
        raise ConnectionRefusedError("SOCKS")
    return plain


def asks(
    proxy: Reachable, tunnel: socket.socket, path: str = RESPONSES, name: str = "chatgpt.com", *more: str
) -> str:
    """What becomes of a request with the client's own login: its status."""
    trust = ssl.create_default_context(cafile=str(proxy.ca_file))
    body = '{"model": "m", "input": "hello"}'
    upgrade = "Upgrade: websocket" in more
    method = "GET" if upgrade or path != RESPONSES else "POST"
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {name}",
        f"Authorization: Bearer {CLIENT.token}",
        f"ChatGPT-Account-Id: {CLIENT.account_id}",
        *more,
        *(() if method == "GET" else ("Content-Type: application/json", f"Content-Length: {len(body)}")),
    ]
    with trust.wrap_socket(tunnel, server_hostname=name) as inner:
        inner.sendall(("\r\n".join(lines) + "\r\n\r\n" + ("" if method == "GET" else body)).encode())
        return inner.recv(65536).split(b" ")[1].decode()


UPGRADE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)

Way = Callable[[Here], socket.socket]

WAYS: dict[str, tuple[type[Here], Way, tuple[Any, ...]]] = {
    "CONNECT to an address": (Here, lambda proxy: connect(proxy, HERE), ()),
    "CONNECT, its end a dot": (Here, lambda proxy: connect(proxy, "ChatGPT.com."), ()),
    "SOCKS with an address": (Here, lambda proxy: socks(proxy, HERE), ()),
    "a WebSocket": (Here, lambda proxy: connect(proxy, HERE), (RESPONSES, "chatgpt.com", *UPGRADE)),
    "CONNECT to a pinned name": (Pinned, lambda proxy: connect(proxy, "chatgpt.com"), ()),
    "another server's address": (Here, lambda proxy: connect(proxy, OTHER), ()),
    "a person's own": (Here, lambda proxy: connect(proxy, HERE), (OWN_PATH,)),
}


def asked(proxy: Here, way: Way, more: tuple[Any, ...]) -> str:
    """The status of a request on its way; the reason where it got none."""
    try:
        return asks(proxy, way(proxy), *more)
    except OSError as error:
        return str(error)


def a_stranger_asks(proxy: Reachable) -> dict[str, str]:
    """Return what happens to a stranger's tunnels to another server's address if TLS names the backend."""
    came = Machine(proxy, FIRST).asks(f"{OTHER}:443")
    with socket.create_connection((FIRST, proxy.socks), 10, (FIRST, 0)) as plain:
        try:
            own = asks(proxy, greeted(plain, OTHER), OWN_PATH)
        except OSError:
            own = "refused"
    return {"CONNECT": came.split(b" ")[1].decode(), "SOCKS": own}


def main(folder: Path) -> None:
    enter(folder)
    for address in (FIRST, OTHER):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    saw: dict[str, Any] = {}
    tokens, listener = (pat("work"),), Listener()
    with StandIn(tokens, clients=[CLIENT], folder=folder, port=443) as standin:
        pool_toml(folder, *tokens)
        for strategy in ("eager", "lazy"):
            kinds: tuple[type[Here], ...] = (Here, Pinned)
            for kind in kinds:
                here = kind(standin, folder, strategy)
                with here:
                    here.says("work is ready")
                    for name, (of, way, more) in WAYS.items():
                        if of is kind:
                            before = len(standin.seen)
                            status = asked(here, way, more)
                            names = [seen.name for seen in standin.seen[before:] if not seen.by_pool]
                            saw[f"{strategy}: {name}"] = status, names
                here.log_file.unlink()
        saw["heard"] = [secret.encode() in listener.heard for secret in (CLIENT.token, tokens[0].token)]
        pool_toml(folder, *tokens, head=MEMBERS, tail=member("ann"))
        for strategy in ("eager", "lazy"):
            if OLD:
                break  # It is for loopback only.
            reachable = Reachable(standin, folder)
            connects(reachable, strategy)
            with reachable as proxy:
                proxy.says("work is ready")
                before = listener.called
                saw[f"{strategy}: a stranger"] = a_stranger_asks(proxy)
                saw[f"{strategy}: a stranger"]["called"] = listener.called - before
            proxy.log_file.unlink()
        saw["leaks"] = len(standin.leaks)
    print(json.dumps(saw))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
