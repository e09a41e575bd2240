"""The soak's stand-in, proxy and pool, and the checks of each answer."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Mapping

from tests.e2e.logins import Login
from tests.e2e.world import E2EProxy
from tests.soak.constants import HELLO, OWN_CODES, Event
from tests.soak.findings import Findings
from tests.standin import StandIn, Token


class NoAnswerError(Exception):
    """An attempt failed with ``what``. ``final`` ends the turn, ``inner`` is retried at once. ``wait``: seconds."""

    def __init__(self, what: str, *, final: bool = False, inner: bool = False, wait: float | None = None) -> None:
        super().__init__(what)
        self.what, self.final, self.inner, self.wait = what, final, inner, wait


class NoSocketError(NoAnswerError):
    """An upgrade got a 426: the rest of the session uses HTTP."""


class World:
    """The stand-in, the proxy and the pool."""

    def __init__(self, standin: StandIn, proxy: E2EProxy, tokens: Mapping[str, Token], logins: list[Login]) -> None:
        self.standin, self.proxy, self.logins = standin, proxy, logins
        self.tokens = dict(tokens)
        """The current PAT of each name."""
        self.findings = Findings()
        self.trust: ssl.SSLContext = proxy.trust
        self.ended = asyncio.Event()
        self.answered: dict[int, str] = {}
        """The word of each answered request, by its number."""
        self.response_ids: set[str] = set()
        self.served: dict[str, float] = {}
        """When each identity last served an answer."""

    def bearer(self, name: str) -> str:
        """Return the current token of an identity."""
        if name in self.tokens:
            return self.tokens[name].token
        login = next(login for login in self.logins if login.path.parent.name == f"login-{name}")
        return str(login.document["tokens"]["access_token"])

    @property
    def names(self) -> list[str]:
        return [*self.tokens, *(login.path.parent.name.removeprefix("login-") for login in self.logins)]

    # -- checks of answers

    def take(self, events: list[Event], word: str, session: str) -> tuple[str, list[Event]]:
        """Check a complete answer. Return its id, and its items for the history."""
        kinds = [event["type"] for event in events]
        response_id = str(events[-1]["response"]["id"])
        if kinds.count("response.created") != 1 or kinds[0] != "response.created":
            self.findings.add(f"{session} {word}: not one answer: {kinds}")
        if any(event["response"]["id"] != response_id for event in events if "response" in event):
            self.findings.add(f"{session} {word}: two answers in one: {events}")
        if response_id in self.response_ids:
            self.findings.add(f"{session} {word}: {response_id} was answered before")
        self.response_ids.add(response_id)
        items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        if items != events[-1]["response"]["output"]:
            self.findings.add(f"{session} {word}: got {items} instead of {events[-1]['response']['output']}")
        spoken = text_of(events)
        call = next((item for item in items if item["type"] == "function_call"), None)
        text = call["arguments"] if call else next(i["content"][0]["text"] for i in items if i["type"] == "message")
        hello = HELLO.search(spoken)
        if spoken != text or len(HELLO.findall(spoken)) != 1 or hello is None:
            self.findings.add(f"{session} {word}: deltas {spoken!r} of {text!r}")
        else:
            self._compare(hello, word, session)
        return response_id, items

    def _compare(self, hello: re.Match[str], word: str, session: str) -> None:
        """Compare an answer with the stand-in's record of its request."""
        name, number = hello[1], int(hello[2])
        seen = self.standin.seen[number - 1]
        about = f"{session} {word}: answered {hello[0]!r}, "
        if hello[3] != word:
            self.findings.add(about + "the answer to another request")
        if number in self.answered:
            self.findings.add(about + f"which was the answer to {self.answered[number]}")
        if (seen.number, seen.name, seen.status, seen.header("thread-id")) != (number, name, 200, session):
            self.findings.add(about + f"but {seen.number} is of {seen.name} {seen.status} {seen.header('thread-id')}")
        words = re.findall(rb"echo:([\w.-]+)", seen.body or b"")
        if words and words[-1].decode() != word:
            self.findings.add(about + f"but the request was {words[-1]!r}")
        seen.body = None  # saves memory
        self.answered[number] = word
        self.served[name] = time.time()

    def take_part(self, events: list[Event], word: str, session: str) -> None:
        """Check that an unfinished answer has no part of another one."""
        spoken = text_of(events)
        if any(hello[2] != word for hello in HELLO.findall(spoken)) or spoken.count("answer from") > 1:
            self.findings.add(f"{session} {word}: part of an answer: {spoken!r}")

    def refused(self, status: int, headers: Mapping[str, str], body: object, where: str) -> NoAnswerError:
        """Return how Codex reacts to a refusal."""
        error = body.get("error") if isinstance(body, dict) else None
        error = error if isinstance(error, dict) else {}
        code, kind = str(error.get("code") or error.get("type") or ""), error.get("type")
        what = f"{where} {status} {code}".rstrip()
        if code in OWN_CODES:
            what += f" ({str(error.get('message'))[:60]})"
        if status == 401:
            self.findings.add(f"a client saw a 401: {what} {body}")
        wait = headers.get("retry-after")
        seconds = float(wait) if wait is not None else None
        if code == "websocket_connection_limit_reached":
            ours = " (codexpool's)" if "codexpool" in str(error.get("message")) else ""
            return NoAnswerError(f"{where} connect again{ours}", wait=seconds)
        if status == 400:
            return NoAnswerError(f"{what} {str(body)[:300]}", final=True)
        if status == 429:
            final = seconds is None or kind in ("usage_limit_reached", "usage_not_included")
            return NoAnswerError(what, final=final, wait=seconds)
        return NoAnswerError(what, inner=status >= 500, wait=seconds)

    def failed(self, event: Event, where: str) -> NoAnswerError:
        """Return how Codex reacts to a failed answer."""
        error = event["response"].get("error") or {}
        code = str(error.get("code"))
        final = code in ("invalid_prompt", "usage_not_included", "insufficient_quota", "server_is_overloaded")
        more = f" {error.get('message')}" if final else ""
        return NoAnswerError(f"{where} response.failed {code}{more}", final=final)


def text_of(events: list[Event]) -> str:
    """Join the deltas of an answer."""
    return "".join(str(event["delta"]) for event in events if str(event["type"]).endswith(".delta"))
