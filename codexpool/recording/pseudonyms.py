"""Pseudonyms: the same one for the same value everywhere in a file, and recognizable as one in a later recording."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count
from os.path import commonprefix
from typing import Final
from urllib.parse import quote, unquote

UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
EMAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,9}[A-Za-z]{2,24}")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")

PREFIX: Final = re.compile(
    r"(?:at|rt|sk|sess|gh[pousr]|user|org|proj|acc|acct|ws|resp|msg|req|call|conv|thread|turn)[-_]"
)
"""Prefixes of tokens and ids that name their kind."""

PSEUDONYM: Final = re.compile(
    r"(?:00000000-0000-[0-9a-f]000-8000-)?0{6}\d{6}|person\d{1,6}@example\.com|identity-\d{1,6}"
    rf"|(?:{PREFIX.pattern})?pseudonym-\d{{1,6}}"
)


def is_pseudonym(text: str) -> bool:
    return PSEUDONYM.fullmatch(text) is not None


def is_distinctive(value: str) -> bool:
    """Return whether a value is searched for in every text: a cookie's value may be ``dark``."""
    if len(set(value)) < 4 or len(value) < 8 or " " in value:
        return False
    return any(map(str.isdigit, value)) or len(value) >= 24 or (len(value) >= 16 and value != value.lower())


class Pseudonyms:
    """The pseudonyms of one file.

    Go through the flows once to learn every value, then `settle`, and go through them again: a value that one header
    names may be repeated, without its name, in an earlier request.
    """

    def __init__(self) -> None:
        self.generation = 0
        """Grows with every value learned."""
        self.public: frozenset[str] = frozenset()
        """Values that stay wherever they are, because they say which client and which model was used."""
        self._made: dict[str, str] = {}
        self._taken: set[str] = set()
        self._numbers: dict[str, count[int]] = {}
        self._names: set[str] = set()
        self._identities: set[str] = set()
        self._search = re.compile(r"(?!)")
        self._own = re.compile(r"(?!)")

    def of(self, value: str) -> str:
        """Return the pseudonym of a value, in its shape."""
        if not value or is_pseudonym(value):
            self._taken.add(value)
            return value
        if value in self.public and value not in self._made:
            return value
        if UUID.fullmatch(value):
            return self._of(value.lower(), f"00000000-0000-{value[14].lower()}000-8000-{{:012d}}")
        if EMAIL.fullmatch(value):
            return self._of(value.lower(), "person{}@example.com")
        if _FINGERPRINT.fullmatch(value):
            return self._of(value, "{:012d}")
        prefix = PREFIX.match(value)
        return self._of(value, (prefix[0] if prefix else "") + "pseudonym-{}")

    def of_name(self, name: str) -> str:
        """Return the pseudonym of what a person or a home folder is called; it is searched for as a whole word."""
        if len(name) >= 5:
            self._names.add(name)
        return self.of(name)

    def of_identity(self, name: str) -> str:
        """Return the pseudonym of an identity's name; it is searched for in what codexpool says."""
        if is_pseudonym(name):
            return self.of(name)
        self._identities.add(name)
        return self._of(name, "identity-{}")

    def _of(self, value: str, shape: str) -> str:
        if value not in self._made:
            self.generation += 1
            numbers = self._numbers.setdefault(shape, count(1))
            self._made[value] = next(made for made in map(shape.format, numbers) if made not in self._taken)
        return self._made[value]

    def settle(self) -> None:
        """Search every text for what was learned."""
        parts = {form for value in self.values() for form in (value, quote(value, safe=""))}
        words = self._names | {name for name in self._identities if "-" in name and len(name) >= 8}
        self._search = re.compile(rf"{any_of(parts)}|(?<![^\W_]){any_of(words)}(?![^\W_])")
        self._own = re.compile(rf"(?<![\w.-]){any_of(self._identities)}(?![\w-]|\.\w)")

    def substitute(self, text: str, is_own: bool) -> str:
        """Return a text with pseudonyms for known values; ``is_own``: codexpool has written it."""
        text = self._search.sub(self._matched, text)
        return self._own.sub(self._matched, text) if is_own else text

    def is_in(self, text: str) -> bool:
        """Return whether a text has a value that is searched for."""
        return self._search.search(text) is not None

    def _matched(self, match: re.Match[str]) -> str:
        value = match[0]
        return self._made.get(value) or self._made[unquote(value)]

    def values(self) -> list[str]:
        """Return the values that must not be anywhere in the file."""
        return [*filter(is_distinctive, self._made)]

    def count(self) -> int:
        return len(self._made)


def any_of(words: Iterable[str]) -> str:
    """Return a pattern that matches any of the words, the longest that fits; nothing if there are none.

    Words with a common beginning share it in the pattern: an alternation of thousands would be tried one by one.
    """
    wanted = sorted({word for word in words if word})
    return _trie(wanted) if wanted else r"(?!)"


def _trie(words: list[str]) -> str:
    """Return the pattern for sorted words, of which the first may be empty."""
    begun: dict[str, list[str]] = {}
    for word in words:
        if word:
            begun.setdefault(word[0], []).append(word)
    branches = []
    for alike in begun.values():
        prefix = commonprefix(alike)  # noqa: RUF071 letter by letter is what is meant
        rest = _trie([word[len(prefix) :] for word in alike]) if len(alike) > 1 else ""
        branches.append(re.escape(prefix) + rest)
    return f"(?:{'|'.join(branches)}){'' if words[0] else '?'}"
