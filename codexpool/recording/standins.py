"""Which stand-in stands for what: the same one for the same value, wherever in a recording it is. Pure.

A recording is gone through twice. At first everything is learned that is to be replaced; `settle` then numbers it.
The second time it is replaced, also where only one flow called it by its name and another one repeats it in prose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote

from codexpool.recording import shapes
from codexpool.recording.kinds import Kind
from codexpool.recording.words import any_of

Form = Callable[[str], str]
"""How a stand-in is written."""

WORDS_ONLY: Final = frozenset({Kind.IDENTITY, Kind.HOME, Kind.NAME, Kind.ADDRESS})
"""What is a word of a language as often as not: it is looked for between other words, and not within them."""

COMMON: Final = frozenset(
    {
        *(
            "admin",
            "administrator",
            "agent",
            "build",
            "builder",
            "codespace",
            "coder",
            "debian",
            "developer",
            "docker",
        ),
        *(
            "fedora",
            "guest",
            "jenkins",
            "nobody",
            "owner",
            "public",
            "runner",
            "service",
            "shared",
            "sandbox",
            "system",
        ),
        *(
            "ubuntu",
            "vagrant",
            "vscode",
            "worker",
            "workspace",
            "default",
            "primary",
            "backup",
            "personal",
            "business",
        ),
    }
)
"""Names of users and identities that say nothing, and are words of every log."""


@dataclass(slots=True)
class Entry:
    """One value: ``everywhere`` says that it is looked for in all texts, and not only replaced where it was found."""

    kind: Kind
    value: str
    everywhere: bool
    number: int = 0
    spelled: list[str] = field(default_factory=list)
    """Other ways in which it was written somewhere."""


class Literal(NamedTuple):
    """A known value in a text: where it is, and what goes there."""

    begin: int
    end: int
    made: str
    kind: Kind


class StandIns:
    """The stand-ins of one file.

    ``made`` makes the stand-in of a value that has more inside (a JWT), and returns None for all others.
    """

    def __init__(self) -> None:
        self.made: Callable[[str, int], str | None] = lambda _value, _number: None
        self.learning = True
        """Whether everything is only looked at; what `of` gives then is of the right shape, and worth nothing."""
        self.generation = 0
        """Grows with everything that is learned, so that what was replaced before can be told from what is to be."""
        self.epoch = 0
        """Grows whenever stand-ins may have become others."""
        self._entries: dict[str, Entry] = {}
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}
        self._rendered: dict[str, str] = {}
        self._literals: re.Pattern[str] | None = None
        self._of_literal: dict[str, tuple[Entry, Form]] = {}

    def of(self, kind: Kind, value: str, spelled: str = "") -> str:
        """The stand-in for a value, also where it is ``spelled`` otherwise.

        One that is new is learned, and has its number after the next `settle`.
        """
        if shapes.is_standin(value):
            self.leave(value)
            return value
        key = key_of(value)
        if spelled and spelled != value:
            self._spell(kind, value, spelled)
        if (known := self._rendered.get(key)) is not None and not self.learning:
            return known
        if (entry := self._entries.get(key)) is None:
            entry = self._entries[key] = Entry(kind, value, tells(kind, value))
            self.generation += 1
        elif not entry.everywhere and kind is not entry.kind and tells(kind, value):
            entry.everywhere, entry.kind = True, kind
            self.generation += 1
        return self._render(entry)

    def _spell(self, kind: Kind, value: str, spelled: str) -> None:
        entry = self._entries.setdefault(key_of(value), Entry(kind, value, tells(kind, value)))
        if spelled not in entry.spelled:
            entry.spelled.append(spelled)
            self.generation += 1

    def leave(self, standin: str) -> None:
        """A stand-in that was there already, of an earlier recording: it stays, and is nobody else's."""
        if self.learning and standin not in self._taken:
            self._taken.add(standin)
            self.generation += 1

    def settle(self) -> None:
        """Number what is new, and look for all of it from now on. What was learned is replaced after that."""
        self.learning = False
        self._drop_continued()
        self._look_for([entry for entry in self._entries.values() if entry.everywhere])
        self._forget()
        for entry in list(self._entries.values()):
            if not entry.number or self._render(entry) in self._taken:
                series = shapes.series(entry.kind, entry.value)
                while True:
                    entry.number = self._last[series] = self._last.get(series, 0) + 1
                    if self._render(entry) not in self._taken:
                        break
        self._forget()
        self._rendered = {key: self._render(entry) for key, entry in list(self._entries.items())}
        self.epoch += 1

    def _forget(self) -> None:
        self._rendered.clear()
        self.epoch += 1

    def literals(self, text: str) -> Iterator[Literal]:
        """Where in a text there is a value that is looked for, and the stand-in to put there."""
        if self._literals is not None:
            for match in self._literals.finditer(text):
                entry, form = self._of_literal[match[0]]
                yield Literal(*match.span(), form(self.of(entry.kind, entry.value)), entry.kind)

    def values(self) -> list[str]:
        """Everything that is looked for in all texts."""
        return [
            text for entry in self._entries.values() if entry.everywhere for text in (entry.value, *entry.spelled)
        ]

    def names(self) -> list[str]:
        """The names of identities, also those that are words of a language."""
        return [entry.value for entry in self._entries.values() if entry.kind is Kind.IDENTITY]

    def count(self) -> dict[Kind, int]:
        """How many values of each kind were replaced."""
        counts: dict[Kind, int] = {}
        for entry in self._entries.values():
            counts[entry.kind] = counts.get(entry.kind, 0) + 1
        return counts

    def _render(self, entry: Entry) -> str:
        number = 0 if self.learning else entry.number
        made = self.made(entry.value, number) if entry.kind is Kind.CREDENTIAL else None
        return made if made is not None else shapes.standin(entry.kind, entry.value, number)

    def _drop_continued(self) -> None:
        """Forget tokens that are another one with something behind it: the end of the shorter one is known better.

        In ``/tokens/at-…/revoke`` only a header that has the token alone tells where it ends.
        """
        whole = {e.value for e in self._entries.values() if e.kind is Kind.CREDENTIAL and e.everywhere}
        for key, entry in list(self._entries.items()):
            if entry.kind is Kind.CREDENTIAL and entry.value[:3] in ("at-", "rt_"):
                cuts = (match.start() for match in re.finditer(r"[/.=+~]", entry.value))
                if any(entry.value[:cut] in whole for cut in cuts):
                    del self._entries[key]

    def _look_for(self, entries: list[Entry]) -> None:
        self._of_literal = {}
        words: list[str] = []
        parts: list[str] = []
        for entry in entries:
            forms = (form for value in (entry.value, *entry.spelled) for form in _forms(value))
            for text, form in forms:
                self._of_literal.setdefault(text, (entry, form))
                (words if entry.kind in WORDS_ONLY or entry.value.isdigit() else parts).append(text)
        for entry in entries:  # The value itself goes before what another one may be written like.
            self._of_literal[entry.value] = (entry, str)
        inside, between = any_of(parts), any_of(words)
        self._literals = re.compile(rf"{inside}|(?<![^\W_]){between}(?![^\W_])") if entries else None


