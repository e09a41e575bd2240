"""The demo's backend, pool and proxy, in a temporary folder."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from codexpool.cli.demo.backend import Seen, StandIn, Token
from codexpool.cli.demo.screen import Headers
from codexpool.cli.entry import entry, tool
from codexpool.cli.processes import Children, Signals
from codexpool.protocol.endpoints import RESPONSES, WHOAMI_PATH

WITNESS: Final = Path(__file__).with_name("witness.py")
"""A mitmproxy script. It is not imported here: that would import all of mitmproxy."""

START: Final = 20.0
"""Seconds the proxy may take to listen and verify its pool."""

NOT_OURS: Final = ("CODEXPOOL_CONFIG", "CODEX_AUTHAPI_BASE_URL", "SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE")
"""Variables of the user that would point the proxy to files or services outside the demo."""

POOL: Final = """\
# The identities of this demo.

[pool]
selection = "round-robin"     # requests without a session go to the other one

[[identity]]
name  = "work"                # the first one
token = "{work}"

[[identity]]
name  = "spare"               # the one that takes over
token = "{spare}"
"""


class StageError(Exception):
    """The demo cannot continue; the message says why and what to do."""


@dataclass
class Noted:
    """A request of the client: its headers, and those of the flow at each response."""

    client: Headers
    flow: list[Headers] = field(default_factory=list)
    comment: str = ""


class Stage:
    """Everything but the client. `start` starts it; leaving the context removes all of it."""

    def __init__(self, signals: Signals) -> None:
        self.work = _token("work")
        self.spare = _token("spare", routing_override="us")  # its workspace is served in one region only
        self.own = _token("client", own=True)
        self.port = 0
        self._signals = signals
        self._stack = ExitStack()

    @property
    def tokens(self) -> list[str]:
        """Every secret of the demo."""
        return [token.token for token in (self.work, self.spare, self.own)]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start the backend and the proxy. Raises StageError if the proxy does not start.

        Not done on entering: what is half started when a signal arrives must be removed, too.
        """
        with self._signals.held():
            temporary = tempfile.TemporaryDirectory(prefix="codexpool-demo-", ignore_cleanup_errors=True)
            self.folder = Path(self._stack.enter_context(temporary))
            standin = StandIn([self.work, self.spare, self.own], self.folder)
            self.standin = self._stack.enter_context(standin)
            self.children = self._stack.enter_context(Children(self._signals))
        self._start_proxy()

    # -- files

    @property
    def pool(self) -> Path:
        return self.folder / "pool.toml"

    @property
    def dump(self) -> Path:
        """The flows mitmproxy saves (`-w`)."""
        return self.folder / "flows"

    @property
    def ca_file(self) -> Path:
        """The certificate authority clients of the proxy must trust."""
        return self.folder / "mitmproxy" / "mitmproxy-ca-cert.pem"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> list[str]:
        """The addon's log lines so far, without mitmproxy's lines for each flow."""
        lines = (self.folder / "proxy.log").read_text(errors="replace").splitlines()
        return [line for line in lines if re.match(r"\[[\d:.]+\] (?:\S+ is |\S+ needs_|session |codexpool)", line)]

    # -- what happened

    def attempts(self) -> list[Seen]:
        """Return the turns that reached the backend; over WebSocket, the handshakes."""
        return self.standin.requests(RESPONSES)

    def refused(self) -> list[Seen]:
        """Return the requests refused because of their token."""
        return [seen for seen in list(self.standin.seen) if seen.status == 401 and seen.path != WHOAMI_PATH]

    def whoami(self, token: Token) -> list[Seen]:
        """Return the whoami requests for a token."""
        return self.standin.requests(WHOAMI_PATH, token.name)

    def notes(self) -> list[Noted]:
        """Return what the witness noted, in the order of the requests."""
        notes: dict[str, Noted] = {}
        for line in (self.folder / "notes").read_text(encoding="utf-8").splitlines():
            note = json.loads(line)
            headers = [(name, value) for name, value in note["headers"]]
            if note["status"] is None:
                notes[note["flow"]] = Noted(headers)
            else:
                notes[note["flow"]].flow.append(headers)
                notes[note["flow"]].comment = note["comment"]
        return list(notes.values())

    def until(self, holds: Callable[[], object], seconds: float) -> bool:
        """Wait until ``holds`` returns true; return False if it does not within ``seconds``."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    # -- the proxy

    def _start_proxy(self) -> None:
        self.pool.touch(mode=0o600)
        self.pool.write_text(POOL.format(work=self.work.token, spare=self.spare.token), encoding="utf-8")
        (self.folder / "notes").touch()
        command = [
            tool("mitmdump"),
            *("-s", str(WITNESS), "--set", f"codexpool_demo_notes={self.folder / 'notes'}"),
            *("-s", str(entry()), "--set", f"codexpool_config={self.pool}"),
            *(
                "--mode",
                f"upstream:http://127.0.0.1:{self.standin.proxy_port}",
                "-p",
                "0",
                "--listen-host",
                "127.0.0.1",
            ),
            *("--set", f"ssl_verify_upstream_trusted_ca={self.standin.ca_file}"),
            *("--set", f"confdir={self.folder / 'mitmproxy'}", "-w", str(self.dump)),
        ]
        with (self.folder / "proxy.log").open("ab") as log:
            try:
                proxy = self.children.start(command, environ=self._environ(), folder=self.folder, out=log, err=log)
            except OSError as error:
                raise StageError(f"cannot start {command[0]} ({error}); reinstall codexpool") from error
        if not self.until(lambda: proxy.poll() is not None or self._is_ready(), START):
            raise StageError(f"the proxy was not ready after {START:.0f} s. Its output:\n{self._output()}")
        if not self._is_ready():
            raise StageError(f"the proxy exited with {proxy.returncode}. Its output:\n{self._output()}")

    def _environ(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        return {**kept, "CODEXPOOL_STATE": str(self.folder / "state.sqlite3"), "PYTHONUNBUFFERED": "1"}

    def _is_ready(self) -> bool:
        said = self._output()
        ports = re.findall(r"listening at (?:127\.0\.0\.1|localhost):(\d+)", said)
        if not ports or "work is ready" not in said or "spare is ready" not in said:
            return False
        self.port = int(ports[-1])
        return self.ca_file.exists()

    def _output(self) -> str:
        return (self.folder / "proxy.log").read_text(errors="replace")


def _token(name: str, **more: Any) -> Token:
    """Make up a personal access token of a realistic length."""
    return Token(f"at-demo-{secrets.token_urlsafe(27)}", name, **more)
