"""The last look at a recording before it is written: is anything left in it that is somebody's?

It reads the very bytes that are to be written, as a reader would, and shares nothing with what has put the stand-ins
there but the knowledge of what a stand-in looks like. What it looks for it has from three sources: the secrets of the
pool, what it reads out of the flows as they were, and what was replaced. Besides, nothing may look like a credential.
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

from codexpool.recording.layers import Leaf, forms, from_base64, is_printable
from codexpool.recording.shapes import BEGIN, END, SIGNATURE, STANDIN, is_standin, is_vocabulary
from codexpool.recording.words import any_of
from codexpool.redaction.logs import redacted

SHORTEST: Final = 5
"""Characters from which on a secret is looked for: a shorter one is a part of many words."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,9}[A-Za-z]{2,24}")
_STANDIN: Final = re.compile(rf"{BEGIN}(?:eyJ[\w-]+\.[\w-]+\.{SIGNATURE.pattern}|{STANDIN.pattern}){END}")
_EY: Final = re.compile(r"eyJ[\w-]{8,}={0,2}(?![\w.+/-])")

_SEEN_IN: Final = frozenset({"authorization", "proxy-authorization", "cookie", "chatgpt-account-id", "x-api-key"})


class Finding(NamedTuple):
    """Something that must not be written: in which flow (from 1; 0: between them), where in it, and what it is."""

    flow: int
    where: str
    what: str

    def __str__(self) -> str:
        flow = f"flow {self.flow}: " if self.flow else ""
        return f"{flow}{self.where}: {self.what}"


def seen_secrets(flows: Iterable[http.HTTPFlow]) -> set[str]:
    """The clients' own credentials, cookies and accounts, as they stand in the headers of these flows."""
    secrets: set[str] = set()
    for flow in flows:
        for name, value in flow.request.headers.items(multi=True):
            lower = name.lower()
            if lower == "cookie":
                secrets |= {crumb.partition("=")[2].strip(' "') for crumb in value.split(";")}
            elif lower in _SEEN_IN:
                secrets.add(value.rpartition(" ")[2] if "authorization" in lower else value)
        for value in flow.response.headers.get_all("set-cookie") if flow.response is not None else ():
            secrets.add(value.partition(";")[0].partition("=")[2].strip(' "'))
    return {secret for secret in secrets if len(secret) >= 16 and re.search(r"\d", secret)}


class Check:
    """Looks for these secrets; what is a stand-in, or too short to be told from a word, is none."""

    def __init__(self, secrets: Iterable[str]) -> None:
        wanted = {secret for secret in secrets if len(secret) >= SHORTEST and len(set(secret)) > 1}
        wanted = {secret for secret in wanted if "<codexpool:" not in secret and not is_vocabulary(secret)}
        wanted = {secret for secret in wanted if not (_STANDIN.fullmatch(secret) or is_standin(secret))}
        self._uuids = {secret.lower() for secret in wanted if _UUID.fullmatch(secret)}
        self._emails = {secret.lower() for secret in wanted if _EMAIL.fullmatch(secret)}
        others = [secret for secret in wanted if secret.lower() not in self._uuids | self._emails]
        written = {form.decode("latin-1") for secret in others for form in forms(secret)}
        numbers = [form for form in written if form.isdigit()]
        between = rf"(?<!\d){any_of(numbers)}(?!\d)" if numbers else r"(?!)"
        self._others = re.compile(f"{any_of(written.difference(numbers))}|{between}".encode("latin-1"), re.DOTALL)

    def findings(self, content: bytes) -> list[Finding]:
        """What is found in the content of a file that is to be written."""
        found: list[Finding] = []
        seen: set[tuple[bytes, str]] = set()  # Most texts of a file come again and again.
        for number, path, leaf in _leaves(content):
            if (len(leaf.raw) < SHORTEST and not leaf.coding) or (leaf.raw, leaf.coding) in seen:
                continue
            if what := self._in_leaf(leaf):
                found += [Finding(number, _place(path), one) for one in sorted(what)]
            elif len(leaf.raw) < 4096:
                seen.add((leaf.raw, leaf.coding))
        if not found and self._others.search(content):
            found.append(Finding(0, "the file", "a known secret"))
        return list(dict.fromkeys(found))

    def _in_leaf(self, leaf: Leaf) -> set[str]:
        what: set[str] = set()
        for depth, data in leaf.layers():
            what |= self._known(data)
            if depth == 0 or is_printable(data):
                what |= _looks_like(data.decode("utf-8", "replace"))
        if leaf.is_closed:
            what.add("compressed in a way that cannot be undone, so that nobody can look into it")
        return what

    def _known(self, data: bytes) -> set[str]:
        if self._others.search(data):
            return {"a known secret"}
        if self._uuids or self._emails:
            text = data.decode("latin-1")
            if any(match[0].lower() in self._uuids for match in _UUID.finditer(text)):
                return {"a known id"}
            if any(match[0].lower() in self._emails for match in _EMAIL.finditer(text)):
                return {"a known e-mail address"}
        return set()


