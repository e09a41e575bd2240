"""Which models an account may use, by the lists that the backend has given it. Pure: times are unix seconds.

A list is of an account with its plan (as in `codexpool.pool.exclusions`), and for a version of the client: newer
models are listed for newer clients only. So lists are compared within a version: an account lacks a model if another
account's list has it, and none of its own. An account without a list may use every model, and every account may use
a model that is in no list.

A list never keeps an identity from serving: it decides which one is asked first. Only a refusal excludes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from codexpool.common.recent import Recent
from codexpool.protocol.models import TESTED, Catalogue, Entry, merged

VERSIONS_KEPT: Final = 4  # Versions of clients for which lists are kept.
VERSION_LASTS: Final = 3600.0  # Seconds without a request after which another version may take its place.
KEPT: Final = 8_000  # Lists.
BYTES_KEPT: Final = 32 * 2**20  # Of all lists; equal entries count once.
ENTRIES_KEPT: Final = 50_000  # Different entries: a short one takes more memory than its text.
FRESH: Final = 1_200.0  # Seconds for which a list is not read again: identities of one account share it.
AGAIN: Final = 60.0  # The same after a list could not be read.
OUTDATED: Final = 300.0  # The same after an answer has named another list.
CATALOGUES_KEPT: Final = 64  # Merged lists; equal ones are one.
NOTHING: Final[frozenset[str]] = frozenset()


class _Shared:
    """A text that several lists have; the last of them takes it along."""

    __slots__ = ("__weakref__", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text


class _List(NamedTuple):
    """What is known of an account's models; without entries it is not known, but was asked for."""

    asked_at: float  # When the backend was asked last, whatever the answer.
    read_at: float = 0.0
    entries: tuple[Entry, ...] = ()
    slugs: frozenset[str] = NOTHING
    etag: str = ""
    shared: tuple[_Shared, ...] = ()


class _Compared(NamedTuple):
    """The models of each account, those of each version, and whether some account lacks one."""

    own: dict[str, set[str]]
    offered: dict[str, set[str]]
    differ: bool


