"""Finds long strings that look random, as secrets do, unlike words, versions, dates and ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

LEAST: Final = 20  # characters from which on a string may be a secret by its looks alone
_LEAST_CORE: Final = 12  # characters of such a string, apart from words, that make it a secret
_LEAST_WHOLE: Final = 16  # the same, with words around them that may be there by chance
_BRIDGED: Final = 6  # A shorter word within random characters is there by chance


_RUN: Final = re.compile(rf"[A-Za-z0-9_+/=.~-]{{{LEAST},}}")

_ID: Final = re.compile(
    r"""
    (?<! [0-9A-Za-z] ) [0-9a-fA-F]{8} - (?: [0-9a-fA-F]{4} - ){3} [0-9a-fA-F]{12} (?! [0-9A-Za-z] )
    | (?<! [0-9A-Za-z_-] ) (?:
        (?: resp | msg | rs | fc | ctc | ig | req ) _ [0-9a-f]{4,64}
      | (?: (?: resp | msg | rs | fc | ctc | ig | req | call | asst | thread | proj ) _
          | (?: user | org | acc | acct | chatcmpl ) - ) [A-Za-z0-9]{4,32}
      | app_EMoamEEZ73f0CkXaXp7hrann                                           # the client id of Codex itself
      ) (?: [_-] \d{1,6} )? (?! [0-9A-Za-z_+/=-] )
    """,
    re.VERBOSE,
)
"""UUIDs, and ids of the backend."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9]+")
_PLAIN_WORD: Final = re.compile(r"[a-z]{1,20}|[A-Z][a-z]{3,19}|\d{1,19}")  # a word, or a number

_WORD: Final = re.compile(
    r"""
      [A-Z][a-z]{0,19} | [A-Z]{1,15}
    | (?: [A-Z]{0,5} [a-z]{3,} | [A-Z][a-z]{2,} ) (?: [A-Z][a-z]{2,14} ){1,5}    # AppleWebKit is one
    | \d{8}T\d{4,6}Z? | \d{1,9}[TZ]\d{0,6}                                     # dates
    | [A-Za-z]{0,2}[a-z]{1,12}\d{1,3} | \d{1,5}[a-zA-Z]{1,2}                    # sha256, 30s
    """,
    re.VERBOSE,
)
"""A word by itself; next to random characters it may be a part of them."""

_CONSONANTS: Final = re.compile(r"[b-df-hj-np-tv-xz]{6}")


def find_opaque(text: str) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each such string."""
    for run in _RUN.finditer(text):
        begin = run.start()
        for identifier in _ID.finditer(text, begin, run.end()):
            yield from _stretches(text, begin, identifier.start())
            begin = identifier.end()
        yield from _stretches(text, begin, run.end())


def _stretches(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    segments = [(match.start(), match.end(), _sort(match[0])) for match in _SEGMENT.finditer(text, begin, end)]
    for first, last in _groups(segments):
        core = [segment for segment in segments[first:last] if segment[2] is None]
        if not core:
            continue
        start, stop = segments[first][0], segments[last - 1][1]
        if core[-1][1] - core[0][0] >= _LEAST_CORE or stop - start >= _LEAST_WHOLE:
            while stop < end and text[stop] in "=+_-":
                stop += 1
            yield start, stop


def _groups(segments: list[tuple[int, int, bool | None]]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each row of segments that are not plain words; short words do not end a row."""
    first, last, words = -1, -1, 0
    for index, (begin, end, is_plain) in enumerate(segments):
        if not is_plain:
            first, last, words = (index if first < 0 else first), index + 1, 0
        elif first >= 0 and (words := words + end - begin) >= _BRIDGED:
            yield first, last
            first, words = -1, 0
    if first >= 0:
        yield first, last


def _sort(segment: str) -> bool | None:
    """Return True for a word or a number, False for what is a word only by itself, None for anything else."""
    is_plain = _PLAIN_WORD.fullmatch(segment) is not None
    if not is_plain and _WORD.fullmatch(segment) is None:
        return None
    if len(segment) >= 8 and segment.isalpha() and not _is_pronounceable(segment.lower()):
        return None
    return is_plain


def _is_pronounceable(letters: str) -> bool:
    return _CONSONANTS.search(letters) is None and any(letter in "aeiouy" for letter in letters)
