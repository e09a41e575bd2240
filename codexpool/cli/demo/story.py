"""The steps of the demo, each checked against what the backend received."""

from __future__ import annotations

import tomllib
from typing import Any, Final

from codexpool.cli.demo.backend import Seen, Token
from codexpool.cli.demo.clients import Client, Turn
from codexpool.cli.demo.screen import Screen, compared, described
from codexpool.cli.demo.stage import Stage, StageError
from codexpool.protocol import endpoints
from codexpool.tokens.bearer import fingerprint

SETTLED: Final = 5.0
"""Seconds that whoami and the flag may take after the client has its answer."""


class Story:
    """One session, two turns, and the death of a token between them."""

    def __init__(self, stage: Stage, client: Client, screen: Screen) -> None:
        self._stage = stage
        self._client = client
        self._screen = screen

    def tell(self) -> None:
        """Run all steps. Raises StageError if a step leaves the next one nothing to show."""
        self._opening()
        serving = self._first_turn()
        next_one = self._stage.spare if serving is self._stage.work else self._stage.work
        before = self._stage.pool.read_text(encoding="utf-8")
        self._death(serving)
        self._second_turn(serving, next_one)
        self._confirmation(serving)
        self._flag(serving, before)
        self._nothing_leaked()

    def _opening(self) -> None:
        stage, screen = self._stage, self._screen
        screen.title("codexpool demo: a session outlives its token")
        screen.say("Nothing leaves your machine: the backend is a stand-in on 127.0.0.1, and the tokens are made up.")
        screen.step("A pool of two personal access tokens, and a client with a login of its own")
        for token in (stage.work, stage.spare):
            screen.say(f"{token.name:<7} {described(token.token)}, account {token.account_id}")
        screen.say(f"client  {described(stage.own.token)}, account {stage.own.account_id}")
        screen.say(f"proxy   mitmdump with the addon, on {stage.url}")
        screen.say(f"client  {self._client.name}")
        self._log("is ready")

    def _first_turn(self) -> Token:
        stage, screen = self._stage, self._screen
        screen.step("First turn: the request leaves under an identity of the pool")
        turn = self._turn("say hi echo:first")
        attempts = stage.attempts()
        serving = next((t for t in (stage.work, stage.spare) if attempts and t.name == attempts[0].name), None)
        if serving is None:
            raise StageError("no turn reached the backend under an identity of the pool")
        self._show_headers(0, attempts[0], every=True)
        self._show_answer(turn)
        screen.check(
            _served(attempts, [serving]), f"the backend got one request, with {serving.name}'s token and account"
        )
        screen.check(_answered(turn, serving, "first"), f"the client got {serving.name}'s answer and noticed nothing")
        return serving

    def _death(self, serving: Token) -> None:
        self._screen.step(f"{serving.name}'s token dies: from now on the backend refuses it")
        self._screen.say("The proxy is not told. It serves this session, and the session continues.")
        self._stage.standin.kill(serving.token)

    def _second_turn(self, serving: Token, next_one: Token) -> None:
        stage, screen = self._stage, self._screen
        screen.step("Second turn of the same session: refused, and sent again")
        earlier, noted = len(stage.attempts()), len(stage.notes())
        turn = self._turn("say hi again echo:second")
        attempts = stage.attempts()[earlier:]
        for number, seen in enumerate(attempts, 1):
            outcome = "refused (401 token_revoked)" if seen.status == 401 else f"accepted ({seen.status})"
            screen.say(f"attempt {number}: {_kind(seen)}, sha256:{seen.fingerprint} ({seen.name}) -> {outcome}")
        if len(stage.notes()) > noted and attempts:
            self._show_headers(noted, attempts[-1], every=False)
        self._log("sent again")
        self._show_answer(turn)
        screen.check(
            _served(attempts, [serving, next_one]),
            f"first as {serving.name}, then as {next_one.name}, each with its own token and account",
        )
        refused = stage.refused()
        screen.check(len(refused) == 1, f"exactly one request was refused ({len(refused)})")
        screen.check(
            len(stage.notes()) == noted + 1, "in the proxy's flow list, and for the client, it was one request"
        )
        screen.check(
            _answered(turn, next_one, "second"), f"the client got {next_one.name}'s answer and noticed nothing"
        )

    def _confirmation(self, serving: Token) -> None:
        stage, screen = self._stage, self._screen
        screen.step("One refusal is no proof: the proxy asks whoami about the token")
        stage.until(lambda: any(seen.status == 401 for seen in stage.whoami(serving)), SETTLED)
        refusals = [seen for seen in stage.whoami(serving) if seen.status == 401]
        for seen in refusals:
            screen.say(f"{seen.method} https://{seen.host}{seen.path}, sha256:{seen.fingerprint} -> {seen.status}")
        screen.check(len(refusals) == 1, f"whoami was asked once and confirmed it ({len(refusals)})")

    def _flag(self, serving: Token, before: str) -> None:
        stage, screen = self._stage, self._screen
        screen.step("The dead token is flagged in pool.toml, so that you can replace it")
        stage.until(lambda: stage.pool.read_text(encoding="utf-8") != before, SETTLED)
        after = stage.pool.read_text(encoding="utf-8")
        screen.diff(before, after, "pool.toml")
        self._log("needs_replacement")
        flags = {i["name"]: i["needs_replacement"] for i in _identities(after) if "needs_replacement" in i}
        flagged = (
            set(flags) == {serving.name} and flags[serving.name]["token"] == f"sha256:{fingerprint(serving.token)}"
        )
        screen.check(flagged, f"only {serving.name} is flagged, with the fingerprint of this token")
        added = [line for line in after.splitlines() if line not in before.splitlines()]
        rest = "".join(line for line in after.splitlines(keepends=True) if not line.startswith("needs_replacement"))
        screen.check(len(added) == 1 and rest == before, "one line was added, and nothing else in the file changed")

    def _nothing_leaked(self) -> None:
        stage, screen = self._stage, self._screen
        screen.step("Nothing leaked")
        screen.check(not stage.standin.refusals, "every header the backend received fits its token")
        screen.check(not stage.standin.leaks, "no token of the pool was sent where it does not belong")
        kept = [stage.dump, *stage.folder.glob("state.sqlite3*"), stage.folder / "proxy.log"]
        pooled = [token.token.encode() for token in (stage.work, stage.spare)]
        clean = not any(token in path.read_bytes() for path in kept for token in pooled)
        screen.check(clean, "no token of the pool is in the proxy's dump (-w), state or log")

    # -- parts

    def _turn(self, prompt: str) -> Turn:
        self._screen.say(f"> {prompt}", "bold")
        return self._client.turn(prompt)

    def _show_headers(self, index: int, seen: Seen, *, every: bool) -> None:
        noted = self._stage.notes()[index]
        self._screen.say(f"{_kind(seen)} {endpoints.CHATGPT}{seen.path}, as each of the three saw it:")
        self._screen.headers(compared(noted.client, noted.flow[-1], seen.headers), every)
        self._screen.say(f"comment in the flow list: {noted.comment}", "dim")

    def _show_answer(self, turn: Turn) -> None:
        self._screen.say(f"< {turn.answer}", "bold")
        for sign in turn.trouble:
            self._screen.say(f"the client noticed: {sign}", "red")

    def _log(self, words: str) -> None:
        """Show the proxy's log lines that contain ``words``."""
        for line in self._stage.log:
            if words in line:
                self._screen.say(line.replace(str(self._stage.pool), "pool.toml"), "dim")


def _served(attempts: list[Seen], tokens: list[Token]) -> bool:
    """Tell whether the attempts were made under these identities, and all but the last refused."""
    identities = [(seen.name, seen.header("chatgpt-account-id")) for seen in attempts]
    refused = [seen.status == 401 for seen in attempts]
    return identities == [(token.name, token.account_id) for token in tokens] and refused == [
        token is not tokens[-1] for token in tokens
    ]


def _identities(text: str) -> list[dict[str, Any]]:
    # Not the package's own reader: a check should not trust what it checks.
    identities: list[dict[str, Any]] = tomllib.loads(text)["identity"]
    return identities


def _answered(turn: Turn, token: Token, word: str) -> bool:
    return f"answer from {token.name}," in turn.answer and turn.answer.endswith(word) and not turn.trouble


def _kind(seen: Seen) -> str:
    return "WebSocket" if seen.is_websocket else seen.method
