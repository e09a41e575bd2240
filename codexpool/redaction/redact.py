"""Redacts values for display: in tables, on the page, in events and comparisons."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from codexpool.redaction.describe import describe_secret, fingerprint_of, replace_secrets
from codexpool.redaction.known_headers import Value, known_header
from codexpool.redaction.named_values import SCHEMES, is_redacted
from codexpool.redaction.secret_names import is_secret, names_secret

LONGEST: Final = 300  # characters of a header's value that are shown
LONGEST_JSON: Final = 1200  # the same for JSON: a client puts much about a turn into one header
LONGEST_TEXT: Final = 4000  # characters of a text that are shown
REMEMBERED: Final = 256  # characters up to which a redacted text is cached
LONGEST_READ: Final = 8192  # characters of a value that are searched; the rest is left out

_ID: Final = re.compile(
    r"(?:W/)?\"?(?:(?:req|resp|msg|call|chatcmpl|trace|span)[_-])?[0-9A-Fa-f-]{1,40}(?:-[A-Z]{3})?\"?|00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
)
"""Ids of requests and answers."""

_FLAG: Final = re.compile(r"[A-Za-z]{1,12}|\d{1,10}")
_CREDENTIALS: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]*)(\s+)(\S.*)", re.DOTALL)
_WORDS: Final = re.compile(r"[A-Za-z]+|.*\s.*", re.DOTALL)


DEEPEST: Final = 60  # levels that are searched; what is below counts as one value
_NAMES: Final = frozenset({"name", "key", "header", "field", "parameter"})
_VALUES: Final = frozenset({"value", "values", "val"})  # members with a name and its value, as HAR files have headers


class Place(NamedTuple):
    """Where in a document a value is: its name, and its depth. ``secret`` is the telling name at or above it."""

    name: str = ""
    secret: str = ""
    depth: int = 0

    def member(self, key: str, *objects: dict[str, Any]) -> Place:
        """Return the place of a member of the object here, which may be several ``objects`` that are compared."""
        name = _called(objects) if key.lower() in _VALUES else ""
        below = next((one for one in (self.secret, key, name) if names_secret(one)), "")
        return Place(name or key, below, self.depth + 1)

    def item(self, index: int, *lists: list[Any]) -> Place:
        """Return the place of an item of the list here: it may be the value of the name before it."""
        below = self.secret or next(filter(None, (self._before(index, one) for one in lists)), "")
        return Place(self.name, below, self.depth + 1)

    def _before(self, index: int, items: list[Any]) -> str:
        before = items[index - 1] if 0 < index < len(items) else None
        if not isinstance(before, str) or not names_secret(before):
            return ""
        is_paired = index % 2 and ((len(items) == 2 and self.name != "required") or "header" in self.name.lower())
        return before if is_paired or before.startswith("--") else ""


TOP: Final = Place()


def redact_header(name: str, value: str, *, full: bool = False) -> str:
    """Redact the value of a header, or of a named JSON member; shorten a long one unless ``full``."""
    lower = name.lower()
    is_short = len(name) + len(value) <= LONGEST_READ
    made = _shown(lower, value) if is_short else _shown.__wrapped__(lower, value, full)
    longest = LONGEST_JSON if value.lstrip().startswith("{") else LONGEST
    return made if full else _shortened(made, longest)


def redact_text(text: str, *, full: bool = False) -> str:
    """Redact a text: a URL, an error, a session key, a body; shorten a long one unless ``full``."""
    if full:
        return _text(text, full)
    return _remembered(text) if len(text) <= REMEMBERED else _shortened(_text(text), LONGEST_TEXT)


@lru_cache(maxsize=4096)
def _remembered(text: str) -> str:
    """Cache: paths, session keys and reasons repeat, and searching one is slow."""
    return _text(text)


def escape(text: str) -> str:
    """Return a text on one line, with control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@lru_cache(maxsize=512)
def _shown(name: str, value: str, full: bool = False) -> str:
    if not value or is_redacted(name, value):
        return _text(value, full)
    match name:
        case "cookie":
            return _crumbs(value)
        case "set-cookie":
            cookie, semicolon, _ = value.partition(";")
            return _crumb(cookie.strip()) + ("; …" if semicolon else "")
        case "x-error-json":
            return _of_error(value)
    if name.endswith("authorization"):
        return _credentials(name, value)
    explained = known_header(name)
    match explained.value if explained is not None else None:
        case Value.PLAIN:
            return _text(value, full)
        case Value.ID:
            return value if _ID.fullmatch(value) is not None else _text(value, full)
        case Value.OPAQUE:
            return describe_secret(value, "opaque")
        case Value.CREDENTIAL:
            return _credentials(name, value)
    if name.startswith("x-openai-internal-") and _FLAG.fullmatch(value) is None:
        return describe_secret(value, "opaque")
    if is_secret(name, value.strip()) or _has_scheme(value):
        return _credentials(name, value)
    return _text(value, full)


