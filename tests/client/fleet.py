"""Two proxies on machines of their own, a database, a balancer and the stand-in: inside a network namespace, as root.

Each machine is a network namespace with two cables to the hub: one for clients and the backend, and one for the
database, which a test can unplug. The hub has the stand-in, PostgreSQL, the balancer and the clients. The backend's
host names lead to the stand-in, and the proxies are `codexpool run` with the shipped defaults.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from mitmproxy.certs import CertStore

from codexpool.cli.entry import CODEXPOOL
from tests.running import ROOT, Codex, finished, key_of, until
from tests.standin import StandIn

HUB: Final = "10.15.0.1"
"""Where the machines find the backend, and clients the balancer."""

PORT: Final = 8080
AHEAD: Final = 300.0
"""Seconds that the second machine's clock is ahead of the first one's, and of the database's."""

MEMBER: Final = "ann"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


class Machine:
    """A network namespace with its two cables to the hub."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.address, self._gateway = f"10.15.{number}.2", f"10.15.{number}.1"
        self.database = f"10.16.{number}.1"
        """The address of the database, as this machine knows it."""
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        until(self._is_apart, 10, "a network namespace")
        run(*self.inside("ip", "link", "set", "lo", "up"))
        self._plug("front", self._gateway, self.address)
        self._plug("base", self.database, f"10.16.{number}.2")
        run(*self.inside("ip", "route", "add", HUB, "via", self._gateway))

    def _is_apart(self) -> bool:
        return Path(f"/proc/{self._holder.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()

    def _plug(self, cable: str, near: str, far: str) -> None:
        name = f"{cable}{self.number}"
        run("ip", "link", "add", name, "type", "veth", "peer", "name", cable, "netns", str(self._holder.pid))
        run("ip", "address", "add", f"{near}/24", "dev", name)
        run(*self.inside("ip", "address", "add", f"{far}/24", "dev", cable))
        run("ip", "link", "set", name, "up")
        run(*self.inside("ip", "link", "set", cable, "up"))

    def inside(self, *command: str) -> list[str]:
        """Return a command that runs another one on this machine, in the same process."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *command]

    def database_cable(self, *, plugged: bool) -> None:
        """Plug or unplug the cable to the database: packets get lost, and no connection is reset."""
        run("ip", "link", "set", f"base{self.number}", "up" if plugged else "down")

    def stop(self) -> None:
        self._holder.kill()
        self._holder.wait(10)


class Proxy:
    """`codexpool run` on a machine, for members, with a home of its own and a clock that may be ahead."""

    def __init__(
        self, machine: Machine, home: Path, standin: StandIn, environ: Mapping[str, str], ahead: float
    ) -> None:
        self.machine, self.home = machine, home
        self.url: str = f"http://{machine.address}:{PORT}"
        self.pool = home / ".config" / "codexpool" / "pool.toml"
        self.ca_file = home / ".mitmproxy" / "mitmproxy-ca-cert.pem"
        self._log = home / "proxy.log"
        self._trusted = f"ssl_verify_upstream_trusted_ca={standin.ca_file}"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join((*([str(_clock(home, ahead))] if ahead else []), str(ROOT))),
            "PYTHONUNBUFFERED": "1",
            "SSL_CERT_FILE": str(standin.ca_file),
            **environ,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._since = 0

    def start(self, ready: Sequence[str] = ()) -> None:
        """Start it, and wait until these identities are ready."""
        self._since = len(self.whole_log)
        command = [*CODEXPOOL, "run", "--listen-host", "0.0.0.0", "-p", str(PORT), "--set", self._trusted]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.machine.inside(*command),
                env=self.environ,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.says("listening at")
        for name in ready:
            self.says(f"{name} is ready")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal_number)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    @property
    def log(self) -> str:
        """What it has printed since it was started."""
        return self.whole_log[self._since :]

    @property
    def whole_log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def says(self, text: str, seconds: float = 40) -> None:
        process = self._process
        assert process is not None
        until(lambda: text in self.log or process.poll() is not None, seconds, f"{text!r} in:\n{self.log}")
        assert text in self.log, f"it ended before it printed {text!r}:\n{self.log}"

    def codexpool(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on its machine."""
        return finished(self.machine.inside(*CODEXPOOL, *arguments), self.environ, self.home)


def _clock(home: Path, ahead: float) -> Path:
    """Return a folder for PYTHONPATH that puts a process's clock ahead."""
    folder = home / "clock"
    folder.mkdir()
    patch = f"""
        import time
        right, right_ns = time.time, time.time_ns
        time.time = lambda: right() + {ahead}
        time.time_ns = lambda: right_ns() + {int(ahead)} * 10**9
    """
    (folder / "sitecustomize.py").write_text(textwrap.dedent(patch))
    return folder


class Balancer:
    """haproxy in the hub, in front of the proxies, as deploy/haproxy.cfg has it."""

    def __init__(self, folder: Path, proxies: Sequence[Proxy]) -> None:
        self.url = f"http://{HUB}:{PORT}"
        text = (ROOT / "deploy" / "haproxy.cfg").read_text().replace(" resolvers docker init-addr last,libc,none", "")
        for name, proxy in zip(("proxy-a", "proxy-b"), proxies, strict=True):
            text = text.replace(f"{name}:{PORT}", f"{proxy.machine.address}:{PORT}")
        config = folder / "haproxy.cfg"
        config.write_text(text)
        self._process = subprocess.Popen(
            ["haproxy", "-db", "-q", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        until(self._listens, 10, "haproxy to listen")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HUB, PORT)) == 0

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)


class Fleet:
    """Everything, connected. ``pool_toml`` is what both proxies are configured with."""

    def __init__(self, folder: Path, standin: StandIn, stack: ExitStack) -> None:
        self.folder, self.standin = folder, standin
        self._stack = stack
        self.proxies: list[Proxy] = []

    def add_proxy(self, pool_toml: str, environ: Mapping[str, str], ahead: float = 0.0) -> Proxy:
        """Add a machine with a proxy, which is not started yet."""
        number = len(self.proxies) + 1
        machine = Machine(number)
        self._stack.callback(machine.stop)
        home = self.folder / f"machine{number}"
        home.mkdir()
        proxy = Proxy(machine, home, self.standin, environ, ahead)
        proxy.pool.parent.mkdir(parents=True)
        proxy.pool.touch(mode=0o600)
        proxy.pool.write_text(pool_toml)
        if self.proxies:
            shutil.copytree(self.proxies[0].home / ".mitmproxy", home / ".mitmproxy")
        else:
            CertStore.from_store(home / ".mitmproxy", "mitmproxy", 2048)
        self._stack.callback(proxy.stop)
        self.proxies.append(proxy)
        return proxy

    def client(self, name: str, who: str = MEMBER) -> Client:
        folder = self.folder / name
        folder.mkdir()
        return Client(self.proxies[0], folder, who)


class Client(Codex):
    """The real client of a member, in front of the proxy that each turn names."""

    def __init__(self, proxy: Proxy, folder: Path, who: str) -> None:
        super().__init__(proxy, folder, {"CODEX_ACCESS_TOKEN": key_of(who)})

    def turn(self, through: Proxy | Balancer, *words: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``codex exec`` through this proxy."""
        self.environ["HTTPS_PROXY"] = through.url
        return self.exec(*words, seconds=seconds)
