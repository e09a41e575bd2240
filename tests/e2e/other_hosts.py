"""Tunnels to another host, inside a network namespace, as root.

Prints one JSON line for `test_other_hosts.py`. For each way of running the proxy it says whose certificate the
client sees, and what else it got.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e import tunnels
from tests.e2e.addressed import Here, connect, connects, socks
from tests.e2e.conftest import OLD
from tests.e2e.outside import FIRST, HERE, MEMBERS, Machine, Reachable, free
from tests.e2e.strangers import ADDRESS, GREETING, NAME, Stranger
from tests.namespaced import enter
from tests.running import CLIENT, Proxy, key_of, member, pat, pool_toml, until
from tests.standin import StandIn

Way = Callable[[Any, int], socket.socket]

WAYS: dict[str, Way] = {
    "CONNECT": lambda proxy, port: connect(proxy, NAME, port),
    "CONNECT to an address": lambda proxy, port: connect(proxy, ADDRESS, port),
    "SOCKS": lambda proxy, port: socks(proxy, ADDRESS, port),
}


def greets(proxy: Proxy, way: Way, names: tuple[str, ...], at_once: bool = True) -> str:
    """Whose certificate a client sees, and what is spoken then."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(names))
    try:
        with way(proxy, 443) as plain:
            wrapped = _at_once if at_once else _piece_by_piece
            tunnel = wrapped(context, plain)
            whose = "its own" if tunnel.getpeercert(binary_form=True) == stranger.certificate else "the proxy's"
            return f"{whose}, {tunnel.selected_alpn_protocol()}"
    except OSError as error:
        return str(error)


def _at_once(context: ssl.SSLContext, plain: socket.socket) -> Any:
    return context.wrap_socket(plain, server_hostname=NAME)


def _piece_by_piece(context: ssl.SSLContext, plain: socket.socket) -> Any:
    """A TLS greeting that comes byte by byte at first, as it may over a bad line."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tunnel = context.wrap_bio(incoming, outgoing, server_hostname=NAME)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        try:
            tunnel.do_handshake()
        except ssl.SSLWantReadError:
            data = outgoing.read()
            for piece in (data[:1], data[1:3], data[3:60], data[60:]):
                if piece:
                    plain.sendall(piece)
                    time.sleep(0.05)
            incoming.write(plain.recv(65536))
        else:
            return tunnel


def echoes(proxy: Here, way: Way) -> str:
    """What comes of a protocol in which the server speaks first, and that is no TLS."""
    try:
        with way(proxy, 2525) as plain:
            greeting = plain.recv(len(GREETING))
            plain.sendall(b"EHLO \x00\xff")
            return "ok" if greeting == GREETING and plain.recv(64) == b"EHLO \x00\xff" else "not as it was sent"
    except OSError as error:
        return str(error)


def everything(proxy: Here) -> dict[str, str]:
    saw: dict[str, str] = {}
    for name, way in WAYS.items():
        saw[name] = greets(proxy, way, ("http/1.1",))
        saw[f"{name}, HTTP/2"] = greets(proxy, way, ("h2", "http/1.1"))
        saw[f"{name}, in pieces"] = greets(proxy, way, ("h2",), at_once=False)
        saw[f"{name}, not TLS"] = echoes(proxy, way)
    return saw


def to_codex(proxy: Any, _: int) -> socket.socket:
    return connect(proxy, "chatgpt.com")


def certificate(proxy: Proxy, way: Way = WAYS["CONNECT"]) -> str:
    return greets(proxy, way, ("http/1.1",)).partition(",")[0]


def _is(proxy: Proxy, wanted: str) -> bool:
    return certificate(proxy) == wanted


def main(folder: Path) -> None:
    global stranger
    enter(folder)
    with (folder / "hosts").open("a") as hosts:
        hosts.write(f"{ADDRESS} {NAME}\n")
    subprocess.run(["ip", "addr", "add", f"{FIRST}/32", "dev", "lo"], check=True)
    (folder / "files").mkdir()
    stranger = Stranger(folder / "stranger", folder / "files")
    saw: dict[str, Any] = {}
    tokens = (pat("work"),)
    with StandIn(tokens, clients=[CLIENT], folder=folder, port=443) as standin:

        def run(
            name: str,
            *arguments: str,
            head: str = "",
            configured: bool = True,
            ready: bool = True,
            strategy: str = "eager",
        ) -> Here:
            pool_toml(folder, *tokens, head=head)
            proxy = Here(standin, folder, strategy, "-w", str(folder / f"{name}.flows"), *arguments)
            if not configured:
                at = proxy._command.index(f"codexpool_config={proxy.pool}")
                del proxy._command[at - 1 : at + 1]
                proxy._environ |= {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "none")}
            if proxy.log_file.exists():
                proxy.log_file.unlink()
            proxy.start()
            if configured and ready:
                proxy.says("work is ready")
            return proxy

        allow = ("--allow-hosts", rf"^{NAME.replace('.', r'[.]')}:443$")
        ignore = ("--ignore-hosts", rf"^{NAME.replace('.', r'[.]')}:443$")
        every = '[pool]\nintercept = "all"\n'
        cases: dict[str, dict[str, Any]] = {
            "all": {"head": every},
            "recording": {"arguments": ("--set", "codexpool_record_all_hosts=true")},
            "allowed": {"arguments": allow},
            "ignored": {"arguments": ignore, "head": every},
            "no pool": {"configured": False},
            "lazy": {"strategy": "lazy"},
            "observed": {"arguments": ("--set", "codexpool_observe=true"), "ready": False},
            "observed, all": {
                "arguments": ("--set", "codexpool_observe=true"),
                "head": every,
                "ready": False,
            },
        }
        proxy = run("default")
        try:
            saw["default"] = everything(proxy)
            saw["codex beside it"] = greets(proxy, to_codex, ("http/1.1",))
            # pool.toml changes while it runs, to and fro
            saw["reloaded"] = []
            for head in (every, ""):
                pool_toml(folder, *tokens, head=head)
                wanted = "the proxy's" if head else "its own"
                until(partial(_is, proxy, wanted), 10, f"pool.toml to be followed: {head}")
                saw["reloaded"].append(certificate(proxy))
            saw["log"] = [line for line in proxy.log.splitlines() if "Traceback" in line or "error" in line.lower()]
        finally:
            proxy.stop()
        flows = (folder / "default.flows").read_bytes()
        saw["in the dump"] = NAME.encode() in flows
        for name, case in cases.items():
            proxy = run(name, *case.pop("arguments", ()), **case)
            try:
                saw[name] = [certificate(proxy), certificate(proxy, to_codex)]
            finally:
                proxy.stop()
        saw["upstream"] = behind_another(standin, folder)
        if not OLD:
            saw["members"] = members(standin, folder)
    print(json.dumps(saw))


class Behind(Proxy):
    """The proxy behind a company's, which only passes on."""

    def __init__(self, standin: StandIn, folder: Path, company: int) -> None:
        super().__init__(standin, folder)
        at = self._command.index("--mode")
        self._command[at + 1] = f"upstream:http://{HERE}:{company}"


