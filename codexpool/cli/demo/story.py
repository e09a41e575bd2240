"""The steps of the demo, each checked against what the backend received."""

from __future__ import annotations

import difflib
import itertools
import time
import tomllib
from typing import Final

from rich.text import Text

from codexpool.cli.common import Failure
from codexpool.cli.demo.backend import Token
from codexpool.cli.demo.clients import Client
from codexpool.cli.demo.stage import Stage, until
from codexpool.cli.output import Output
from codexpool.redaction import redact_tokens
from codexpool.tokens.bearer import fingerprint
from codexpool.views.header_table import header_lines

SETTLED: Final = 5.0  # seconds that whoami and the flag may take after the client has its answer


class Story:
    """One session, two turns, and the death of a token between them."""

    def __init__(self, stage: Stage, client: Client) -> None:
        self._stage = stage
        self._client = client
        self._output = Output()
        self._steps = itertools.count(1)
        self._checks = 0
        self._failed: list[str] = []

    def run(self) -> None:
        """Run all steps. Raises Failure if a check failed, or if a step leaves the next one nothing to show."""
        start = time.monotonic()
        self._introduce()
        self._step("First turn: the request leaves under an identity of the pool")
        serving = self._turn("first", refused=[])
        before = self._stage.pool.read_text(encoding="utf-8")
        self._step(f"{serving.name}'s token dies: the backend refuses it from the next turn on")
        self._line("The proxy is not told. It serves this session, and the session continues.")
        self._stage.standin.kill(serving.token)
        self._step("Second turn of the same session: refused, and sent again")
        self._turn("second", refused=[serving])
        refused = len(self._stage.refused(by_whoami=False))
        self._check(refused == 1, f"exactly one request was refused ({refused})")
        self._confirmation(serving)
        self._flag(serving, before)
        self._leaks()
        if self._failed:
            raise Failure(f"{len(self._failed)} of {self._checks} checks failed: {'; '.join(self._failed)}")
        self._print(f"\nAll {self._checks} checks passed in {time.monotonic() - start:.1f} s.", "bold green")

    def _introduce(self) -> None:
        stage = self._stage
        self._print("codexpool demo: a session outlives its token", "bold")
        self._line("Nothing leaves your machine: the backend is a stand-in on 127.0.0.1, and the tokens are made up.")
        self._step("A pool of two personal access tokens, and a client with a login of its own")
        for token in (stage.work, stage.spare, stage.own):
            self._line(f"{token.name:<7} sha256:{fingerprint(token.token)}, account {token.account_id}")
        self._line(f"proxy   mitmdump with the addon, on {stage.url}")
        self._line(f"client  {self._client.name}")
        self._show_log(" is ready")

    def _turn(self, word: str, refused: list[Token]) -> Token:
        """Run a turn that is refused under each of these tokens; return the token it is served under."""
        stage = self._stage
        earlier, flows = len(stage.attempts()), len(stage.flows())
        self._line(f"> say hi echo:{word}", "bold")
        turn = self._client.turn(f"say hi echo:{word}")
        attempts, new = stage.attempts()[earlier:], stage.flows()[flows:]
        serving = next((t for t in (stage.work, stage.spare) if attempts and t.name == attempts[-1].name), None)
        if serving is None:
            raise Failure("no turn reached the backend under an identity of the pool")
        for number, seen in enumerate(attempts, 1):
            outcome = "refused (401 token_revoked)" if seen.status == 401 else f"accepted ({seen.status})"
            self._line(f"attempt {number}: {seen.kind}, sha256:{fingerprint(seen.bearer)} ({seen.name}) -> {outcome}")
        for flow in new:
            for line in header_lines(flow, changed_only=True):
                self._line(line.text, line.role.value)
        if refused:
            self._show_log("sent again")
        self._line(f"< {turn.answer}", "bold")
        for trouble in turn.trouble:
            self._line(f"the client noticed: {trouble}", "red")
        tokens = [*refused, serving]
        expected = [(token.name, token.account_id, token in refused) for token in tokens]
        made = [(seen.name, seen.header("chatgpt-account-id"), seen.status == 401) for seen in attempts]
        order = ", then as ".join(token.name for token in tokens)
        self._check(made == expected, f"the backend got it as {order}, with the token and account of each")
        self._check(len(new) == 1, "in the proxy's flow list, and for the client, it was one request")
        is_whole = f"answer from {serving.name}," in turn.answer and turn.answer.endswith(word) and not turn.trouble
        self._check(is_whole, f"the client got {serving.name}'s answer and noticed nothing")
        return serving

    def _confirmation(self, serving: Token) -> None:
        stage = self._stage
        self._step("One refusal is no proof: the proxy asks whoami about the token")
        until(lambda: stage.refused(by_whoami=True), SETTLED)
        refused = stage.refused(by_whoami=True)
        for seen in refused:
            address = f"https://{seen.host}{seen.path}"
            self._line(f"{seen.method} {address}, sha256:{fingerprint(seen.bearer)} -> {seen.status}")
        confirmed = [seen.name for seen in refused] == [serving.name]
        self._check(confirmed, f"whoami was asked once and confirmed it ({len(refused)})")

    def _flag(self, serving: Token, before: str) -> None:
        stage = self._stage
        self._step("The dead token is flagged in pool.toml, so that you can replace it")
        until(lambda: stage.pool.read_text(encoding="utf-8") != before, SETTLED)
        after = stage.pool.read_text(encoding="utf-8")
        lines = before.splitlines(), after.splitlines()
        for line in difflib.unified_diff(*lines, "before", "after", n=2, lineterm=""):
            self._line(line, {"+": "green", "-": "red", "@": "cyan"}.get(line[0], ""))
        self._show_log("needs_replacement")
        # Read with tomllib, not with the package's own reader: a check should not trust what it checks.
        identities = tomllib.loads(after)["identity"]
        flags = {one["name"]: one["needs_replacement"]["token"] for one in identities if "needs_replacement" in one}
        flagged = flags == {serving.name: f"sha256:{fingerprint(serving.token)}"}
        self._check(flagged, f"only {serving.name} is flagged, with the fingerprint of this token")
        found = after.splitlines(keepends=True)
        rest = [line for line in found if not line.startswith("needs_replacement")]
        one_added = len(found) == len(rest) + 1 and "".join(rest) == before
        self._check(one_added, "one line was added, and nothing else in the file changed")

    def _leaks(self) -> None:
        stage = self._stage
        self._step("Nothing leaked")
        for problem in stage.standin.problems:
            self._line(problem, "red")
        self._check(not stage.standin.problems, "each request had the headers of its token, and no other token")
        kept = [stage.dump, *stage.folder.glob("state.sqlite3*"), stage.folder / "proxy.log"]
        pooled = [token.token.encode() for token in (stage.work, stage.spare)]
        clean = not any(token in path.read_bytes() for path in kept for token in pooled)
        self._check(clean, "no token of the pool is in the proxy's dump (-w), state or log")

    def _show_log(self, words: str) -> None:
        for line in self._stage.log().splitlines():
            if words in line:
                self._line(line.replace(str(self._stage.pool), "pool.toml"), "dim")

    def _check(self, passed: bool, text: str) -> None:
        self._checks += 1
        if passed:
            self._print(f"   ok   {text}", "green")
        else:
            self._failed.append(text)
            self._print(f"   NOT  {text}", "bold red")

    def _step(self, text: str) -> None:
        self._print(f"\n{next(self._steps)}. {text}", "bold cyan")

    def _line(self, text: str, style: str = "") -> None:
        self._print(f"   {text}", style)

    def _print(self, text: str, style: str) -> None:
        self._output.lines(Text(redact_tokens(text), style))
