"""Puts stand-ins into what has names: headers, cookies, addresses, forms and JSON. The name tells what a value is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from codexpool.recording import shapes, tokens
from codexpool.recording.kinds import Kind, folded, kind_of, names_people
from codexpool.recording.pieces import gathered
from codexpool.recording.prose import BY_NAME, Prose
from codexpool.recording.standins import StandIns
from codexpool.redaction.find import DESCRIBED, SCHEMES

KEPT_HEADERS: Final = frozenset({"sec-websocket-key", "sec-websocket-accept", "sec-websocket-version", "host"})
"""Headers that are made up for one handshake, or say where a request goes."""

_SCHEME: Final = re.compile(r"([A-Za-z][\w-]{0,31})(\s+)(\S.*)", re.DOTALL)
_SCHEMES: Final = SCHEMES | {"aws4-hmac-sha256", "oauth", "signature", "privatetoken", "scram-sha-256", "key"}
_TITLES: Final = frozenset({"name", "title", "display_name"})
_LISTS: Final = frozenset({"headers", "request_headers", "response_headers", "trailers"})
_LABEL: Final = re.compile(r"(?:Bearer )?<codexpool:[\w.-]{1,64}>")
"""What codexpool has put into a flow in the place of a credential, or of an account's id."""

_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]{3,45}")
_OWNER_ID: Final = re.compile(r"(?=[^/]*\d)(?!v\d+$)[\w.@+-]{4,}")


