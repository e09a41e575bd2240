"""The clients of the demo: the real Codex CLI, and a small built-in one."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import uuid
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from codexpool.cli.common import Failure
from codexpool.cli.demo.stage import Stage
from codexpool.protocol.endpoints import CHATGPT, RESPONSES

TURN: Final = 30.0  # seconds a turn may take
# What the Codex CLI prints when a user would notice a problem; users do not see one with its models cache.
TROUBLE: Final = re.compile(
    "Reconnecting|Falling back|unexpected status|stream disconnected|status: 401|ERROR codex(?!.*load models cache)"
)
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TERM", "TMPDIR")  # the user's variables that the Codex CLI gets


class Turn(NamedTuple):
    """The answer a client shows after a turn, and the lines that show a problem."""

    answer: str
    trouble: list[str]


class BuiltIn:
    """Speaks the HTTP form of the protocol: a POST, answered by a stream of events.

    It sends headers that describe its own workspace, to show that codexpool removes them.
    """

    name = "built in (HTTP POST and server-sent events)"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._history: list[dict[str, object]] = []
        session = str(uuid.uuid4())
        self._headers = {
            "authorization": f"Bearer {stage.own.token}",
            "chatgpt-account-id": stage.own.account_id,
            "openai-organization": "org-of-the-client",
            "x-openai-internal-codex-residency": "eu",
            "originator": "codexpool_demo",
            "user-agent": "codexpool_demo",
            "session-id": session,
            "thread-id": session,
        }

    def turn(self, prompt: str) -> Turn:
        content = [{"type": "input_text", "text": prompt}]
        self._history.append({"type": "message", "role": "user", "content": content})
        request = {"model": "demo", "stream": True, "store": False, "input": self._history}
        context = ssl.create_default_context(cafile=str(self._stage.ca_file))
        try:
            with httpx.Client(proxy=self._stage.url, verify=context, timeout=TURN, trust_env=False) as client:
                response = client.post(f"{CHATGPT}{RESPONSES}", json=request, headers=self._headers)
        except httpx.HTTPError as error:
            raise Failure(f"the client got no answer: {error!r}") from error
        if response.status_code != 200:
            return Turn("", [f"HTTP {response.status_code}: {response.text}"])
        events = [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]
        item = next(event["item"] for event in events if event["type"] == "response.output_item.done")
        self._history.append(item)
        return Turn(item["content"][0]["text"], [])


class Codex:
    """The real Codex CLI, with a home folder of its own. The second turn resumes the session of the first."""

    def __init__(self, stage: Stage, program: Path) -> None:
        self.name = f"the Codex CLI ({program})"
        self._stage = stage
        self._program = program
        self._resume: list[str] = []

    def turn(self, prompt: str) -> Turn:
        command = [str(self._program), "exec", "--skip-git-repo-check", *self._resume, prompt]
        home = self._stage.folder / "home"
        home.mkdir(exist_ok=True)
        environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environ |= {
            "HOME": str(home),
            "CODEX_HOME": str(home),
            "CODEX_ACCESS_TOKEN": self._stage.own.token,
            "HTTPS_PROXY": self._stage.url,
            "CODEX_CA_CERTIFICATE": str(self._stage.ca_file),
        }
        files = home / "stdout", home / "stderr"
        with files[0].open("wb") as out, files[1].open("wb") as err:
            try:
                child = self._stage.children.start(command, environ=environ, folder=home, out=out, err=err)
            except OSError as error:
                raise _failed(f"cannot be started ({error})") from error
            try:
                code = child.wait(TURN)
            except subprocess.TimeoutExpired:
                raise _failed(f"gave no answer within {TURN:.0f} s") from None
            finally:
                self._stage.children.end(child)
        out_text, err_text = (file.read_text(errors="replace") for file in files)
        if code != 0:
            raise _failed(f"exited with {code}", err_text)
        self._resume = ["resume", "--last"]
        return Turn(out_text.strip(), signs_of_trouble(out_text + err_text))


Client = BuiltIn | Codex  # a session with the backend through the proxy; `turn` raises Failure without an answer


def signs_of_trouble(text: str) -> list[str]:
    """Return the lines in which the Codex CLI reports a problem."""
    return [line.strip() for line in text.splitlines() if TROUBLE.search(line)]


def _failed(what: str, output: str = "") -> Failure:
    end = "\n".join(output.splitlines()[-5:])
    return Failure(f"the Codex CLI {what}. Try --client built-in." + (f" Its output:\n{end}" if end else ""))
