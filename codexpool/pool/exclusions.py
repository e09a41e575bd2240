"""What an identity is not used for, although it serves: one endpoint, one model, one session.

Most refusals say something about one request's endpoint or model, and nothing about the identity. They change no
status (see `codexpool.pool.states`) and are remembered here, with the reason and an end.

| kind | subject | what | lasts |
|---|---|---|---|
| endpoint | the fingerprint of a token | a path | 15 minutes, or as long as the answer says |
| model | an account and its plan | a model | an hour |
| limit | an account and user | a model | as long as the answer says |
| session | the fingerprint of a token | a session that was told to leave the identity | a minute, or an hour |

A later answer replaces an entry; `codexpool resume` and a new token or plan end it. Thanks to a session's entry a
client that connects again gets another identity, even if its handshake does not name the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple

from codexpool.common.recent import Recent
from codexpool.pool.identity import Asked, Identity, Metadata, clock
from codexpool.pool.usage import LONGEST_LIMIT
from codexpool.redaction import redact_text

KEPT: Final = 1_000  # Entries of one kind; beyond that the oldest is forgotten.
SHARED: Final = 50  # The newest entries of one subject, which other proxies and commands see.
ENDPOINT_LASTS: Final = 900.0  # Seconds for an endpoint whose answer does not say.
MODEL_LASTS: Final = 3600.0  # Seconds for a model: plans change.
AWAY: Final = 60.0  # Seconds for which a session does not return to an identity that it was told to leave.


class Kind(StrEnum):
    ENDPOINT = "endpoint"
    MODEL = "model"
    LIMIT = "limit"
    SESSION = "session"


SHARED_KINDS: Final = (Kind.ENDPOINT, Kind.MODEL, Kind.LIMIT)  # A session is known to its own proxy only.


class Exclusion(NamedTuple):
    """One entry. Times are unix seconds. ``is_limit``: the reason is a limit. ``passes``: it only takes time."""

    kind: Kind
    subject: str
    what: str
    since: float
    until: float
    why: str
    is_limit: bool = False
    passes: bool = False

    def counts(self, at: float) -> bool:
        """Return whether it counts now. (One from the future was made before the clock was set back.)"""
        return self.since <= at < self.until

    def described(self, at: float) -> str:
        """Describe it: ``not used for the model gpt-x until 15:02 UTC (400 on codex/responses)``."""
        what = redact_text(self.what).removeprefix("/backend-api/")  # A client can write anything into it.
        words = {
            Kind.ENDPOINT: f"{'limited' if self.is_limit else 'not used'} on {what}",
            Kind.MODEL: f"not used for the model {what}",
            Kind.LIMIT: f"limited for the model {what}",
            Kind.SESSION: "not used for this session",
        }[self.kind]
        return f"{words} until {clock(self.until, at)} UTC ({self.why})"


class Subjects(NamedTuple):
    """The subjects an identity goes by: its token, its account and plan, its account and user."""

    token: str
    plan: str
    owner: str


def subjects(fingerprint: str, metadata: Metadata | None) -> Subjects:
    """Return the subjects of an identity; without a known account its token is each of them."""
    if metadata is None or not metadata.account_id:
        return Subjects(fingerprint, fingerprint, fingerprint)
    account = metadata.account_id
    return Subjects(fingerprint, f"{account}/{metadata.plan}", f"{account} {metadata.user_id}")


def subjects_of(identity: Identity) -> Subjects:
    return subjects(identity.fingerprint, identity.metadata)


class Exclusions:
    def __init__(self) -> None:
        self._kept: dict[Kind, Recent[tuple[str, str], Exclusion]] = {kind: Recent(KEPT) for kind in Kind}

    @property
    def knows_models(self) -> bool:
        """Whether any entry is about a model: then it matters which one a request asks for."""
        return bool(self._kept[Kind.MODEL] or self._kept[Kind.LIMIT])

    def add(self, new: Exclusion) -> bool:
        """Remember an entry. Return whether it is news."""
        kept, key = self._kept[new.kind], (new.subject, new.what)
        known = kept.get(key)
        kept[key] = new._replace(until=min(new.until, new.since + LONGEST_LIMIT))
        return known is None or not known.counts(new.since)

    def against(self, identity: Identity, asked: Asked, at: float) -> Sequence[Exclusion]:
        """Return what keeps an identity from serving a request."""
        if not any(self._kept.values()):
            return ()
        mine = subjects_of(identity)
        found = [
            self._kept[Kind.ENDPOINT].get((mine.token, asked.path)),
            self._kept[Kind.SESSION].get((mine.token, asked.session or "")),
        ]
        if not asked.is_side:
            found.append(self._kept[Kind.MODEL].get((mine.plan, asked.model)))
            found.append(self._kept[Kind.LIMIT].get((mine.owner, asked.model)))
        return [entry for entry in found if entry is not None and entry.counts(at)]

    def has_left(self, session: str | None, at: float) -> bool:
        """Return whether a session was told to leave an identity within the last minute."""
        entries = self._kept[Kind.SESSION].values()
        return any(e.what == session and e.since <= at < e.since + AWAY for e in entries)

    def of(self, identity: Identity, at: float) -> list[Exclusion]:
        """List what an identity is not used for now, for people."""
        mine = subjects_of(identity)
        return [e for e in self._shared() if e.subject in mine and e.counts(at)]

    def forget(self, identity: Identity, at: float) -> set[str]:
        """Forget all entries about an identity until then. Return the subjects of those that others know."""
        mine = subjects_of(identity)
        gone = {e.subject for e in self._shared() if e.subject in mine and e.since <= at}
        for kept in self._kept.values():
            for key in [key for key, entry in kept.items() if key[0] in mine and entry.since <= at]:
                del kept[key]
        return gone

    def forget_session(self, session: str) -> None:
        """Forget which identities a session was told to leave."""
        kept = self._kept[Kind.SESSION]
        for key in [key for key in kept if key[1] == session]:
            del kept[key]

    def may_return(self, session: str | None, token: str, why: str) -> None:
        """Forget that a session was told to leave an identity, if that was the reason."""
        kept, key = self._kept[Kind.SESSION], (token, session or "")
        if (entry := kept.get(key)) is not None and entry.why == why:
            del kept[key]

    def lift(self, owner: str, is_lifted: Callable[[Exclusion], bool]) -> bool:
        """Forget an owner's limits for models, as far as they are over. Return whether there were any."""
        limits = self._kept[Kind.LIMIT]
        over = [e for e in limits.values() if e.subject == owner and e.is_limit and is_lifted(e)]
        for entry in over:
            del limits[entry.subject, entry.what]
        return bool(over)

    def document(self, subject: str) -> dict[str, Any]:
        """Return what other proxies learn of a subject, as JSON."""
        newest = [entry for kind in SHARED_KINDS for entry in self._newest(kind, subject)]
        newest.sort(key=attrgetter("since"))
        return {"entries": [list(entry) for entry in newest[-SHARED:]]}

    def _newest(self, kind: Kind, subject: str) -> Iterator[Exclusion]:
        """Yield the newest entries of a subject, without a look at older ones."""
        return islice((entry for entry in reversed(self._kept[kind].values()) if entry.subject == subject), SHARED)

    def take(self, document: Mapping[str, Any], at: float, since: float = 0.0) -> None:
        """Take over what an earlier run or another proxy has written, unless it is older than ``since``.

        A more recent entry of this proxy stays.
        """
        for entry in entries_of(document, at):
            known = self._kept[entry.kind].get((entry.subject, entry.what))
            if entry.since > since and (known is None or known.since < entry.since):
                self.add(entry)

    def _shared(self) -> Iterator[Exclusion]:
        for kind in SHARED_KINDS:
            yield from self._kept[kind].values()


def entries_of(document: Mapping[str, Any], at: float) -> list[Exclusion]:
    """Return the entries of a document that count now. Raise TypeError or ValueError if it is not one of ours."""
    entries = []
    for kind, subject, what, since, until, why, is_limit, passes in document.get("entries", ()):
        entry = Exclusion(
            Kind(kind), str(subject), str(what), float(since), float(until), str(why), bool(is_limit), bool(passes)
        )
        if entry.counts(at) and entry.until <= at + LONGEST_LIMIT:
            entries.append(entry)
    return entries
