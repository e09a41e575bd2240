"""Records what passes through a proxy.

A flow that has ended is copied in memory, without its bodies, within microseconds. The file is written at the end: a
value that is only recognized in a later flow is replaced in earlier ones, too. Nothing raw is ever on the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from mitmproxy import http

from codexpool.protocol.hosts import is_codex
from codexpool.recording import files
from codexpool.recording.anonymize import Anonymizer, public_values, strip
from codexpool.recording.check import Check, Finding, secrets_in
from codexpool.recording.files import RecordingError
from codexpool.recording.pseudonyms import Pseudonyms

logger = logging.getLogger("codexpool")

MOST: Final = 4_000
"""Requests in a recording, some 18 kB of memory each. Later ones are not recorded, and a warning says so."""


ROUNDS: Final = 6  # passes over the flows until no new value is learned; two or three are usual
SHOWN: Final = 5  # findings that an error names


class LeakError(RecordingError):
    """A recording would have something private in it, so it is not written."""

    def __init__(self, path: Path, findings: Sequence[Finding]) -> None:
        shown = "\n".join(f"  {finding}" for finding in findings[:SHOWN])
        more = f"\n  and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
        super().__init__(f"{path}: not written, because it would contain private values:\n{shown}{more}")


class Recording:
    """What goes into one file. Raises RecordingError if it could not be written.

    ``path`` names a HAR file if it ends in ``.har``, otherwise one of mitmproxy's flow files. Only requests to the
    backend's hosts are recorded, unless ``all_hosts``.
    """

    def __init__(self, path: Path, all_hosts: bool = False) -> None:
        files.check_place(path)
        self.path = path
        self.flows: list[http.HTTPFlow] = []
        """Stripped flows (see `codexpool.recording.anonymize`)."""
        self._all_hosts = all_hosts
        self._left_out = 0
        self._pseudonyms = Pseudonyms()
        self._secrets: set[str] = set()

    def wants(self, flow: http.HTTPFlow) -> bool:
        """Return whether to record a flow, by its host; count it if not."""
        is_wanted = self._all_hosts or is_codex(flow.request.host)
        self._left_out += not is_wanted
        return is_wanted

    def learn(self, secrets: Iterable[str], names: Iterable[str] = ()) -> None:
        """Replace these secrets, and names of identities, wherever they are."""
        for secret in secrets:
            self._secrets.add(secret)
            self._pseudonyms.of(secret)
        for name in names:
            self._pseudonyms.of_identity(name)

    def content(self) -> bytes:
        """Return the content of the file. Raises LeakError."""
        content = files.dump(self._anonymized(), self.path.suffix.lower() == ".har")
        check = Check({*self._secrets, *self._pseudonyms.values(), *secrets_in(self.flows)})
        if findings := check.findings(content):
            raise LeakError(self.path, findings)
        return content

    def write(self) -> str:
        """Write the file, and return in one line what is in it. Raises RecordingError."""
        files.put(self.path, self.content())
        others = f"; left out {self._left_out} to other hosts" if self._left_out else ""
        replaced = self._pseudonyms.count()
        return f"{self.path}: {len(self.flows)} requests recorded{others}; {replaced} values replaced"

    def _anonymized(self) -> list[http.HTTPFlow]:
        """Return the flows with pseudonyms: a value learned in the last one is replaced in the first one, too."""
        self._pseudonyms.public = frozenset().union(*map(public_values, self.flows))
        anonymizer, generation = Anonymizer(self._pseudonyms), -1
        made: list[http.HTTPFlow] = []
        for _ in range(ROUNDS):
            if generation == self._pseudonyms.generation:
                break
            generation = self._pseudonyms.generation
            self._pseudonyms.settle()
            made = [anonymizer.flow(flow) for flow in self.flows]
        return made


class Recorder:
    """A recording of what passes, until `finish` writes it. Raises RecordingError if it could not be written.

    ``secrets`` and ``names`` return the tokens that the pool has now, and the names of its identities.
    """

    def __init__(
        self,
        path: Path,
        *,
        all_hosts: bool = False,
        secrets: Callable[[], Iterable[str]] = tuple,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._secrets, self._names = secrets, names
        self._recording = Recording(path, all_hosts)
        self._open: dict[str, http.HTTPFlow] = {}
        self._is_full = self._is_over = False

    def add(self, flow: http.HTTPFlow) -> None:
        """Record a flow that has an answer or an error, or a WebSocket that was opened or closed."""
        is_open = flow.websocket is not None and flow.websocket.timestamp_end is None
        if self._open.pop(flow.id, None) is None and not self._accepts(flow):
            return
        if is_open:
            self._open[flow.id] = flow  # It is recorded when it is closed.
        else:
            self._recording.flows.append(strip(flow))
        self._ask()

    def finish(self) -> None:
        """Write everything, including WebSockets that are still open, and stop recording."""
        if self._is_over:
            return
        self._is_over = True
        self._recording.flows += map(strip, self._open.values())
        self._ask()
        try:
            logger.info("%s", self._recording.write())
        except RecordingError as error:
            logger.error("%s", error)
        except Exception as error:  # Its text may quote a secret.
            bug = type(error).__name__
            logger.error("%s: not written, because of a bug in codexpool (%s)", self._recording.path, bug)

    def _ask(self) -> None:
        """Learn the pool's tokens and names: they may be renewed, and when the proxy ends, the pool may be gone."""
        self._recording.learn(self._secrets(), self._names())

    def _accepts(self, flow: http.HTTPFlow) -> bool:
        if not self._recording.wants(flow):
            return False
        if not self._is_full and len(self._recording.flows) >= MOST:
            self._is_full = True
            again = "To continue, start the proxy again with another file"
            full = "%s: full after %d requests; later ones are not recorded. %s"
            logger.warning(full, self._recording.path, MOST, again)
        return not self._is_full
