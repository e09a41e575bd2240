"""Start a real mitmdump with the addon, and the real client."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx

from codexpool.tokens.member_key import hashed
from tests.forking import Fork, start
from tests.standin import StandIn, Token

ROOT = Path(__file__).resolve().parent.parent

TROUBLE = ("Reconnecting", "Falling back", "unexpected status", "stream disconnected", "panicked")
"""What the real client prints when a user would notice something."""


def pat(name: str, **more: Any) -> Token:
    """Return a token for the pool that looks like a secret."""
    return Token(f"at-test-{name}-0123456789abcdef0123456789", f"acc-{name}", f"user-{name}", name=name, **more)


CLIENT = Token("at-test-client-own-fedcba9876543210fedcba", "acc-client", "user-client", plan="plus", name="client")


def pool_toml(folder: Path, *tokens: Token, head: str = "", tail: str = "") -> Path:
    """Write a pool.toml with these tokens, in this order."""
    path = folder / "pool.toml"
    text = head + "".join(f'\n[[identity]]\nname = "{t.name}"\ntoken = "{t.token}"\n' for t in tokens) + tail
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def key_of(name: str) -> str:
    """Return a member key for a name."""
    return f"at-pool-test-{name}-0123456789abcdefghijklmnopqrstu"


def member(name: str, **more: Any) -> str:
    """Return a member's table for pool.toml. The values of ``more`` are TOML."""
    settings = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'\n[[member]]\nname = "{name}"\nkey = "{hashed(key_of(name))}"\n{settings}'


def _executable(tool: str, folder: Path) -> str:
    """Return the path of a command of mitmproxy. `CODEXPOOL_TEST_RUN` gives it the master of `codexpool run`."""
    if not os.environ.get("CODEXPOOL_TEST_RUN"):
        return str(Path(sys.executable).with_name(tool))
    path = folder / f"run-{tool}"
    run = f"import sys\nfrom codexpool.proxy.mitm.master import run\nrun({tool!r}, sys.argv[1:])\n"
    path.write_text(f"#!{sys.executable}\n{run}")
    path.chmod(0o755)
    return str(path)


def _starts_as_fork(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether a fork does the same as the command: mitmdump, with nothing that changes Python itself."""
    names = {name for name in (*environ, *os.environ) if name.startswith("PYTHON")} - {"PYTHONUNBUFFERED"}
    is_same_python = all(environ.get(name) == os.environ.get(name) for name in names)
    return Path(command[0]).name in ("mitmdump", "run-mitmdump") and is_same_python


class Proxy:
    """mitmdump with the addon, on a free port.

    It uses the stand-in as its upstream proxy, and otherwise the shipped defaults.
    """

    forks = True
    """Start as a fork of a process that has already imported mitmproxy (`tests.forking`)."""

    def __init__(
        self, standin: StandIn, folder: Path, *arguments: str, tool: str = "mitmdump", script: Path | None = None
    ):
        self.folder = folder
        self.pool = folder / "pool.toml"
        self.log_file = folder / "proxy.log"
        self.confdir = folder / "mitmproxy"
        self.state = folder / "state.sqlite3"
        self.port = 0
        self._command = [
            _executable(tool, folder),
            *("-s", str(script or ROOT / "addon")),
            *("--mode", f"upstream:http://127.0.0.1:{standin.proxy_port}"),
            *("-p", "0", "--set", f"confdir={self.confdir}"),
            *("--set", f"ssl_verify_upstream_trusted_ca={standin.ca_file}"),
            *("--set", f"codexpool_config={self.pool}"),
            *("--set", "connection_strategy=lazy"),
            *arguments,
        ]
        self._environ = {**os.environ, "CODEXPOOL_STATE": str(self.state), "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | Fork | None = None

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, wait: bool = True) -> None:
        """Start it. With ``wait``, return when it listens on its final address."""
        command, environ = self._command, self._environ
        with self.log_file.open("ab") as log:
            if self.forks and _starts_as_fork(command, environ):
                self._process = start(Path(command[0]).name, command[1:], environ, log.fileno())
            else:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environ
                )
        if wait:
            process = self._process
            until(lambda: self._listening() or process.poll() is not None, 60, "the proxy to listen")
            assert process.poll() is None, self.log

    def stop(self, signal_number: int = signal.SIGINT) -> int:
        """Stop it, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal_number)
        try:
            return self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has printed so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.confdir / "mitmproxy-ca-cert.pem"

    def client(self, **more: Any) -> httpx.Client:
        """Return an HTTP client that uses the proxy and has its own login."""
        headers = {"authorization": f"Bearer {CLIENT.token}", "chatgpt-account-id": CLIENT.account_id}
        context = ssl.create_default_context(cafile=str(self.ca_file))
        return httpx.Client(proxy=self.url, verify=context, headers=headers, timeout=30, trust_env=False, **more)

    def says(self, text: str, seconds: float = 40) -> None:
        """Wait until it has printed ``text``, for at most ``seconds``."""
        until(lambda: text in self.log, seconds, f"the proxy to print {text!r}; it printed:\n{self.log}")

    def _listening(self) -> bool:
        ports = re.findall(r"listening at (?:127\.0\.0\.1|localhost):(\d+)", self.log)
        if not ports or not self.ca_file.exists():
            return False
        self.port = int(ports[-1])
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until ``condition()`` is true. Raise TimeoutError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def codex() -> str | None:
    """Return the path of the real client, if it is installed."""
    return os.environ.get("CODEXPOOL_CODEX") or shutil.which("codex")


class Reachable(Protocol):
    """The parts of a proxy that the real client needs."""

    @property
    def url(self) -> str: ...

    @property
    def ca_file(self) -> Path: ...


def finished(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, stdin: str = "", seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in an environment and folder of its own, and return what it printed."""
    given: dict[str, Any] = {"input": stdin} if stdin else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        command, env=environ, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False, **given
    )


class Codex:
    """The real client with its own home, isolated from this machine's configuration.

    ``login`` has the variables of its login; the default is a personal access token.
    """

    def __init__(self, proxy: Reachable, folder: Path, login: Mapping[str, str] | None = None) -> None:
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "TERM") if name in os.environ}
        self.environ = {
            **keep,
            "HOME": str(self.home),
            "CODEX_HOME": str(self.home),
            "HTTPS_PROXY": proxy.url,
            "CODEX_CA_CERTIFICATE": str(proxy.ca_file),
            **(login if login is not None else {"CODEX_ACCESS_TOKEN": CLIENT.token}),
        }

    def exec(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``codex exec`` with these arguments."""
        command = [str(codex()), "exec", "--skip-git-repo-check", *arguments]
        return self._run(command, seconds)

    def _run(self, command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        return finished(command, self.environ, self.home, seconds=seconds)


def trouble(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the signs of trouble that the real client printed."""
    return [words for words in TROUBLE if words in run.stdout + run.stderr]


def answered(run: subprocess.CompletedProcess[str], word: str) -> str:
    """Check that a run got the right answer without trouble. Return the identity that served it."""
    assert run.returncode == 0, run.stderr
    assert trouble(run) == [], run.stderr
    answer = re.search(rf"answer from (\S+), request \d+, {word}\b", run.stdout)
    assert answer, run.stdout
    return answer[1]
