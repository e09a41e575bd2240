"""The demo's stage: the stand-in, the pool and the proxy, in a folder that goes away with them."""

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
"""A script for mitmproxy; importing it here would import all of mitmproxy."""

START: Final = 20.0
"""Seconds the proxy gets to listen and to know its pool."""

NOT_OURS: Final = ("CODEXPOOL_CONFIG", "CODEX_AUTHAPI_BASE_URL", "SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE")
"""Variables of the user that would lead the proxy to files or services outside the stage."""

POOL: Final = """\
# The identities of this demo.

[pool]
selection = "round-robin"     # so that what belongs to no session goes to the other one

[[identity]]
name  = "work"                # the first one
token = "{work}"

[[identity]]
name  = "spare"               # the one that steps in
token = "{spare}"
"""


class StageError(Exception):
    """The demo cannot go on; the text says why, and what mends it."""


@dataclass
class Noted:
    """One request of the client: its headers, and those of the flow with each answer that came."""

    client: Headers
    flow: list[Headers] = field(default_factory=list)
    comment: str = ""


class Stage:
    """Everything but the client. Entering starts it, leaving puts all of it away."""

    def __init__(self, signals: Signals) -> None:
        self.work = _token("work")
        self.spare = _token("spare", routing_override="us")  # its workspace is served in one region only
        self.own = _token("client", own=True)
        self.port = 0
        self._signals = signals
        self._stack = ExitStack()

    @property
    def tokens(self) -> list[str]:
        """All secrets of the stage."""
        return [token.token for token in (self.work, self.spare, self.own)]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Set everything up. Raises StageError where the proxy does not start.

        It is no part of entering, since what is half set up when a signal comes has to be put away as well.
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
        """The flows as mitmproxy writes them."""
        return self.folder / "flows"

    @property
    def ca_file(self) -> Path:
        """The certificate authority a client of the proxy has to trust."""
        return self.folder / "mitmproxy" / "mitmproxy-ca-cert.pem"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> list[str]:
        """What the addon has said so far, without the lines of mitmproxy on each flow."""
        lines = (self.folder / "proxy.log").read_text(errors="replace").splitlines()
        return [line for line in lines if re.match(r"\[[\d:.]+\] (?:\S+ is |\S+ needs_|session |codexpool)", line)]

    # -- what happened

    def attempts(self) -> list[Seen]:
        """Return the turns that reached the backend; over WebSocket, the handshakes."""
        return self.standin.requests(RESPONSES)

    def refused(self) -> list[Seen]:
        """The requests that the backend refused because of their token."""
        return [seen for seen in list(self.standin.seen) if seen.status == 401 and seen.path != WHOAMI_PATH]

    def whoami(self, token: Token) -> list[Seen]:
        """The times somebody asked whose token this is, with the answers."""
        return self.standin.requests(WHOAMI_PATH, token.name)

    def notes(self) -> list[Noted]:
        """What the witness saw, in the order in which the client sent it."""
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
        """Wait until something holds; False if it does not in that time."""
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
                raise StageError(f"{command[0]} cannot be started ({error}); install codexpool again") from error
        if not self.until(lambda: proxy.poll() is not None or self._is_ready(), START):
            raise StageError(f"the proxy was not ready after {START:.0f} s. It said:\n{self._all_it_said()}")
        if not self._is_ready():
            raise StageError(f"the proxy ended with exit code {proxy.returncode}. It said:\n{self._all_it_said()}")

    def _environ(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        return {**kept, "CODEXPOOL_STATE": str(self.folder / "state.sqlite3"), "PYTHONUNBUFFERED": "1"}

    def _is_ready(self) -> bool:
        said = self._all_it_said()
        ports = re.findall(r"listening at (?:127\.0\.0\.1|localhost):(\d+)", said)
        if not ports or "work is ready" not in said or "spare is ready" not in said:
            return False
        self.port = int(ports[-1])
        return self.ca_file.exists()

    def _all_it_said(self) -> str:
        return (self.folder / "proxy.log").read_text(errors="replace")


def _token(name: str, **more: Any) -> Token:
    """A made-up personal access token, as long as one that looks real."""
    return Token(f"at-demo-{secrets.token_urlsafe(27)}", name, **more)