def _looks_like(text: str) -> set[str]:
    """What in a text looks like a credential or an address, without being a stand-in."""
    masked = _EY.sub(_unless_opaque, _STANDIN.sub("*", text))
    what = set()
    if redacted(masked) != masked:
        what.add("what looks like a credential")
    if _EMAIL.search(masked):
        what.add("what looks like an e-mail address")
    return what


def _unless_opaque(match: re.Match[str]) -> str:
    """JSON in base64 begins like a token, and is looked into as what it is."""
    try:
        return "*" if isinstance(json.loads(from_base64(match[0].encode())), dict) else match[0]
    except ValueError:
        return match[0]


# -- the texts of a file, and where each of them is


def _leaves(content: bytes) -> Iterator[tuple[int, tuple[str, ...], Leaf]]:
    if content[:1] == b"{":
        har = json.loads(content)
        entries = har["log"].pop("entries")
        yield from ((0, path, leaf) for path, leaf in _walk(har, ()))
    else:
        entries, rest = [], io.BytesIO(content)
        while rest.tell() < len(content):
            entries.append(tnetstring.load(rest))
    for number, entry in enumerate(entries, 1):
        for path, leaf in _walk(entry, ()):
            yield number, path, leaf


def _walk(node: Any, path: tuple[str, ...], coding: str = "") -> Iterator[tuple[tuple[str, ...], Leaf]]:
    match node:
        case dict():
            coding = _coding_of(node)
            name = node.get("name")
            for key, value in node.items():
                yield path, Leaf(str(key))
                field = name if key == "value" and isinstance(name, str) else str(key)
                yield from _walk(value, (*path, field), coding)
            if node.get("encoding") == "base64" and isinstance(node.get("text"), str):
                yield (*path, "text"), Leaf(base64.b64decode(node["text"]))
        case [str(name) | bytes(name), str(value) | bytes(value)]:
            shown = name.decode("latin-1") if isinstance(name, bytes) else name
            yield (*path, ""), Leaf(name)
            yield (*path, shown), Leaf(value)
        case list() | tuple():
            for item in node:
                yield from _walk(item, path)
        case str() | bytes():
            yield path, Leaf(node, coding if path[-1:] == ("content",) else "")
        case int() if node > 99_999:
            yield path, Leaf(str(node))


def _coding_of(node: dict[Any, Any]) -> str:
    """The content-encoding of a message in a flow's state."""
    for field in node.get("headers") or () if isinstance(node.get("content"), bytes) else ():
        if field[0].lower() == b"content-encoding":
            return str(field[1].decode("latin-1")).strip().lower()
    return ""


_TOP: Final = frozenset(
    {"request", "response", "client_conn", "server_conn", "websocket", "metadata", "comment", "error", "_codexpool"}
)


def _place(path: tuple[str, ...]) -> str:
    """Where in a flow something is, in words; nothing of the flow itself is said but names of headers."""
    top = next((part for part in path if part in _TOP or part.startswith("_webSocket")), "the flow")
    rest = path[path.index(top) + 1 :] if top in path else ()
    match rest:
        case ("headers" | "trailers" | "cookies", *names) if names and _is_name(names[-1]):
            return f"{top}, header {names[-1]}"
        case ("headers" | "trailers" | "cookies" | "queryString", *_):
            return f"{top}, {rest[0]}"
        case (part, *_) if part in ("content", "postData"):
            return f"{top}, body"
        case (part, *_) if part in ("path", "url", "host", "authority", "messages", "msg"):
            return f"{top}, {part}"
    return {"metadata": "the trace", "_codexpool": "the trace", "client_conn": "the client's connection"}.get(
        top, top
    )


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z-]{0,40}", name) is not None and name not in ("name", "value")