def _has_scheme(value: str) -> bool:
    match = _CREDENTIALS.fullmatch(value)
    return match is not None and match[1].lower() in SCHEMES and _WORDS.fullmatch(match[3]) is None


def _credentials(name: str, value: str) -> str:
    match = _CREDENTIALS.fullmatch(value)
    if match is None or match[1].lower() not in SCHEMES:
        return _secret(value, name)
    return f"{match[1]} {_secret(match[3], name)}"


def _secret(value: str, name: str = "") -> str:
    """Describe a secret, unless it is already redacted."""
    return _text(value) if is_redacted(name, value) else describe_secret(value)


def _crumbs(value: str) -> str:
    """Redact cookies; their names stay."""
    read = value if len(value) <= LONGEST_READ else value[:LONGEST_READ].rpartition(";")[0]
    made = "; ".join(_crumb(crumb.strip()) for crumb in read.split(";"))
    return made if read == value else f"{made}… ({len(value)} chars)"


def _crumb(crumb: str) -> str:
    name, equals, value = crumb.partition("=")
    if not equals:
        return _secret(crumb) if crumb else ""
    return f"{_text(name)}={_secret(value) if value else ''}"


def _of_error(value: str) -> str:
    """Redact the backend's error in a header: JSON in base64."""
    try:
        inner = json.dumps(json.loads(base64.b64decode(value, validate=True)))
    except (binascii.Error, ValueError, RecursionError):
        return _text(value)
    return f"base64 of {_text(inner)}"


def _text(text: str, full: bool = False) -> str:
    if full or len(text) <= LONGEST_READ:
        document = parse_json(text)
        return replace_secrets(text, escape) if document is None else _document(text, document, full)
    # The last word may be half a secret, and not look like one any more.
    read = text[:LONGEST_READ].rstrip("".join(set(text[LONGEST_READ - 512 : LONGEST_READ]) - set(" ,;&\"'\n")))
    return f"{replace_secrets(read, escape)}… ({len(text)} chars)"


def _document(text: str, document: Any, full: bool) -> str:
    made = redact_json(document, TOP, lambda name, value: _member(name, value, full))
    if made == document:
        return escape(text)
    separators = (", ", ": ") if '": ' in text or '", ' in text else (",", ":")
    return json.dumps(made, ensure_ascii=False, separators=separators)


def _member(name: str, value: str, full: bool) -> str:
    """Redact a text in a document; JSON escapes control characters itself."""
    made = _shown(name.lower(), value, full) if name else _text(value, full)
    return value if made == escape(value) and value.translate(_BLANKS).isprintable() else made


_BLANKS: Final = {ord(blank): " " for blank in "\t\r\n"}


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[: longest - 40]}… ({len(text)} chars, sha256:{fingerprint_of(text)})"


# -- JSON documents


def _called(objects: tuple[dict[str, Any], ...]) -> str:
    """Return the name that objects have as a member, preferably a telling one."""
    names = [value for one in objects for key, value in one.items() if key.lower() in _NAMES]
    texts = [name for name in names if isinstance(name, str)]
    return next(filter(names_secret, texts), texts[0] if texts else "")


def parse_json(text: str) -> Any:
    """Return the object or list that a text is; None for anything else, and for repeated members."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("two members of one name")
    return made


def redact_json(value: Any, place: Place, shown: Callable[[str, str], str]) -> Any:
    """Return a JSON value without secrets; ``shown`` redacts a text by its name."""
    match value:
        case dict() | list() if place.depth >= DEEPEST:
            return "(more levels than are looked into)"
        case dict():
            return {shown("", key): redact_json(item, place.member(key, value), shown) for key, item in value.items()}
        case list():
            return [redact_json(item, place.item(index, value), shown) for index, item in enumerate(value)]
        case str():
            return describe_secret(value) if _is_secret(place, value) else shown(place.name, value)
        case int() | float() if not isinstance(value, bool) and _is_secret(place, str(value)):
            return describe_secret(str(value))
        case _:
            return value


def _is_secret(place: Place, value: str) -> bool:
    name = place.secret or place.name
    return is_secret(name, value) and not is_redacted(name, value)
