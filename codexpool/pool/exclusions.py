"""What an identity is not for, although it is well: one endpoint, one model, one session.

Most refusals say something of one request's endpoint or model, and nothing of the identity. So they change no status
(see `codexpool.pool.states`): they are remembered here, each for what it was about, with the reason and an end.

| kind | subject | what | holds for |
|---|---|---|---|
| endpoint | the fingerprint of a token | a path | 15 minutes, or as long as the answer says |
| model | an account and its plan | a model | an hour |
| limit | an account and user | a model | as long as the answer says |

The states of an entry: absent → held (an answer said so; a later one replaces it) → absent (its time is over, the
token or plan is another one, a person says `codexpool resume`, or there is no room). A new token has a new
fingerprint, so nobody has to clear anything. Everything here runs on one thread; an answer that comes late, for an
older token, adds nothing.

`Away` is different: it says which identity a session was just told to leave, so that a client that connects again
gets another one. Without it a client whose handshake does not name the model would come back to the same identity
for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from codexpool.pool.identity import Asked, Identity, Metadata, clock
from codexpool.pool.usage import LONGEST_LIMIT
from codexpool.redaction import redact_text

KEPT: Final = 1_000  # Entries of one kind that are kept at most; beyond that the oldest is forgotten.
SHARED: Final = 50  # Entries of one subject that are shared with other proxies and commands, the newest.

ENDPOINT_HOLDS: Final = 900.0
"""Seconds for which an endpoint that refused an identity is not tried with it, where the answer does not say."""

MODEL_HOLDS: Final = 3600.0
"""Seconds for which an account is not asked for a model that it does not have: plans change."""

AWAY: Final = 60.0  # Seconds for which a session does not come back to an identity that it was told to leave.
SESSIONS_KEPT: Final = 1_000  # Sessions that are kept away from an identity; beyond that the oldest is forgotten.


class Kind(StrEnum):
    """What an entry is about."""

    ENDPOINT = "endpoint"
    MODEL = "model"
    LIMIT = "limit"


class Exclusion(NamedTuple):
    """One entry. Times are unix seconds; ``why`` is the evidence, in words that may be shown.

    ``is_limit`` says that a limit is the reason, ``passes`` that it is only a matter of time.
    """

    kind: Kind
    subject: str
    what: str
    since: float
    until: float
    why: str
    is_limit: bool = False
    passes: bool = False

    def holds(self, at: float) -> bool:
        """Whether it counts now. (One that seems to begin later was made before the clock was set back.)"""
        return self.since <= at < self.until

    def described(self, at: float) -> str:
        """What it says, for a person: ``not for the model gpt-x until 15:02 UTC (400 on codex/responses)``.

        A client can write anything in the place of a model's name, or in a path.
        """
        what = redact_text(self.what).removeprefix("/backend-api/")
        words = {
            Kind.ENDPOINT: f"{'limited' if self.is_limit else 'not used'} on {what}",
            Kind.MODEL: f"not used for the model {what}",
            Kind.LIMIT: f"limited for the model {what}",
        }[self.kind]
        return f"{words} until {clock(self.until, at)} UTC ({self.why})"


class Subjects(NamedTuple):
    """What an identity goes by here: its token, its account and plan, its account and user."""

    token: str
    plan: str
    owner: str


def subjects(fingerprint: str, metadata: Metadata | None) -> Subjects:
    """Return what an identity goes by; one of which nobody knows the account goes by its token alone."""
    if metadata is None or not metadata.account_id:
        return Subjects(fingerprint, fingerprint, fingerprint)
    account = metadata.account_id
    return Subjects(fingerprint, f"{account}/{metadata.plan}", f"{account} {metadata.user_id}")


class Exclusions:
    """All entries, bounded."""

    def __init__(self) -> None:
        self._kept: dict[Kind, OrderedDict[tuple[str, str], Exclusion]] = {kind: OrderedDict() for kind in Kind}

    @property
    def knows_models(self) -> bool:
        """Whether any entry is about a model: then it matters which one a request asks."""
        return bool(self._kept[Kind.MODEL] or self._kept[Kind.LIMIT])

    def add(self, new: Exclusion) -> bool:
        """Remember it. True where nothing like it was known."""
        kept, key = self._kept[new.kind], (new.subject, new.what)
        known = kept.pop(key, None)
        kept[key] = new._replace(until=min(new.until, new.since + LONGEST_LIMIT))
        if len(kept) > KEPT:
            kept.popitem(last=False)
        return known is None or not known.holds(new.since)

    def against(self, identity: Identity, asked: Asked, at: float) -> Sequence[Exclusion]:
        """What keeps an identity from serving a request."""
        if not any(self._kept.values()):
            return ()
        mine = subjects(identity.fingerprint, identity.metadata)
        found = [self._kept[Kind.ENDPOINT].get((mine.token, asked.path))]
        if not asked.is_side:
            found.append(self._kept[Kind.MODEL].get((mine.plan, asked.model)))
            found.append(self._kept[Kind.LIMIT].get((mine.owner, asked.model)))
        return [entry for entry in found if entry is not None and entry.holds(at)]

    def of(self, identity: Identity, at: float) -> list[Exclusion]:
        """All that an identity is not for now, to be shown."""
        mine = subjects(identity.fingerprint, identity.metadata)
        return [e for kept in self._kept.values() for e in kept.values() if e.subject in mine and e.holds(at)]

    def forget(self, identity: Identity) -> set[str]:
        """A person says that nothing is the matter with it; the subjects that there was an entry about."""
        mine, gone = subjects(identity.fingerprint, identity.metadata), set()
        for kept in self._kept.values():
            for key in [key for key in kept if key[0] in mine]:
                del kept[key]
                gone.add(key[0])
        return gone

    def document(self, subject: str) -> dict[str, Any]:
        """What is known of a subject, as JSON can hold it."""
        entries = [e for kept in self._kept.values() for e in kept.values() if e.subject == subject]
        entries.sort(key=lambda entry: entry.since)
        return {"entries": [list(entry) for entry in entries[-SHARED:]]}

    def take(self, document: Mapping[str, Any], at: float) -> None:
        """Take over what an earlier run or another proxy has written, where nothing is known."""
        for entry in entries_of(document, at):
            if (entry.subject, entry.what) not in self._kept[entry.kind]:
                self.add(entry)


def entries_of(document: Mapping[str, Any], at: float) -> list[Exclusion]:
    """The entries of a document that hold now. Raises TypeError or ValueError where it is none of ours."""
    entries = []
    for kind, subject, what, since, until, why, is_limit, passes in document.get("entries", ()):
        entry = Exclusion(
            *(Kind(kind), str(subject), str(what), float(since), float(until), str(why)), bool(is_limit), bool(passes)
        )
        if entry.holds(at) and entry.until <= at + LONGEST_LIMIT:
            entries.append(entry)
    return entries


class Away:
    """Which identities a session was told to leave, by the fingerprint of their tokens."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, dict[str, tuple[float, float]]] = OrderedDict()

    def leave(self, session: str, fingerprint: str, at: float, until: float) -> None:
        """A session leaves an identity, until then."""
        left = self._left.setdefault(session, {})
        for other in [other for other, (_, ends) in left.items() if ends <= at]:
            del left[other]
        left[fingerprint] = (at, until)
        self._left.move_to_end(session)
        if len(self._left) > SESSIONS_KEPT:
            self._left.popitem(last=False)

    def keeps(self, session: str | None, fingerprint: str, at: float) -> bool:
        """Whether a session is kept away from an identity."""
        if not self._left or session is None or (left := self._left.get(session)) is None:
            return False
        since, until = left.get(fingerprint, (at, at))
        return since <= at < until

    def has_moved(self, session: str | None, at: float) -> bool:
        """Whether a session was told to leave an identity just now."""
        left = self._left.get(session, {}) if session is not None else {}
        return any(since <= at < since + AWAY for since, _ in left.values())