def _forms(value: str) -> Iterator[tuple[str, Form]]:
    """The ways in which a value may be written, and how its stand-in is written in the same way."""
    raw = value.encode("utf-8", "replace")
    for text in dict.fromkeys((value, quote(raw, safe=""), json.dumps(value)[1:-1], raw.decode("latin-1"))):
        yield text, str
    yield raw.hex(), _in_hex
    yield raw.hex().upper(), _in_hex


def _in_hex(standin: str) -> str:
    return standin.encode().hex()


def key_of(value: str) -> str:
    """What is the same value: letters of either case are one in UUIDs and e-mail addresses."""
    return value.lower() if shapes.UUID.fullmatch(value) or shapes.EMAIL.fullmatch(value) else value


def tells(kind: Kind, value: str) -> bool:
    """Whether a value is so much its own that it can be looked for everywhere.

    "dark" may be the value of a cookie, and "work" the name of an identity: these are replaced where they were found
    under that name, and left alone where they are words.
    """
    if kind is Kind.ADDRESS:
        return len(value) >= 6 and not shapes.is_standin(value)
    shortest = 5 if kind in (Kind.HOME, Kind.NAME) else 6
    if len(value) < shortest or len(set(value)) < 2 or shapes.is_vocabulary(value):
        return False
    if kind is Kind.ENCRYPTED:
        return False
    has_digit, has_letter = any(c.isdigit() for c in value), any(c.isalpha() for c in value)
    if not has_letter:
        return kind in (Kind.ACCOUNT, Kind.USER, Kind.CREDENTIAL) and len(value) >= 8 and len(set(value)) > 3
    is_word = value.isalpha() and (value.islower() or value.istitle() or value.isupper())
    match kind:
        case Kind.CREDENTIAL:
            return has_digit or len(value) >= 16 or not (is_word or value == value.lower())
        case Kind.COOKIE:
            return len(value) >= 16 or (len(value) >= 8 and has_digit)
        case Kind.IDENTITY | Kind.HOME:
            return value.lower() not in COMMON and (kind is Kind.HOME or not is_word or len(value) >= 10)
        case Kind.ID:
            return len(value) >= 16 or (len(value) >= 8 and has_digit)
        case Kind.ACCOUNT | Kind.USER | Kind.DEVICE:
            return not is_word or len(value) >= 12
        case Kind.FOLDER:
            return value.count("/") + value.count("\\") >= 2
        case _:
            return True
