"""The demo's backend, pool and proxy, in a temporary folder."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from codexpool.cli.common import Failure
from codexpool.cli.demo.backend import Seen, StandIn, Token
from codexpool.cli.entry import entry, tool
from codexpool.cli.processes import Children, Signals
from codexpool.cli.running_proxy import Address, RunningProxy
from codexpool.pool.identity import Status
from codexpool.protocol.endpoints import RESPONSES, WHOAMI_PATH

START: Final = 20.0  # seconds the proxy may take to listen and verify its pool
# Variables of the user that would point the proxy to files or services outside the demo, or are secret.
NOT_OURS: Final = (
    *("CODEXPOOL_CONFIG", "CODEX_AUTHAPI_BASE_URL", "SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"),
    *("CODEXPOOL_STATE_KEY", "CODEXPOOL_STATE_KEY_FILE", "PGPASSWORD", "PGPASSFILE", "CODEXPOOL_UPSTREAM_PROXY"),
)

POOL: Final = """\
[pool]
selection = "round-robin"     # requests without a session go to the other one

[[identity]]
name  = "work"                # the first one
token = "{work}"

[[identity]]
name  = "spare"               # the one that takes over
token = "{spare}"
"""


class Stage(ExitStack):
    """Everything but the client. `start` starts it; leaving the context removes all of it."""

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self.work = _token("work")
        self.spare = _token("spare", routing_override="us")  # its workspace is served in one region only
        self.own = _token("client", own=True)
        self.port = 0
        self._signals = signals

    def start(self) -> None:
        """Start the backend and the proxy. Raises Failure if the proxy does not start.

        Not done on entering: if a signal arrives halfway, what has been started must be removed too.
        """
        with self._signals.held():
            temporary = tempfile.TemporaryDirectory(prefix="codexpool-demo-", ignore_cleanup_errors=True)
            self.folder = Path(self.enter_context(temporary))
            standin = StandIn([self.work, self.spare, self.own], self.folder)
            self.standin = self.enter_context(standin)
            self.children = self.enter_context(Children(self._signals))
        self.pool = self.folder / "pool.toml"
        self.dump = self.folder / "flows"
        self.ca_file = self.folder / "mitmproxy" / "mitmproxy-ca-cert.pem"
        self._start_proxy()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.folder / "proxy.log").read_text(errors="replace")

    def attempts(self) -> list[Seen]:
        """Return the turns that reached the backend; over WebSocket, the handshakes."""
        return [seen for seen in list(self.standin.seen) if seen.path == RESPONSES]

    def refused(self, *, by_whoami: bool) -> list[Seen]:
        """Return the turns, or the questions to whoami, that were refused because of their token."""
        path = WHOAMI_PATH if by_whoami else RESPONSES
        return [one for one in list(self.standin.seen) if one.status == 401 and one.path == path]

    def flows(self) -> list[dict[str, Any]]:
        """Return the proxy's traces of the requests for turns, oldest first."""
        flows = self._get("/api/flows?limit=500")["flows"]
        turns = [flow["id"] for flow in reversed(flows) if flow["path"] == RESPONSES]
        return [self._get(f"/api/flows/{turn}")["flow"] for turn in turns]

    def _start_proxy(self) -> None:
        self.pool.touch(mode=0o600)
        self.pool.write_text(POOL.format(work=self.work.token, spare=self.spare.token), encoding="utf-8")
        upstream = f"upstream:http://127.0.0.1:{self.standin.proxy_port}"
        command = [tool("mitmdump"), "-s", str(entry()), "--mode", upstream, "-w", str(self.dump)]
        for option in (
            f"codexpool_config={self.pool}",
            f"confdir={self.folder / 'mitmproxy'}",
            "listen_host=127.0.0.1",
            "listen_port=0",
            f"ssl_verify_upstream_trusted_ca={self.standin.ca_file}",
        ):
            command += ["--set", option]
        environ = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        environ |= {"CODEXPOOL_STATE": str(self.folder / "state.sqlite3"), "PYTHONUNBUFFERED": "1"}
        with (self.folder / "proxy.log").open("ab") as log:
            try:
                proxy = self.children.start(command, environ=environ, folder=self.folder, out=log, err=log)
            except OSError as error:
                raise Failure(f"cannot start {command[0]} ({error}); reinstall codexpool") from error
        if not until(lambda: proxy.poll() is not None or self._is_ready(), START):
            raise Failure(f"the proxy was not ready after {START:.0f} s. Its output:\n{self.log()}")
        if proxy.poll() is not None:
            raise Failure(f"the proxy exited with {proxy.returncode}. Its output:\n{self.log()}")

    def _is_ready(self) -> bool:
        if not (ports := re.findall(r"listening at (?:127\.0\.0\.1|localhost):(\d+)", self.log())):
            return False
        self.port = int(ports[-1])
        try:
            identities = self._get("/api/status")["identities"]
        except Failure:
            return False
        return [identity["status"] for identity in identities] == [Status.READY] * 2

    def _get(self, path: str) -> dict[str, Any]:
        return RunningProxy(Address("127.0.0.1", self.port)).get(path)


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until ``condition`` returns true; return False if it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _token(name: str, **more: Any) -> Token:
    return Token(f"at-demo-{secrets.token_urlsafe(27)}", name, **more)
