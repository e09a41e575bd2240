"""The last look at a recording before it is written: is anything private left in it?

It reads the bytes of the file. What it looks for are the pool's secrets, what it reads from the original flows, and
every value that was replaced. Apart from those, nothing may look like a credential or an email address.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from mitmproxy import http
from mitmproxy.io import tnetstring

from codexpool.recording.encodings import layers
from codexpool.recording.pseudonyms import PSEUDONYM, UUID, any_of, is_pseudonym
from codexpool.redaction import redact_tokens

SHORTEST: Final = 5  # Characters from which on a secret is searched for: a shorter one is part of many words

_PSEUDONYM: Final = re.compile(rf"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt]))(?:{PSEUDONYM.pattern})(?![A-Za-z0-9])")
_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,9}[A-Za-z]{2,24}")
_JSON_IN_BASE64: Final = re.compile(r"eyJ[\w+/-]{8,}={0,2}(?![\w.+/-])")
_HAR_BODIES: Final = (("content", "text"), ("postData", "text"))
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z-]{0,40}")
_CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "chatgpt-account-id", "x-api-key"})


class Finding(NamedTuple):
    """Something private: in which flow (from 1; 0: outside of flows), where in it, and what it is."""

    flow: int
    where: str
    what: str

    def __str__(self) -> str:
        flow = f"flow {self.flow}: " if self.flow else ""
        return f"{flow}{self.where}: {self.what}"


def secrets_in(flows: Iterable[http.HTTPFlow]) -> set[str]:
    """Return the clients' own credentials, cookies and accounts, from the headers of the original flows."""
    secrets: set[str] = set()
    for flow in flows:
        for name, value in flow.request.headers.items(multi=True):
            lower = name.lower()
            if lower == "cookie":
                secrets |= {crumb.partition("=")[2].strip(' "') for crumb in value.split(";")}
            elif lower in _CREDENTIALS:
                secrets.add(value.rpartition(" ")[2] if "authorization" in lower else value)
        for value in flow.response.headers.get_all("set-cookie") if flow.response is not None else ():
            secrets.add(value.partition(";")[0].partition("=")[2].strip(' "'))
    return {secret for secret in secrets if len(secret) >= 16 and re.search(r"\d", secret)}


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
        found: list[Finding] = []
        clean: set[str] = set()  # Most texts of a file repeat.
        for number, path, text in _texts(content):
            if text in clean:
                continue
            if what := self._in_text(path, text):
                found += [Finding(number, _place(path), one) for one in sorted(what)]
            else:
                clean.add(text)
        return list(dict.fromkeys(found))

    def _in_text(self, path: tuple[str, ...], text: str) -> set[str]:
        what = {"a body"} if path[-1:] == ("content",) or path[-2:] in _HAR_BODIES else set()
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


def _texts(content: bytes) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Yield each text of a file, with the number of its flow and the path to it."""
    if content[:1] == b"{":
        har = json.loads(content)
        entries = har["log"].pop("entries")
        yield from ((0, path, text) for path, text in _walk(har, ()))
    else:
        entries, rest = [], io.BytesIO(content)
        while rest.tell() < len(content):
            entries.append(tnetstring.load(rest))
    for number, entry in enumerate(entries, 1):
        yield from ((number, path, text) for path, text in _walk(entry, ()))


def _walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    match node:
        case dict():
            name = node.get("name")
            for key, value in node.items():
                yield (*path, ""), str(key)
                yield from _walk(value, (*path, name if key == "value" and isinstance(name, str) else str(key)))
        case [str() | bytes() as name, str() | bytes() as value]:
            yield (*path, ""), _text(name)
            yield (*path, _text(name)), _text(value)
        case list() | tuple():
            for item in node:
                yield from _walk(item, path)
        case str() | bytes() if node:
            yield path, _text(node)
        case int() if node > 99_999:
            yield path, str(node)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _place(path: tuple[str, ...]) -> str:
    """Return where in a flow something is. Of the flow itself only names of headers are told."""
    match path:
        case (("request" | "response") as top, "headers" | "cookies", *_, name) if _HEADER.fullmatch(name):
            return f"{top}, header {name}"
        case (("request" | "response") as top, "path" | "url" | "host" | "content" | "postData" as part, *_):
            return f"{top}, {part}"
        case (top, *_) if top in ("request", "response", "error", "websocket", "comment"):
            return top
        case ("metadata" | "_codexpool", *_):
            return "trace"
    return "the flow"
