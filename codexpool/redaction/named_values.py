"""Finds secrets by the name before them: in headers, JSON, commands and sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from codexpool.redaction.secret_names import is_secret, may_name_secret, names_secret

Span = tuple[int, int, bool]
"""Where a secret begins and ends, and whether it is an email address."""

SCHEMES: Final = frozenset(
    {
        *("bearer", "basic", "digest", "agentassertion", "negotiate", "ntlm", "token", "apikey", "hawk", "dpop"),
        *("mac", "oauth", "ssws", "privatetoken", "api-key"),
    }
)
"""The schemes of an Authorization header, which may be shown."""

_FINGERPRINT: Final = r"sha256:[0-9a-f]{12}"

_CLAIM: Final = (
    r", (?:sub|email|account|user|plan|fedramp|client|iss|iat|nbf|exp) (?:[\w.@:/|? -]|<[^,;\"<>]{1,60}>){1,99}+"
)

DESCRIBED: Final = re.compile(
    rf"<?(?:client's own(?: \(\d{{1,3}}\))?: )?(?:JWT \d{{1,7}} chars {_FINGERPRINT}(?:{_CLAIM}){{1,11}}"
    r"|(?:PAT|JWT|member key|refresh token|(?:API|AWS|private) key|GitHub token|secret|opaque) \d{1,7} chars?"
    rf"(?: {_FINGERPRINT})?)>?|<?{_FINGERPRINT}>?|<email>"
)
"""A description that replaced a secret, with nothing after it that a client could have added."""

_PLACEHOLDER: Final = re.compile(r"<codexpool:[A-Za-z0-9._-]{1,64}>")
_REMOVED: Final = "<codexpool:removed>"


def is_redacted(name: str, value: str) -> bool:
    """Return whether a value is already redacted.

    A placeholder counts in ``authorization`` only, where the pool puts it: in other headers it may be the client's.
    """
    if DESCRIBED.fullmatch(value) is not None or value == _REMOVED:
        return True
    return name.lower() == "authorization" and _PLACEHOLDER.fullmatch(value) is not None


_QUOTED: Final = r"\"(?:[^\"\\]|\\.)*+(?:\"|\Z)|'(?:[^'\\\n]|\\.)*+(?:'|\Z)"

_NAME: Final = re.compile(
    r"(?:[\"'](?P<quoted>[^\"'\\\r\n:=]{1,128}+)[\"']|(?<![\w.@-])(?P<bare>[\w.@-]++(?:\[[\w.@-]{0,64}+\]){0,4}+))"
    r"\s*+(?::=?|=>?)\s{0,64}+"
)
_VALUE: Final = re.compile(rf"{_QUOTED}|<[^<>\r\n]{{1,256}}+>|(?:[^\s\"'&;<>{{}}\[\]]|'(?=\w))++", re.DOTALL)
_BRACKET: Final = re.compile(rf"{_QUOTED}|[\[\]{{}}]", re.DOTALL)
_LONGEST: Final = 512  # characters of a value that are searched if its name alone does not make it a secret
_PASSWORD: Final = re.compile(r"(?i)passw|passphrase|passcode|pwd|pass\Z|pw\Z")
_PHRASE: Final = re.compile(r"(?:[ \t]++(?![\w.@-]++\s*+[:=])[^\s\"'&;<>{}\[\]]++)++")
"""Further words of a password, up to the name of the next value."""

_SENTENCE: Final = re.compile(r"[A-Za-z][a-z]*+(?: [a-z]++){2}")
"""Not a token: "Invalid token: the token has expired"."""

_FIRST: Final = re.compile(r"([A-Za-z-]{3,16})(?:[\s+]+|\Z)")
_NEXT: Final = re.compile(r"[ \t+]*+(?P<value>[^\s\"'&;<>{}\[\],)]++)")
PROSE: Final = re.compile(r"[a-z]+[.,]?")

_LINE: Final = re.compile(
    r"(?i)(?<![\w-])(?P<key>(?:proxy-|x-[\w-]{1,40}-)?authorization|(?:set-)?cookie)[\"']?\s{0,8}[:=]\s{0,8}"
    r"(?P<value>[^\s\"'<>][^\r\n]*)"
)

_OF_NAME: Final = r"\"(?:name|key)\"\s*+:\s*+\"(?P<key>[^\"\\]{1,64}+)\""
_OF_VALUE: Final = rf"\"value\"\s*+:\s*+(?P<value>{_QUOTED})"
_MEMBER: Final = re.compile(rf"(?i){_OF_NAME}\s*+,[^{{}}]{{0,120}}?{_OF_VALUE}", re.DOTALL)
_MEMBER_TURNED: Final = re.compile(rf"(?i){_OF_VALUE}\s*+,[^{{}}]{{0,120}}?{_OF_NAME}", re.DOTALL)

_TUPLE: Final = re.compile(
    rf"[\[(]\s*+b?[\"'](?P<key>[\w-]{{1,64}}+)[\"']\s*+,\s*+b?(?P<value>{_QUOTED})(?=\s*+[\])])", re.DOTALL
)

_PART: Final = re.compile(
    r"(?i)form-data;\s{0,4}name=\"(?P<key>[^\"\r\n]{1,64})\"[^\r\n]{0,256}+(?:\r?\n[^\r\n]{1,512}+){0,8}+\r?\n\r?\n"
    r"(?P<value>.*?)(?=\r?\n--|\Z)",
    re.DOTALL,
)

_ELEMENT: Final = re.compile(
    r"<(?P<key>[A-Za-z][\w.:-]{0,63}+)(?:\s++[\w:.-]++\s*+=[^<>]*+)?>(?P<value>[^<]++)(?=</)"
)

_OPTION: Final = re.compile(
    rf"(?<![\w-])--?(?P<key>[A-Za-z][\w-]{{1,63}}+)[ \t]{{1,64}}+(?P<value>{_QUOTED}|[^\s\"'-][^\s\"']*+)", re.DOTALL
)

_USER: Final = re.compile(r"(?<!\S)(?:-u|-U|--user|--proxy-user)[ \t=]{1,8}[\"']?([^\s:\"']{1,128}+:[^\s\"']++)")

_IN_SENTENCE: Final = re.compile(
    r"(?i)(?<![\w-])(?:pass(?:word|phrase|code)|token|secret|credential|(?:api|access|secret|private)[ _-]?key)s?"
    rf"(?P<is>\s(?:is|was|provided|given))?:?\s{{1,4}}b?(?P<value>{_QUOTED}|[^\s\"'<>(),;]++)",
    re.DOTALL,
)
_MIXED: Final = re.compile(r"(?=[^\s\d]*\d)[A-Za-z]\S{5,}")
_WORDED: Final = re.compile(r"[A-Z]?[a-z_. -]*|.{0,3}")
_OF_HEADER: Final = re.compile(rf"(?i)header value:?\s{{1,4}}b?(?P<value>{_QUOTED})", re.DOTALL)
_MAIL: Final = re.compile(r"(?i)e?-?mail")


def find_named(text: str) -> Iterator[Span]:
    """Yield the secrets of a text that follow a telling name; they may overlap."""
    yield from _pairs(text)
    for match in _LINE.finditer(text):
        yield from _of_line(match["key"], text, *match.span("value"))
    for pattern in (_MEMBER, _MEMBER_TURNED, _TUPLE, _PART, _ELEMENT, _OPTION):
        for match in pattern.finditer(text):
            yield from _of_name(match["key"], text, *match.span("value"))
    for match in _USER.finditer(text):
        yield *match.span(1), False
    for match in _IN_SENTENCE.finditer(text):
        yield from _in_sentence(text, match)
    for match in _OF_HEADER.finditer(text):
        yield *_unquoted(text, *match.span("value")), False


def _pairs(text: str) -> Iterator[Span]:
    """Yield the values of ``key=value``, ``key: value`` and ``"key": "value"`` with a telling key."""
    at = 0
    while (name := _NAME.search(text, at)) is not None:
        at, key = name.end(), name["quoted"] or name["bare"]
        if text[at : at + 1] in ("[", "{"):
            if names_secret(key):
                begin, at = at, _end_of_structure(text, at)
                if any(character.isalnum() for character in text[begin:at]):
                    yield begin, at, False
        elif may_name_secret(key) or _MAIL.search(key):
            value = _VALUE.match(text, at, len(text) if names_secret(key) else at + _LONGEST)
            if value is None:
                continue
            end = value.end()
            if ":" in name[0] and text[at] not in "\"'<":
                if _PASSWORD.search(key) and (phrase := _PHRASE.match(text, end)) is not None:
                    end = phrase.end()
                elif key.lower().endswith("token") and _SENTENCE.match(text, at):
                    continue
            for span in _of_name(key, text, at, end):
                at = span[1]
                yield span


def _end_of_structure(text: str, begin: int) -> int:
    """Return where the object or list that begins there ends, or the end of the text."""
    depth = 0
    for match in _BRACKET.finditer(text, begin):
        if match[0] in ("[", "{"):
            depth += 1
        elif match[0] in ("]", "}"):
            depth -= 1
            if depth == 0:
                return match.end()
    return len(text)


def _of_name(key: str, text: str, begin: int, end: int) -> Iterator[Span]:
    """Yield the value of a key if it is a secret, without its quotes and a scheme."""
    if text[begin] in "\"'":
        begin, end = _unquoted(text, begin, end)
    else:
        end = begin + len(text[begin:end].rstrip(",)"))
    scheme = _FIRST.match(text, begin, end)
    if scheme is not None and scheme[1].lower() in SCHEMES:
        begin = scheme.end()
        if begin == end:
            following = _NEXT.match(text, begin)
            if following is None or PROSE.fullmatch(following["value"]):
                return
            begin, end = following.span("value")
    value = text[begin:end]
    if not is_redacted(key, value):
        is_email = _MAIL.search(key) is not None and "@" in value
        if is_email or is_secret(key, value):
            yield begin, end, is_email


def _of_line(key: str, text: str, begin: int, end: int) -> Iterator[Span]:
    """Yield the rest of a header line with a credential, after the scheme."""
    scheme = _FIRST.match(text, begin, end)
    if scheme is not None and scheme[1].lower() in SCHEMES:
        begin = scheme.end()
    end = begin + len(text[begin:end].rstrip("\"'])},;. \t"))
    if not is_redacted(key, text[begin:end]):
        yield begin, end, False


def _in_sentence(text: str, match: re.Match[str]) -> Iterator[Span]:
    """Yield a password in a sentence. Words are not one: "the password is wrong"."""
    begin, end = match.span("value")
    if text[begin] in "\"'":
        begin, end = _unquoted(text, begin, end)
        looks_secret = _WORDED.fullmatch(text, begin, end) is None
    else:
        end = begin + len(text[begin:end].rstrip(".:!?"))
        value = text[begin:end]
        is_number = value.isdigit() and len(value) < 6
        has_digit = any(character.isdigit() for character in value)
        looks_secret = (has_digit and not is_number) if match["is"] else _MIXED.fullmatch(value) is not None
    if looks_secret and not is_redacted("", text[begin:end]):
        yield begin, end, False


def _unquoted(text: str, begin: int, end: int) -> tuple[int, int]:
    begin += 1
    return begin, end - (end > begin and text[end - 1] == text[begin - 1])