class Entitlements:
    """The lists, by account with plan and by version."""

    def __init__(self) -> None:
        self.versions: dict[str, float] = {TESTED: 0.0}
        """The versions to ask for, and when a client last had each. The first one gives way first."""
        self.revision = 0  # Changes with what the lists say.
        self._lists: Recent[tuple[str, str], _List] = Recent(KEPT)
        self._texts: WeakValueDictionary[bytes, _Shared] = WeakValueDictionary()
        self._made: _Compared | None = None  # None: to be made.
        self._catalogues: Recent[tuple[str, tuple[str, ...]], Catalogue | None] = Recent(CATALOGUES_KEPT)

    # -- what is asked for

    def asked_for(self, version: str, at: float) -> bool:
        """Note that a client has this version. Return whether lists have to be read for it from now on.

        While `VERSIONS_KEPT` others are in use it is not taken in: its clients get the answers of single identities.
        """
        if version in self.versions:
            self.versions[version] = at
            return False
        if len(self.versions) >= VERSIONS_KEPT:
            oldest = min(self.versions, key=lambda known: self.versions[known])
            if self.versions[oldest] + VERSION_LASTS > at:
                return False
            del self.versions[oldest]
            for key in [key for key in self._lists if key[1] == oldest]:
                del self._lists[key]
        self.versions[version] = at
        self._changed()
        return True

    def etag(self, plan: str, version: str) -> str:
        """Return the etag of the list that is known; empty if none is."""
        return known.etag if (known := self._lists.get((plan, version))) is not None else ""

    def was_asked(self, plan: str, version: str) -> bool:
        """Return whether the backend was asked for a list, whatever the answer."""
        return (plan, version) in self._lists

    def is_due(self, plan: str, version: str, at: float) -> bool:
        """Return whether to ask for a list; one that could not be read is asked for sooner."""
        if (known := self._lists.get((plan, version))) is None:
            return True
        fresh = FRESH if known.read_at == known.asked_at else AGAIN
        return not known.asked_at <= at < known.asked_at + fresh

    # -- what the backend has said

    def learn(self, plan: str, version: str, entries: Sequence[Entry], etag: str, at: float) -> None:
        """Keep a list; one for which there is no room counts as unread."""
        shared = [self._shared(entry.text) for entry in entries]
        if len(self._texts) > ENTRIES_KEPT or sum(len(text.text) for text in self._texts.values()) > BYTES_KEPT:
            self.unread(plan, version, at)
            return
        kept = tuple(entry._replace(text=one.text) for entry, one in zip(entries, shared, strict=True))
        slugs = frozenset(entry.slug for entry in kept)
        self._put(plan, version, _List(at, at, kept, slugs, etag, tuple(shared)))

    def unchanged(self, plan: str, version: str, at: float) -> None:
        """Note that a list was read again, and is the same."""
        if (known := self._lists.get((plan, version))) is not None:
            self._lists[plan, version] = known._replace(asked_at=at, read_at=at)

    def unread(self, plan: str, version: str, at: float) -> None:
        """Note that a list could not be read. An earlier one still counts."""
        known = self._lists.get((plan, version), _List(at))
        self._put(plan, version, known._replace(asked_at=at))

    def is_outdated(self, plan: str, version: str, etag: str, at: float) -> bool:
        """Return whether to ask for a list because an answer names another etag than the list has."""
        if (known := self._lists.get((plan, version))) is None or not known.etag or known.etag == etag:
            return False
        return not known.asked_at <= at < known.asked_at + OUTDATED

    def keep(self, plans: Collection[str]) -> None:
        """Forget the lists of all other accounts."""
        gone = [key for key in self._lists if key[0] not in plans]
        for key in gone:
            del self._lists[key]
        if gone:
            self._changed()

    # -- what follows

    @property
    def differ(self) -> bool:
        """Whether some account lacks a model that another one has."""
        return self._compared().differ

    def lacks(self, plan: str, model: str) -> bool:
        """Return whether an account does not have a model, by its lists."""
        own, offered, differ = self._compared()
        if not differ or plan not in own or model in own[plan]:
            return False
        return any(model in offered[version] for version in self._versions_of(plan))

    def is_unlisted(self, plans: Iterable[str], model: str) -> bool:
        """Return whether these accounts all have a list, and none of them the model."""
        own = self._compared().own
        return all(own.get(plan) and model not in own[plan] for plan in plans)

    def lacked(self, plan: str) -> frozenset[str]:
        """Return all models that an account does not have, by its lists."""
        own, offered, differ = self._compared()
        if not differ:
            return NOTHING
        return NOTHING.union(*(offered[version] - own[plan] for version in self._versions_of(plan)))

    def _versions_of(self, plan: str) -> Iterator[str]:
        """Return the versions for which an account's list is known."""
        return (v for v in self.versions if (known := self._lists.get((plan, v))) is not None and known.slugs)

    def models(self, plan: str) -> list[str]:
        """Return the models that an account has by its lists, for people. Empty if that is not known."""
        lists = (self._lists.get((plan, version)) for version in self.versions)
        entries = {entry.slug: entry for known in lists if known is not None for entry in known.entries}
        return [entry.slug for entry in sorted(entries.values(), key=lambda entry: entry.priority)]

    def catalogue(self, version: str, plans: tuple[str, ...]) -> Catalogue | None:
        """Return the list of all that these accounts have; None if no list is known."""
        key = (version, plans)
        if key not in self._catalogues:
            known = [self._lists[plan, version].entries for plan in plans if (plan, version) in self._lists]
            made = merged(known) if any(known) else None
            # Most are equal: accounts differ more than their models do.
            self._catalogues[key] = next((c for c in self._catalogues.values() if c == made), made)
        return self._catalogues[key]

    def _put(self, plan: str, version: str, new: _List) -> None:
        known = self._lists.get((plan, version))
        self._lists[plan, version] = new
        if known is None or known.entries != new.entries:
            self._changed()

    def _shared(self, text: bytes) -> _Shared:
        return self._texts.setdefault(hashlib.sha256(text).digest(), _Shared(text))

    def _changed(self) -> None:
        self.revision += 1
        self._made = None
        self._catalogues.clear()

    def _compared(self) -> _Compared:
        """Return what the lists have. (What each account lacks would be as large as accounts times models.)"""
        if self._made is None:
            own: dict[str, set[str]] = {}
            offered: dict[str, set[str]] = {}
            for (plan, version), known in self._lists.items():
                own.setdefault(plan, set()).update(known.slugs)
                offered.setdefault(version, set()).update(known.slugs)
            named = {key for key, known in self._lists.items() if known.slugs}
            differ = any(not offered[version] <= own[plan] for plan, version in named)
            self._made = _Compared(own, offered, differ)
        return self._made