def behind_another(standin: StandIn, folder: Path) -> list[str]:
    pool_toml(folder, pat("work"))
    company = free()
    passing = [str(Path(sys.executable).with_name("mitmdump")), "-p", str(company), "--ignore-hosts", "."]
    with subprocess.Popen([*passing, "--set", f"confdir={folder / 'company'}"], stdout=subprocess.DEVNULL) as other:
        try:
            until(lambda: _listens(company), 30, "the company's proxy")
            proxy = Behind(standin, folder, company)
            proxy.log_file.unlink()
            with proxy:
                proxy.says("work is ready")
                ways = [
                    lambda proxy, port: connect(proxy, NAME, port),
                    lambda proxy, _: connect(proxy, "chatgpt.com"),
                ]
                return [greets(proxy, way, ("http/1.1",)).partition(",")[0] for way in ways]
        finally:
            other.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HERE, port)) == 0


def members(standin: StandIn, folder: Path) -> dict[str, Any]:
    """Of a pool for members: a stranger gets nowhere, and a member everywhere, unread."""
    pool_toml(folder, pat("work"), head=MEMBERS, tail=member("ann"))
    proxy = Reachable(standin, folder)
    connects(proxy, "eager")
    proxy.log_file.unlink()
    with proxy:
        proxy.says("work is ready")
        machine = Machine(proxy, FIRST)
        before = machine.asks(f"{NAME}:443").split(b" ")[1].decode()
        status = machine.model(key_of("ann"))
        context = ssl.create_default_context(cafile=str(stranger.ca_file))
        with socket.create_connection((FIRST, proxy.port), 10, (FIRST, 0)) as plain:
            after = tunnels.asked(plain, f"{NAME}:443").split(b" ")[1].decode()
            with context.wrap_socket(plain, server_hostname=NAME) as tunnel:
                own = tunnel.getpeercert(binary_form=True) == stranger.certificate
    return {"a stranger": before, "a turn": status, "a member": after, "its own": own}


stranger: Stranger

if __name__ == "__main__":
    main(Path(sys.argv[1]))
