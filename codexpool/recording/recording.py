"""Flows on their way into one file: gone through twice, looked at once more, and only then given out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from mitmproxy import http

from codexpool.recording import files
from codexpool.recording.check import Check, Finding, seen_secrets
from codexpool.recording.cleaning import Cleaner
from codexpool.recording.kinds import Kind
from codexpool.recording.standins import StandIns

ROUNDS: Final = 6
"""How often flows are gone through until nothing new is found in them; two or three times are usual."""

SHOWN: Final = 5
"""Findings that a message names."""

WORDS: Final = {
    Kind.CREDENTIAL: "credential",
    Kind.COOKIE: "cookie",
    Kind.EMAIL: "e-mail address",
    Kind.ACCOUNT: "account id",
    Kind.USER: "user id",
    Kind.NAME: "name",
    Kind.DEVICE: "device id",
    Kind.ID: "other id",
    Kind.IDENTITY: "name of an identity",
    Kind.ADDRESS: "IP address",
    Kind.HOME: "home folder",
    Kind.FOLDER: "folder",
    Kind.PLACE: "repository",
    Kind.ENCRYPTED: "encrypted text",
}
"""What has stand-ins, in words; in the order in which it is told."""

_PLURALS: Final = {
    "e-mail address": "e-mail addresses",
    "IP address": "IP addresses",
    "repository": "repositories",
    "name of an identity": "names of identities",
}


class LeftInError(Exception):
    """Something private would be left in a recording, so that there is none."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        shown = "\n".join(f"  {finding}" for finding in findings[:SHOWN])
        more = f"\n  and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
        super().__init__(f"something private would be left in it:\n{shown}{more}")


class Recording:
    """What is to be in one file.

    Args:
        as_har: a HAR file is made, and no flow file.
    """

    def __init__(self, as_har: bool) -> None:
        self.flows: list[http.HTTPFlow] = []
        """All that were added; see `codexpool.recording.taking`."""
        self._as_har = as_har
        self._standins = StandIns()
        self._cleaner = Cleaner(self._standins)
        self._secrets: set[str] = set()
        self._learned = 0

    def knows(self, secrets: Iterable[str], names: Iterable[str] = ()) -> None:
        """Secrets that must not be in it wherever they come from, and names of identities."""
        self._standins.learning = True
        for secret in secrets:
            self._secrets.add(secret)
            self._standins.of(Kind.CREDENTIAL, secret)
        for name in names:
            self._standins.of(Kind.IDENTITY, name)

    def content(self, unfinished: Sequence[http.HTTPFlow] = (), breath: float = 0.0) -> bytes:
        """What the file holds. Raises LeftInError.

        Args:
            unfinished: flows that will be added when they are over, and are in it as they are now.
            breath: seconds to leave to others after each flow.
        """
        flows = [*self.flows, *unfinished]
        content = files.made(self.cleaned(unfinished, breath), self._as_har)
        check = Check({*self._secrets, *self._standins.values(), *seen_secrets(flows)})
        if findings := check.findings(content):
            raise LeftInError(findings)
        return content

    def cleaned(self, unfinished: Sequence[http.HTTPFlow] = (), breath: float = 0.0) -> list[http.HTTPFlow]:
        """The flows with stand-ins."""
        flows = [*self.flows, *unfinished]
        self._standins.learning = True
        for flow in flows[self._learned :]:
            self._cleaned(flow, breath)
        self._learned = len(self.flows)
        for _ in range(ROUNDS):
            self._standins.settle()
            generation = self._standins.generation
            made = [self._cleaned(flow, breath) for flow in flows]
            if generation == self._standins.generation:
                break
        return made

    def _cleaned(self, flow: http.HTTPFlow, breath: float) -> http.HTTPFlow:
        if breath:
            time.sleep(breath)
        return self._cleaner.flow(flow)

    def told(self) -> str:
        """How many values have stand-ins, in words."""
        counts = self._standins.count()
        told = [_counted(counts[kind], word) for kind, word in WORDS.items() if counts.get(kind)]
        return ", ".join(told) or "nothing that is anybody's"


def _counted(number: int, word: str) -> str:
    return f"{number} {word if number == 1 else _PLURALS.get(word, word + 's')}"