class Fields:
    """Goes through structures, and through texts that turn out to be some."""

    def __init__(self, standins: StandIns) -> None:
        self.standins = standins
        self.prose = Prose(standins)
        self.prose.inner = self.text
        self.prose.claim = self._claim
        standins.made = self._made

    # -- values with a name

    def header(self, name: str, value: str) -> str:
        """The value of a header."""
        match name.lower():
            case "cookie":
                return ";".join(self._crumb(crumb) for crumb in value.split(";"))
            case "set-cookie":
                first, *attributes = value.split(";")
                return ";".join([self._crumb(first), *(self.prose.plain(part) for part in attributes)])
            case lower if lower in KEPT_HEADERS:
                return self.prose.literally(value)
            case "location" | "referer" | "content-location" | "link":
                return self.address(value)
            case _:
                return self.named(name, value)

    def named(self, name: str, value: str, within: str = "") -> str:
        """The value of a field, a parameter or a header; ``within`` is the name of what the field is in."""
        kind = kind_of(name, value, within)
        if kind is None or not value:
            return self.text(value)
        is_label = _LABEL.fullmatch(value) is not None
        if is_label or shapes.is_standin(value) or (self.prose.is_own and _is_described(value)):
            return self.prose.plain(value)
        if kind is Kind.CREDENTIAL:
            return self._credential(value)
        if kind is Kind.ADDRESS:
            return _ADDRESS.sub(lambda match: self._if_address(match[0]), value)
        if kind is Kind.FOLDER:
            return self.folder(value)
        if (kind is Kind.EMAIL and "@" not in value) or (kind in BY_NAME and self.prose.is_covered(value)):
            return self.text(value)
        return self.standins.of(kind, value)

    def folder(self, path: str) -> str:
        """A path that may say what somebody works on."""
        self.prose.plain(path)  # so that whose home it is in is known elsewhere, too
        return self.standins.of(Kind.FOLDER, path) if len(path) > 4 and ("/" in path or "\\" in path) else path

    def _credential(self, value: str) -> str:
        match = _SCHEME.fullmatch(value)
        scheme, secret = ("", value)
        if match is not None and match[1].lower() in _SCHEMES:
            scheme, secret = match[1] + match[2], match[3]
        if shapes.is_standin(secret) or tokens.JWT.fullmatch(secret):
            return scheme + self.prose.plain(secret)
        return scheme + self.standins.of(Kind.CREDENTIAL, secret)

    def _crumb(self, crumb: str) -> str:
        name, equals, value = crumb.partition("=")
        bare = value.strip().strip('"')
        if not equals:
            bare, name = crumb.strip(), ""
        if not bare:
            return crumb
        if shapes.is_standin(bare) or tokens.JWT.fullmatch(bare) or (self.prose.is_own and _is_described(bare)):
            return crumb.replace(bare, self.prose.plain(bare))
        plain = unquote(bare)
        kind = Kind.CREDENTIAL if shapes.PREFIX.match(plain) else Kind.COOKIE
        return f"{name}{equals}{crumb[len(name) + len(equals) :].replace(bare, self.standins.of(kind, plain, bare))}"

    def _if_address(self, text: str) -> str:
        return self.prose.address(text) if text.count(".") == 3 or text.count(":") >= 2 else text

    # -- addresses

    def address(self, url: str) -> str:
        """A URL, whole or from its path on."""
        whole, hash_, fragment = url.partition("#")
        rest, mark, query = whole.partition("?")
        scheme, slashes, rest = rest.rpartition("://")
        user, at, rest = rest.rpartition("@") if slashes else ("", "", rest)
        if at:
            user = self.standins.of(Kind.CREDENTIAL, unquote(user), user)
        segments = rest.split("/")
        made = [self._segment(before, segment) for before, segment in zip(["", *segments], segments, strict=False)]
        text = f"{scheme}{slashes}{user}{at}{'/'.join(made)}{mark}{self.query(query)}"
        return self.prose.plain(text) + hash_ + (self.query(fragment) if "=" in fragment else self.text(fragment))

    def query(self, query: str) -> str:
        """Parameters of a URL, or a form."""
        return "&".join(self._parameter(part) for part in query.split("&"))

    def _parameter(self, part: str) -> str:
        name, equals, value = part.partition("=")
        if not equals:
            return self.prose.plain(part)
        plain = unquote_plus(value)
        made = self.named(unquote_plus(name), plain)
        return part if made == plain else f"{name}={quote_plus(made, safe='/:@')}"

    def _segment(self, before: str, segment: str) -> str:
        plain = unquote(segment)
        if _OWNER_ID.fullmatch(plain) and kind_of("id", plain, before) is not None:
            made = self.named("id", plain, before)
        else:
            made = self.prose.plain(plain)
        return segment if made == plain else quote(made, safe="@:<>")

    # -- texts that may be JSON, events, or anything

    def text(self, text: str, depth: int = 0) -> str:
        """Any text: of a body, a message, a field."""
        start = text.lstrip("\ufeff \t\r\n")[:1]
        if start in ("{", "[") and depth <= 8:
            try:
                document = json.loads(text.removeprefix("\ufeff"))
            except (ValueError, RecursionError):
                pass
            else:
                made = self.document(document, depth=depth)
                return text if made == document else _like(text, made)
        if "\n" in text and ("data:" in text or start in ("{", "[")):
            return self._lines(text)
        return self.prose.plain(text, depth)

    def document(self, node: Any, name: str = "", within: str = "", depth: int = 0) -> Any:
        """A document of JSON: objects, arrays and what is in them."""
        match node:
            case dict() | list() if _opens(name):
                return self._sealed(node)
            case dict():
                return self._object(node, name, depth)
            case [str(key), str(value)] if folded(name) in _LISTS or folded(within) in _LISTS:
                return [self.prose.plain(key), self.header(key, value)]
            case list() | tuple():
                return [self.document(item, name, within or name, depth) for item in node]
            case str():
                return self.named(name, node, within) if name else self.text(node, depth + 1)
            case int() if not isinstance(node, bool):
                return self._number(node, name)
            case float() if kind_of(name, str(node)) is Kind.CREDENTIAL:
                return 0.0
            case _:
                return node

    def _sealed(self, node: Any) -> Any:
        """What is under a name that speaks of a secret: all of it is one, whatever it is called in there."""
        match node:
            case dict():
                return {self.prose.plain(str(key)): self._sealed(value) for key, value in node.items()}
            case list() | tuple():
                return [self._sealed(item) for item in node]
            case str() if node and not shapes.is_standin(node) and _LABEL.fullmatch(node) is None:
                return self._credential(node)
            case bool() | str() | None:
                return node
            case _:
                return 0

    def _object(self, node: dict[Any, Any], name: str, depth: int) -> dict[Any, Any]:
        fields = frozenset(key for key in node if isinstance(key, str))
        for field in ("name", "key"):
            if isinstance(named := node.get(field), str) and "value" in node:
                rest = {key: value for key, value in node.items() if key not in (field, "value")}
                value = self._valued(named, node["value"], depth)
                return {field: self.prose.plain(named), "value": value, **self._object(rest, name, depth)}
        made = {}
        for key, value in node.items():
            field = str(key)
            shown = self.folder(field) if name == "workspaces" and "/" in field else self.prose.plain(field)
            if isinstance(value, str):
                made[shown] = self._field(field, value, name, fields)
            else:
                inner = name if kind_of(name, "-") is Kind.PLACE else field
                made[shown] = self.document(value, inner, name, depth)
        return made

    def _valued(self, name: str, value: Any, depth: int) -> Any:
        """The value of a header, or an attribute, that is written as an object with its name and its value."""
        if isinstance(value, str):
            return self.header(name, value)
        if isinstance(value, dict):  # {"stringValue": …}
            return {key: self.document(inner, name, "", depth) for key, inner in value.items()}
        return self.document(value, name, "", depth)

    def _field(self, field: str, value: str, within: str, fields: frozenset[str]) -> str:
        plain = folded(field)
        if self.prose.is_own and (plain == "identity" or (plain == "name" and within == "candidates")):
            return value if shapes.is_standin(value) else self.standins.of(Kind.IDENTITY, value)
        if plain in _TITLES and names_people(fields) and value:
            return value if shapes.is_standin(value) else self.standins.of(Kind.NAME, value)
        if plain in ("cookie", "set_cookie"):
            return self.header(plain.replace("_", "-"), value)
        if kind_of(within, "-") is Kind.PLACE:
            return self.named(within, value)
        return self.named(field, value, within)

    def _number(self, number: int, name: str) -> int:
        text = str(number)
        if shapes.is_standin(text):
            self.standins.leave(text)
            return number
        if number > 9999 and kind_of(name, text) in (Kind.ACCOUNT, Kind.USER, Kind.DEVICE):
            return int(self.standins.of(Kind.USER, text))
        if kind_of(name, text) is Kind.CREDENTIAL:
            return 0
        made = self.prose.literally(text) if number > 99_999 else text
        return int(made) if made.isdigit() else number

    def _lines(self, text: str) -> str:
        """Lines each of which may be JSON: events of a stream."""
        lines = text.split("\n")
        prefixes = [_PREFIX.match(line) for line in lines]
        inner = [line[match.end() :] if match else line for line, match in zip(lines, prefixes, strict=True)]
        made = self.events(inner)
        return "\n".join((match[0] if match else "") + line for line, match in zip(made, prefixes, strict=True))

    def events(self, texts: Sequence[str]) -> list[str]:
        """Messages that come one after the other. What a model says in pieces is looked at as a whole."""
        return gathered(texts, self.text, lambda text: self.text(text, 1))

    # -- tokens with more inside

    def _made(self, value: str, number: int) -> str | None:
        payload = tokens.payload_of(value) if value.startswith("eyJ") else None
        if payload is not None or tokens.JWT.fullmatch(value):
            return tokens.jwt(payload or {}, number, self._claim)
        if (pair := tokens.of_basic(value)) is not None:
            for kind, part in zip((Kind.USER, Kind.CREDENTIAL), pair, strict=True):
                self.standins.of(kind, part)
            return shapes.basic(number)
        return None

    def _claim(self, name: str, value: Any, within: str) -> Any:
        if not isinstance(value, str):
            return self._number(value, name) if isinstance(value, int) and not isinstance(value, bool) else value
        if not value or shapes.is_standin(value):
            return self.prose.plain(value)
        if name in _TITLES:
            return self.standins.of(Kind.NAME, value)
        if kind_of(name, value, within) is None and name not in tokens.KEPT:
            return value if self.prose.is_covered(value) else self.standins.of(Kind.ID, value)
        return self.named(name, value, within)


_PREFIX: Final = re.compile(r"\s*data:\s?")


def _is_described(value: str) -> bool:
    """Whether something has been put in the place of a secret already, as codexpool does it in its own texts."""
    return DESCRIBED.search(value) is not None


def _opens(name: str) -> bool:
    """Whether a structure of that name is a secret as a whole. (``tokens`` may be counts, too.)"""
    return bool(name) and kind_of(name, "s3cret-Of-Somebody") is Kind.CREDENTIAL


def _like(text: str, document: Any) -> str:
    """A document as text, written as the text was."""
    lean = text.lstrip()
    indent = 2 if re.match(r"[{\[]\r?\n", lean) else None
    separators = None if indent or '": ' in lean[:4096] or '", ' in lean[:4096] else (",", ":")
    return json.dumps(document, ensure_ascii=text.isascii(), separators=separators, indent=indent)
