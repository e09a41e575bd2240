"""The last look at a recording before it is written: is anything private left in it?

It reads the bytes of the file. What it looks for are the pool's secrets, what it reads from the original flows, and
every value that was replaced. Apart from those, nothing may look like a credential or an email address.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_plus

from mitmproxy import http
from mitmproxy.io import tnetstring

from codexpool.recording.pseudonyms import PSEUDONYM, UUID, any_of, is_pseudonym
from codexpool.redaction import is_redacted, redact_tokens

SHORTEST: Final = 5  # characters from which on a secret is searched for: a shorter one is part of many words
_PSEUDONYM: Final = re.compile(rf"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt]))(?:{PSEUDONYM.pattern})(?![A-Za-z0-9])")
_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,9}[A-Za-z]{2,24}")
_JSON_IN_BASE64: Final = re.compile(r"eyJ[\w+/-]{8,}={0,2}(?![\w.+/-])")
_PARTS: Final = {
    **{part: part for part in ("request", "response", "error", "websocket", "comment")},
    "metadata": "trace",
    "_codexpool": "trace",
}
"""What an error calls the parts of a flow in a file. It quotes nothing else of a flow."""
_DEPTH: Final = 3  # encodings within one another that are undone

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{8,}")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){6,}")
_ESCAPED: Final = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "chatgpt-account-id", "x-api-key"})


BODY: Final = "(a body)"


class Finding(NamedTuple):
    """Something private: in which flow (from 1; 0: outside of flows), in which part of it, and what it is."""

    flow: int
    part: str
    what: str

    def __str__(self) -> str:
        flow = f"flow {self.flow}: " if self.flow else ""
        return f"{flow}{self.part}: {self.what}"


def secrets_in(flows: Iterable[http.HTTPFlow]) -> set[str]:
    """Return the clients' own credentials, cookies and accounts, from the headers of the original flows."""
    secrets: set[str] = set()
    for flow in flows:
        for name, value in flow.request.headers.items(multi=True):
            lower = name.lower()
            if lower == "cookie":
                secrets |= {crumb.partition("=")[2].strip(' "') for crumb in value.split(";")}
            elif lower in _CREDENTIALS and not _is_masked(value):
                secrets.add(value.rpartition(" ")[2] if "authorization" in lower else value)
        for value in flow.response.headers.get_all("set-cookie") if flow.response is not None else ():
            secrets.add(value.partition(";")[0].partition("=")[2].strip(' "'))
    return {secret for secret in secrets if len(secret) >= 16 and re.search(r"\d", secret)}


def _is_masked(value: str) -> bool:
    """Return whether a value is a placeholder of the pool or a mask of observe mode, perhaps after a scheme."""
    return any(is_redacted("authorization", text) for text in (value, value.partition(" ")[2]))


class Check:
    """Searches for these secrets, and for what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        wanted = {secret for secret in secrets if len(secret) >= SHORTEST and len(set(secret)) > 1}
        wanted = {one for one in wanted if "<codexpool:" not in one and not is_pseudonym(one)}
        self._ids = {one.lower() for one in wanted if UUID.fullmatch(one) or _EMAIL.fullmatch(one)}
        others = {one for one in wanted if one.lower() not in self._ids}
        numbers = {one for one in others if one.isdigit()}
        self._others = re.compile(rf"{any_of(others - numbers)}|(?<!\d){any_of(numbers)}(?!\d)")

    def findings(self, content: bytes) -> list[Finding]:
        """Return what must not be in the content of a file."""
        found: dict[Finding, None] = {}
        clean: set[str] = set()  # Most texts of a file repeat.
        for number, entry in enumerate(_entries(content)):
            for name, part in entry.items():
                for text in _texts(part):
                    if text not in clean:
                        what = self._in_text(text)
                        found |= {Finding(number, _PARTS.get(name, "the flow"), one): None for one in sorted(what)}
                        clean |= set() if what else {text}
        return list(found)

    def _in_text(self, text: str) -> set[str]:
        what = {"a body"} if text == BODY else set()
        for layer in (text, *layers(text)):
            if self._others.search(layer):
                what.add("a known secret")
            ids = (match[0].lower() for pattern in (UUID, _EMAIL) for match in pattern.finditer(layer))
            if not self._ids.isdisjoint(ids):
                what.add("a known id or email address")
            masked = _JSON_IN_BASE64.sub(_without_json, _PSEUDONYM.sub("*", layer))
            if redact_tokens(masked) != masked:
                what.add("what looks like a credential")
            if _EMAIL.search(masked):
                what.add("what looks like an email address")
        return what


def _without_json(match: re.Match[str]) -> str:
    """Base64 of JSON begins like a JWT; what is in it is checked as a layer of its own."""
    try:
        return "*" if isinstance(json.loads(base64.b64decode(match[0] + "==")), dict) else match[0]
    except ValueError:
        return match[0]


def _entries(content: bytes) -> list[dict[str, Any]]:
    """Return what a file has outside of flows, and then each of its flows."""
    if content[:1] == b"{":
        log = json.loads(content)["log"]
        return [{**log, "entries": None}, *log["entries"]]
    entries: list[Any] = [{}]
    rest = io.BytesIO(content)
    while rest.tell() < len(content):
        entries.append(tnetstring.load(rest))
    return entries


def _texts(node: Any) -> Iterator[str]:
    """Yield each text in a part of a flow, and `BODY` for a body."""
    match node:
        case dict():
            for key, value in node.items():
                yield str(key)
                if key in ("content", "text") and isinstance(value, str | bytes) and value:
                    yield BODY
                yield from _texts(value)
        case list() | tuple():
            for item in node:
                yield from _texts(item)
        case str() if node:
            yield node
        case bytes() if node:
            yield node.decode("utf-8", "replace")
        case int() if node > 99_999:
            yield str(node)


# -- encodings within a text


def layers(text: str, depth: int = 0) -> Iterator[str]:
    """Yield every text that is encoded in this one, in up to three encodings."""
    if depth == _DEPTH:
        return
    for inner in set(_decoded(text)) - {text, ""}:
        yield inner
        yield from layers(inner, depth + 1)


def _decoded(text: str) -> Iterator[str]:
    if "%" in text:
        yield from (unquote(text), unquote_plus(text))
    if "\\" in text:
        yield _ESCAPED.sub(
            lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPES.get(match[2], match[2]), text
        )
    yield from (_text(bytes.fromhex(match[0])) for match in _HEX.finditer(text))
    for match in _BASE64.finditer(text):
        run = match[0].replace("-", "+").replace("_", "/")
        for shift in range(4):  # Characters before it may look like base64, too.
            whole = run[shift:]
            yield _text(_from_base64(whole[: len(whole) - (len(whole) % 4 == 1)]))


def _from_base64(run: str) -> bytes:
    try:
        return base64.b64decode(run + "=" * (-len(run) % 4))
    except binascii.Error:
        return b""


def _text(data: bytes) -> str:
    """Return printable text; empty for anything else, as nearly every run that is not encoded text decodes to."""
    text = data.decode("utf-8", "ignore")
    return text if len(text) >= 6 and sum(map(str.isprintable, text)) * 10 >= len(text) * 9 else ""
