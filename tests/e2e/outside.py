"""A proxy that other machines reach, inside a network namespace, as root.

There are two more machines, by their addresses, the stand-in listens on port 443, and mitmdump runs in its regular
mode. Prints one JSON line; `test_attackers.py` looks at it.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.e2e import tunnels
from tests.namespaced import enter
from tests.running import CLIENT, Proxy, key_of, member, pat, pool_toml, until
from tests.standin import RESPONSES, StandIn

HERE, FIRST, SECOND = "127.0.0.1", "10.9.8.7", "10.9.8.8"
MEMBERS = '[pool]\naccess = "members"\n'


class Reachable(Proxy):
    """The proxy as it would be for a team: in its regular mode, and as a SOCKS proxy, on all addresses."""

    def __init__(self, standin: StandIn, folder: Path, *arguments: str) -> None:
        super().__init__(standin, folder, "--listen-host", "0.0.0.0", *arguments)
        at = self._command.index("--mode")
        self._command[at : at + 2] = ["--mode", f"regular@{free()}", "--mode", f"socks5@{free()}"]
        at = self._command.index("-p")
        del self._command[at : at + 2]
        self.socks = 0

    def __enter__(self) -> Reachable:
        self.start()
        return self

    def _listening(self) -> bool:
        if not self.ca_file.exists():
            return False
        lines = [line for line in self.log.splitlines() if "listening at" in line]
        for line in lines:
            port = int(line.rsplit(":", 1)[-1].rstrip("."))
            if "SOCKS" in line:
                self.socks = port
            else:
                self.port = port
        return bool(self.port and self.socks)


def free() -> int:
    """Return an unused port, another one each time."""
    while True:
        with socket.create_server((HERE, 0)) as server:
            port: int = server.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


_given: set[int] = set()


class Victim:
    """A service on the proxy's machine that other machines must not reach."""

    def __init__(self) -> None:
        self._server = socket.create_server(("0.0.0.0", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nserver: victim\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            connection.close()


class Machine:
    """Somebody at an address."""

    def __init__(self, proxy: Reachable, address: str, password: str = "") -> None:
        self._proxy, self._address = proxy, address
        self._password = f"Proxy-Authorization: Basic {password}\r\n" if password else ""

    def _connection(self, port: int) -> socket.socket:
        return socket.create_connection((HERE if self._address == HERE else FIRST, port), 10, (self._address, 0))

    def asks(self, target: str, then: bytes = b"") -> bytes:
        """What comes back for ``GET`` of an absolute address, or a ``CONNECT`` and what is sent on it then."""
        with self._connection(self._proxy.port) as plain:
            method = "GET" if "://" in target else "CONNECT"
            plain.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{self._password}\r\n".encode())
            came = plain.recv(65536)
            if then and b" 200 " in came:
                plain.sendall(then)
                came = plain.recv(65536)
            return came

    def socks(self, address: str, port: int) -> bytes:
        with self._connection(self._proxy.socks) as plain:
            plain.sendall(b"\x05\x01\x00")
            plain.recv(2)
            plain.sendall(b"\x05\x01\x00\x03" + bytes([len(address)]) + address.encode() + port.to_bytes(2, "big"))
            plain.recv(64)
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return plain.recv(65536)

    def model(self, key: str = "") -> int:
        """The status of a request for the model."""
        body = '{"model": "m", "input": "hello"}'
        more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return _status(self._in_a_tunnel("chatgpt.com", f"POST {RESPONSES}", key, more, body))

    def me(self, key: str = "") -> bytes:
        """What a member is told about its use."""
        return self._in_a_tunnel("codex.pool", "GET /me", key)

    def _in_a_tunnel(self, host: str, line: str, key: str, more: str = "", body: str = "") -> bytes:
        with self._connection(self._proxy.port) as plain:
            if b" 200 " not in (said := tunnels.asked(plain, f"{host}:443", self._password)):
                return said
            trust = ssl.create_default_context(cafile=str(self._proxy.ca_file))
            with trust.wrap_socket(plain, server_hostname=host) as tunnel:
                more += f"Authorization: Bearer {key}\r\n" if key else ""
                tunnel.sendall(f"{line} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n{body}".encode())
                return tunnel.recv(65536)


def _status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return int(found[1]) if found else 0


def everywhere(machine: Machine, victim: Victim) -> dict[str, bool]:
    """Which ways lead to the victim."""
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    ways: dict[str, bytes] = {}
    for host in (HERE, "localhost", SECOND):
        ways[f"CONNECT {host}"] = machine.asks(f"{host}:{victim.port}", get)
        ways[f"GET {host}"] = machine.asks(f"http://{host}:{victim.port}/")
        ways[f"SOCKS {host}"] = machine.socks(host, victim.port)
    return {way: b"victim" in came for way, came in ways.items()}


def main(folder: Path) -> None:
    enter(folder)
    for address in (FIRST, SECOND):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    tokens, saw, victim = (pat("work"),), dict[str, Any](), Victim()
    with StandIn(tokens, clients=[CLIENT], folder=folder, port=443) as standin:
        pool = pool_toml(folder, *tokens, head='[pool]\naccess = "anyone"\n', tail=member("ann"))
        refused = Reachable(standin, folder)
        refused.start(wait=False)
        assert refused._process is not None
        saw["anyone at the start"] = refused._process.wait(30), refused.log.splitlines()
        refused.log_file.unlink()

        pool_toml(folder, *tokens, head=MEMBERS, tail=member("ann"))
        with Reachable(standin, folder) as proxy:
            proxy.says("work is ready")
            here, stranger, other = (Machine(proxy, address) for address in (HERE, FIRST, SECOND))
            page = b"GET http://codex.pool/api/status HTTP/1.1\r\nHost: codex.pool\r\n\r\n"
            saw["this machine"] = everywhere(here, victim)
            through = stranger.asks(f"{HERE}:{proxy.port}", page)
            saw["stranger"] = {
                **everywhere(stranger, victim),
                "through itself": _status(through) == 200,
                "another port": b" 200 " in stranger.asks("chatgpt.com:22"),
                "the page by its name": b" 200 " in stranger.asks("codex.pool:80", page),
            }
            saw["the page from outside"] = _status(stranger.asks("http://codex.pool/api/status"))
            saw["me from outside"] = [_status(stranger.me(key)) for key in ("", key_of("bob"), key_of("ann"))]
            saw["stranger's model"] = stranger.model()
            saw["member's model"] = stranger.model(key_of("ann"))
            saw["member"] = everywhere(stranger, victim)
            saw["another stranger"] = everywhere(other, victim)
            saw["the page through itself"] = _status(stranger.asks(f"{HERE}:{proxy.port}", page))
            more = pool.read_text().replace('"members"', '"anyone"') + member("bob")
            pool.write_text(more)
            until(lambda: stranger.model(key_of("bob")) == 200, 10, "pool.toml to be followed")
            saw["model without a key, once it says anyone"] = other.model()

        proxy.log_file.unlink()
        pool_toml(folder, *tokens, head=MEMBERS, tail=member("ann"))
        with Reachable(standin, folder, "--proxyauth", "ann:secret") as proxy:
            proxy.says("work is ready")
            without, friend = Machine(proxy, FIRST), Machine(proxy, FIRST, "YW5uOnNlY3JldA==")
            get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            saw["proxyauth"] = {
                "without": _status(without.asks(f"{SECOND}:{victim.port}", get)),
                "elsewhere": b"victim" in friend.asks(f"{SECOND}:{victim.port}", get),
                "no key": friend.model(),
                "key": friend.model(key_of("ann")),
            }
        saw["leaks"] = len(standin.leaks)
    print(json.dumps(saw))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
