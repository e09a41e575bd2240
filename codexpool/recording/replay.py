"""Plays a recording through a proxy with the addon against the strict stand-in, and compares what arrives there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from codexpool.protocol import frames, headers
from codexpool.protocol.errors import code_and_message
from codexpool.protocol.routes import path_policy
from codexpool.recording.player import Answered, Headers, Player, PlayError, Socket, kinds_of
from codexpool.recording.script import DROPPED, Part, fitted
from tests.standin import Seen, StandIn

POOLED: Final = frozenset(name.decode() for name in headers.HEADERS)
"""Headers that are the pool's to set and to remove."""


class Played(NamedTuple):
    """What became of a request. It is as it should be if there are no problems."""

    part: Part
    status: int | None
    problems: list[str]
    notes: list[str]

    def document(self) -> dict[str, Any]:
        """It, for `--json`."""
        sent = self.part.sent
        return {
            "number": self.part.number,
            "method": sent.method,
            "host": sent.host,
            "path": sent.path,
            "recorded": self.part.recorded,
            "now": self.status,
            "problems": self.problems,
            "notes": self.notes,
        }


class Replay:
    """Plays requests one after the other: what arrives at the stand-in is then known to be theirs."""

    def __init__(self, standin: StandIn, player: Player) -> None:
        self._standin = standin
        self._player = player

    def play(self, part: Part) -> Played:
        """Play a request."""
        before, leaks = len(self._standin.seen), len(self._standin.leaks)
        problems: list[str] = []
        notes = list(part.notes)
        status: int | None = None
        try:
            answered = self._talk(part, problems) if part.is_upgrade else self._player.request(part.sent)
            status = answered.status
            problems += self._of_status(part, answered, notes)
        except PlayError as error:
            problems.append(str(error))
        arrived = self._arrived(part, before)
        problems += [f"the stand-in refused it: {seen.refusal}" for seen in arrived if seen.refusal]
        problems += self._of_arrival(part, arrived, status)
        if len(self._standin.leaks) > leaks:
            problems.append("a token of the pool went where none belongs")
        return Played(part, status, list(dict.fromkeys(problems)), notes)

    def _talk(self, part: Part, problems: list[str]) -> Answered:
        """Play a handshake, and the messages that were recorded."""
        socket = self._player.socket(part.sent)
        try:
            if socket.answered.status == 101:
                self._turns(part, socket, problems)
            return socket.answered
        finally:
            socket.close()

    @staticmethod
    def _turns(part: Part, socket: Socket, problems: list[str]) -> None:
        response_id, calls = "", set[str]()
        ends = iter(kinds_of(part.ends))
        for number, message in enumerate(part.messages, 1):
            answers = socket.turn(fitted(message, response_id, calls))
            for answer in answers:
                document = frames.parsed(answer)
                if document.get("type") == "response.created":
                    response_id = str(document.get("response", {}).get("id", ""))
                elif isinstance(item := document.get("item"), dict) and "call_id" in item:
                    calls.add(str(item["call_id"]))
            if not answers:
                continue
            was, now = next(ends, ""), "".join(kinds_of(answers[-1:]))
            if was in ("", "response.completed") and now != "response.completed":
                problems.append(f"message {number}: the turn ended with {now}{_said(answers[-1])}")

    @staticmethod
    def _of_status(part: Part, answered: Answered, notes: list[str]) -> Iterator[str]:
        was, now = part.recorded, answered.status
        if was is None or was >= 400:
            trouble = "no answer" if was is None else f"a {was}"
            notes.append(f"the recording has {trouble}, and the stand-in no cause for it")
            return
        if now >= 400 or (was == 101) != (now == 101):
            why = " (the stand-in has no such endpoint)" if now == 404 else ""
            yield f"recorded was {was}, and now it is {now}{why or _said(answered.body)}"

    def _arrived(self, part: Part, before: int) -> list[Seen]:
        path = part.sent.path.partition("?")[0]
        fresh = list(self._standin.seen)[before:]
        own = [seen for seen in fresh if seen.path == path and seen.host == part.sent.host]
        # The pool asks whoami, too, whenever it wants to.
        return [seen for seen in own if seen.host != "auth.openai.com" or seen.name == "client" or not seen.name]

    @staticmethod
    def _of_arrival(part: Part, arrived: Sequence[Seen], status: int | None) -> Iterator[str]:
        """How what arrived differs from what was sent, other than in what is the pool's to change."""
        requests = [seen for seen in arrived if seen.transport not in ("message", "connect")]
        if not requests:
            if status is not None:
                yield "it did not arrive at the stand-in"
            return
        last, sent = requests[-1], part.sent
        swaps = path_policy(sent.method, sent.path.partition("?")[0]).swaps and sent.host == "chatgpt.com"
        passed = (POOLED if swaps else frozenset()) | DROPPED
        as_read = [(name, value.encode("utf-8", "surrogateescape").decode("latin-1")) for name, value in sent.headers]
        yield from _differences(_compared(as_read, passed), _compared(last.headers, passed))
        if last.query != sent.path.partition("?")[2]:
            yield "its query arrived otherwise"
        if last.method != sent.method:
            yield f"it arrived as {last.method}"
        if last.body_length != len(sent.body):
            yield f"its body arrived with {last.body_length} bytes instead of {len(sent.body)}"


def _compared(fields: Headers, passed: frozenset[str]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in fields if name.lower() not in passed]


def _differences(sent: list[tuple[str, str]], arrived: list[tuple[str, str]]) -> Iterator[str]:
    if sent == arrived:
        return
    missing = [name for name, value in sent if (name, value) not in arrived]
    added = [name for name, value in arrived if (name, value) not in sent]
    changed = set(missing) & set(added)
    yield from (f"{name} arrived with another value" for name in sorted(changed))
    yield from (f"{name} did not arrive" for name in dict.fromkeys(missing) if name not in changed)
    yield from (f"{name} was added on the way" for name in dict.fromkeys(added) if name not in changed)
    if not missing and not added:
        yield "its headers arrived in another order, or another number of times"


def _said(body: bytes) -> str:
    """What an answer says in its own words."""
    code, message = code_and_message(frames.parsed(body))
    text = message or code
    return f": {text}" if text else ""
