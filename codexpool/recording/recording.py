"""The flows of one recording, and the content of its file, which is checked before it is returned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from mitmproxy import http

from codexpool.protocol.hosts import is_codex
from codexpool.recording import files
from codexpool.recording.anonymize import Anonymizer
from codexpool.recording.check import Check, Finding, secrets_in
from codexpool.recording.pseudonyms import Pseudonyms

ROUNDS: Final = 6  # Passes over the flows until no new value is learned; two or three are usual
SHOWN: Final = 5  # Findings that an error names


class LeakError(Exception):
    """A recording would have something private in it, so it is not written."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        shown = "\n".join(f"  {finding}" for finding in findings[:SHOWN])
        more = f"\n  and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
        super().__init__(f"it would contain private values:\n{shown}{more}")


def is_wanted(flow: http.HTTPFlow) -> bool:
    return is_codex(flow.request.host)


class Recording:
    """What goes into one file; ``as_har``: a HAR file, and not one of mitmproxy's flow files."""

    def __init__(self, as_har: bool) -> None:
        self.flows: list[http.HTTPFlow] = []
        """Stripped flows (see `codexpool.recording.strip`)."""
        self._as_har = as_har
        self._pseudonyms = Pseudonyms()
        self._secrets: set[str] = set()

    def learn(self, secrets: Iterable[str], names: Iterable[str] = ()) -> None:
        """Replace these secrets, and names of identities, wherever they are."""
        for secret in secrets:
            self._secrets.add(secret)
            self._pseudonyms.of(secret)
        for name in names:
            self._pseudonyms.of_identity(name)

    def content(self) -> bytes:
        """Return the content of the file. Raises LeakError."""
        content = files.dump(self._anonymized(), self._as_har)
        check = Check({*self._secrets, *self._pseudonyms.values(), *secrets_in(self.flows)})
        if findings := check.findings(content):
            raise LeakError(findings)
        return content

    def _anonymized(self) -> list[http.HTTPFlow]:
        """Return the flows with pseudonyms: a value learned in the last one is replaced in the first one, too."""
        anonymizer, generation = Anonymizer(self._pseudonyms), -1
        made: list[http.HTTPFlow] = []
        for _ in range(ROUNDS):
            if generation == self._pseudonyms.generation:
                break
            generation = self._pseudonyms.generation
            self._pseudonyms.settle()
            made = [anonymizer.flow(flow) for flow in self.flows]
        return made

    def replaced(self) -> int:
        return self._pseudonyms.count()
