"""Finds secrets in any text: by their looks, by the name before them, and through percent-encoding and escapes.

The text is searched as it is, then decoded once, twice and more: a secret, or a part of it, may be encoded. What is
found in a decoded view is located in the original text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from codexpool.redaction.named_values import PROSE, Span, find_named

DEPTH: Final = 5  # layers of encoding that are undone

_ESCAPE: Final = re.compile(
    r"""%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[bfnrtv"'/\\]|&(?:amp|quot|apos|\#\d{1,6}|\#[xX][0-9A-Fa-f]{1,5});"""
    r"|(?P<unseen>\x1b\[[0-9;]{0,16}[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f])"
)
_CONTROLS: Final = {f"\\{letter}": control for letter, control in zip("bfnrtv", "\b\f\n\r\t\v", strict=True)}
_ESCAPED: Final = _CONTROLS | {"&amp;": "&", "&quot;": '"', "&apos;": "'"}


class Found(NamedTuple):
    """A secret in a text: where it is, and its decoded text; ``is_email``: an email address."""

    begin: int
    end: int
    text: str
    is_email: bool


_TOKEN: Final = re.compile(
    r"""
    (?<! [A-Za-z0-9] ) (?:
        (?i: at- | rt_ ) [\w.~+/=-]{8,}
      | (?i: sk- | sess- ) [\w-]{8,}
      | (?: gh[pousr]_ | github_pat_ | glpat- | npm_ | hf_ | xox[a-z]- ) [\w-]{8,}
      | M\w{3}AQ[AE]wBQYDK2Vw [\w+/=]{8,}                         # an Ed25519 key in PKCS#8
      | (?: AKIA | ASIA | AIza | ya29\. ) [\w.-]{12,}
    )
    | (?<! [A-Za-z] ) (?: at- | eyJ | rt_ ) [\w.~+/=-]{8,}
    """,
    re.VERBOSE,
)

_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL
)

_USERINFO: Final = re.compile(r"(?<=//)[^/?#\s\"<>]+(?=@)")

_SCHEME: Final = re.compile(
    r"(?i)(?<![a-z])(?:(?:bearer|basic|agentassertion|negotiate|ntlm)[\s+]+([\w.~+/=-]{4,})"
    r"|digest[\s+]+(username=[^\r\n]+))"
)
_SHORT: Final = re.compile(r"\d{4,}|[A-Za-z]+|[A-Za-z.]+,?")
"""Words after the name of a scheme in sentences: "bearer token", "Basic auth"."""

_EMAIL: Final = re.compile(
    r"[^\s@<>\",;:()\[\]=&?/\\]{1,64}+@(?:\w(?:[\w-]{0,62}\w)?\.){1,9}(?:xn--[\w-]{1,59}|[^\W\d_]{2,24})(?![\w-])"
)


def find_secrets(text: str) -> list[Found]:
    """Return the secrets of a text, in order; none overlaps another."""
    spans: list[Span] = []
    view, places = text, None
    for _ in range(DEPTH + 1):
        for begin, end, is_email in _in_view(view):
            if begin < end:
                spans.append((begin, end, is_email) if places is None else (places[begin], places[end], is_email))
        made = decode_once(view, places)
        if made is None:
            break
        view, places = made
    return [Found(begin, end, decode(text[begin:end]), is_email) for begin, end, is_email in _merged(spans)]


def _in_view(text: str) -> Iterator[Span]:
    """Yield begin and end of each secret in an undecoded text, and whether it is an email address."""
    for match in _TOKEN.finditer(text):
        yield match.start(), match.end() - len(match[0]) + len(match[0].rstrip(".")), False
    for match in _SCHEME.finditer(text):
        group = match.lastindex or 0
        if not _is_word(match[group]):
            yield *match.span(group), False
    if "-----BEGIN" in text:
        yield from ((*match.span(), False) for match in _PEM.finditer(text))
    if "@" in text:
        yield from _with_at(text)
    yield from find_named(text)
    yield from ((*span, False) for span in find_opaque(text))


def _is_word(text: str) -> bool:
    if len(text) < 8:
        return _SHORT.fullmatch(text) is not None
    return len(text) < 16 and PROSE.fullmatch(text) is not None


def _with_at(text: str) -> Iterator[Span]:
    yield from ((*match.span(), False) for match in _USERINFO.finditer(text))
    elsewhere = _USERINFO.sub(lambda match: " " * len(match[0]), text)
    yield from ((*match.span(), True) for match in _EMAIL.finditer(elsewhere))


def _merged(spans: list[Span]) -> list[Span]:
    """Merge overlapping spans into one secret each."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        begin, end, is_email = merged[-1] if merged else (0, 0, False)
        if span[0] >= end:
            merged.append(span)
        elif span[1] > end:
            merged[-1] = (begin, span[1], False)
        elif span[:2] == (begin, end):
            merged[-1] = (begin, end, is_email and span[2])
    return merged


# -- encodings


def decode(text: str) -> str:
    """Return a text with all of its encodings undone."""
    for _ in range(DEPTH):
        text = _ESCAPE.sub(_character, text)
    return text


def decode_once(view: str, places: list[int] | None) -> tuple[str, list[int]] | None:
    """Undo one layer of encoding; None if there is none.

    ``places`` are where each character of the view begins in the original text; None if the view is that text. Both
    are returned for the decoded view.
    """
    if "%" not in view and "\\" not in view and "&" not in view and view.isprintable():
        return None
    pieces: list[str] = []
    made: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(view):
        character = _character(match)
        pieces += (view[at : match.start()], character)
        made += range(at, match.start() + len(character))
        at = match.end()
    if not at:
        return None
    pieces.append(view[at:])
    made += range(at, len(view) + 1)
    return "".join(pieces), made if places is None else [places[i] for i in made]


def _character(match: re.Match[str]) -> str:
    """Return what an escape stands for: one character, or nothing."""
    escape = match[0]
    if match["unseen"]:
        return ""
    if escape in _ESCAPED:
        return _ESCAPED[escape]
    if escape[0] == "&":
        digits = escape[2:-1]
        return chr(int(digits[1:], 16) if digits[0] in "xX" else int(digits))
    digits = escape[1:] if escape[0] == "%" else escape[2:]
    return chr(int(digits, 16)) if digits else escape[1:]


# -- long strings that look random, unlike words, versions, dates and ids

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
