"""The clients of the demo: the real Codex CLI, and a small built-in one."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import uuid
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import httpx

from codexpool.cli.demo.stage import Stage, StageError
from codexpool.protocol.endpoints import RESPONSES

TURN: Final = 30.0
"""Seconds a turn may take."""

TROUBLE: Final = (
    "Reconnecting",
    "Falling back",
    "unexpected status",
    "stream disconnected",
    "status: 401",
    "ERROR codex",
)
"""What the Codex CLI prints when a user would notice a problem."""

OF_ITS_CACHE: Final = "failed to load models cache"
"""Logged by the Codex CLI when one of its tasks reads its cache while another writes it; users do not see it."""

KEPT: Final = ("PATH", "LANG", "LC_ALL", "TERM", "TMPDIR")
"""The variables of the user that the Codex CLI gets."""


class Turn(NamedTuple):
    """The answer a client shows after a turn, and the lines that show a problem."""

    answer: str
    trouble: list[str]


class Client(Protocol):
    """One session with the backend through the proxy."""

    name: str
    session: str
    """The session's id; empty before the first turn."""

    def turn(self, prompt: str) -> Turn:
        """Send a prompt in the session. Raises StageError if no answer comes."""


class BuiltIn:
    """Speaks the HTTP form of the protocol: a POST, answered by a stream of events.

    It sends headers that describe its own workspace, to show that codexpool removes them.
    """

    name = "built in (HTTP POST and server-sent events)"

    def __init__(self, stage: Stage) -> None:
        self.session = str(uuid.uuid4())
        self._stage = stage
        self._history: list[dict[str, object]] = []

    def turn(self, prompt: str) -> Turn:
        self._say("user", "input_text", prompt)
        context = ssl.create_default_context(cafile=str(self._stage.ca_file))
        request = {"model": "demo", "stream": True, "store": False, "input": self._history}
        try:
            with (
                httpx.Client(proxy=self._stage.url, verify=context, timeout=TURN, trust_env=False) as client,
                client.stream(
                    "POST",
                    f"https://chatgpt.com{RESPONSES}",
                    json={**request, "prompt_cache_key": self.session},
                    headers=self._headers(),
                ) as response,
            ):
                if response.status_code != 200:
                    return Turn("", [f"HTTP {response.status_code}: {response.read().decode(errors='replace')}"])
                answer = "".join(_deltas(response))
        except httpx.HTTPError as error:
            raise StageError(f"the client got no answer: {error!r}") from error
        self._say("assistant", "output_text", answer)
        return Turn(answer, [])

    def _headers(self) -> dict[str, str]:
        return {
            "authorization": f"Bearer {self._stage.own.token}",
            "chatgpt-account-id": self._stage.own.account_id,
            "openai-organization": "org-of-the-client",
            "x-openai-internal-codex-residency": "eu",
            "accept": "text/event-stream",
            "originator": "codexpool_demo",
            "user-agent": "codexpool_demo",
            "session-id": self.session,
            "thread-id": self.session,
        }

    def _say(self, role: str, kind: str, text: str) -> None:
        self._history.append({"type": "message", "role": role, "content": [{"type": kind, "text": text}]})


def _deltas(response: httpx.Response) -> list[str]:
    events = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
    return [event["delta"] for event in events if event["type"] == "response.output_text.delta"]


class Codex:
    """The real Codex CLI, with a home folder of its own. The second turn resumes the session of the first."""

    def __init__(self, stage: Stage, program: Path) -> None:
        self.name = f"the Codex CLI ({program})"
        self.session = ""
        self._stage = stage
        self._program = program

    def turn(self, prompt: str) -> Turn:
        resume = ("resume", self.session) if self.session else ()
        command = [str(self._program), "exec", "--skip-git-repo-check", *resume, prompt]
        out, err = self._run(command)
        if not self.session:
            match = re.search(r"session id: (\S+)", err)
            if match is None:
                raise StageError(
                    f"the Codex CLI printed no session id. Try --client built-in. Its output:\n{_end_of(err)}"
                )
            self.session = match[1]
        return Turn(out.strip(), signs_of_trouble(out + err))

    def _run(self, command: list[str]) -> tuple[str, str]:
        home = self._stage.folder / "home"
        home.mkdir(exist_ok=True)
        out_file, err_file = home / "stdout", home / "stderr"
        with out_file.open("wb") as out, err_file.open("wb") as err:
            try:
                child = self._stage.children.start(
                    command, environ=self._environ(home), folder=home, out=out, err=err
                )
            except OSError as error:
                raise StageError(f"cannot start {command[0]} ({error}). Try --client built-in") from error
            try:
                child.wait(TURN)
            except subprocess.TimeoutExpired:
                raise StageError(f"the Codex CLI gave no answer within {TURN:.0f} s. Try --client built-in") from None
            finally:
                self._stage.children.end(child)
        said = err_file.read_text(errors="replace")
        if child.returncode != 0:
            raise StageError(f"the Codex CLI exited with {child.returncode}. Try --client built-in. {_end_of(said)}")
        return out_file.read_text(errors="replace"), said

    def _environ(self, home: Path) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "HOME": str(home),
            "CODEX_HOME": str(home),
            "CODEX_ACCESS_TOKEN": self._stage.own.token,
            "HTTPS_PROXY": self._stage.url,
            "CODEX_CA_CERTIFICATE": str(self._stage.ca_file),
        }


def signs_of_trouble(text: str) -> list[str]:
    """Return the lines in which the Codex CLI reports a problem."""
    lines = [line.strip() for line in text.splitlines() if OF_ITS_CACHE not in line]
    return [line for line in lines if any(words in line for words in TROUBLE)]


def _end_of(text: str) -> str:
    return "\n".join(text.splitlines()[-5:])
