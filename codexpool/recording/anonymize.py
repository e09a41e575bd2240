"""Copies flows for a recording: without bodies, and with pseudonyms for all but what is known to be harmless."""

from __future__ import annotations

import base64
import binascii
import copy
import json
import re
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote, unquote_plus

from mitmproxy import connection, http, websocket

from codexpool.recording.check import layers
from codexpool.recording.pseudonyms import PREFIX, PSEUDONYM, UUID, Pseudonyms, is_pseudonym
from codexpool.redaction import SCHEMES, is_redacted, known_header, parse_json, redact_text
from codexpool.tokens.jwt import payload_of
from codexpool.traces.trace import METADATA

NOTE: Final = "codexpool_recording"
"""The key in a recorded flow's metadata under which the sizes of what was left out are."""

SIZES: Final = ("request_bytes", "response_bytes")

_OF_CONNECTION: Final = (
    *("id", "tls", "tls_version", "alpn", "cipher", "transport_protocol"),
    *("timestamp_start", "timestamp_end", "timestamp_tls_setup"),
)
_NOWHERE: Final = ("127.0.0.1", 0)
M = TypeVar("M", http.Request, http.Response)

IDENTIFYING: Final = frozenset(
    {
        *("chatgpt-account-id", "openai-organization", "openai-project", "session-id", "session_id"),
        *("conversation_id", "thread-id", "x-client-request-id", "x-codex-window-id"),
        *("x-codex-parent-thread-id", "x-codex-inference-call-id", "x-codex-installation-id"),
        *("x-codex-turn-state", "x-codex-turn-metadata", "traceparent", "tracestate", "x-request-id"),
        *("x-oai-request-id", "cf-ray", "etag", "if-none-match", "x-models-etag", "x-error-json"),
        *("report-to", "nel"),
    }
)
"""Known headers with the id of a person, a session or a request. Headers that are not known are private anyway."""

URLS: Final = frozenset({"location", "referer", "content-location", "origin", "url", "path"})

HARMLESS_MEMBERS: Final = frozenset(
    {
        *("code", "type", "status", "sandbox", "model", "reasoning_effort", "request_kind", "kind", "mode"),
        *("tier", "effort", "plan_type", "version", "source", "originator", "thread_source"),
    }
)
"""Members of JSON in headers that stay; all others are private."""

PRIVATE_IN_TRACE: Final = frozenset(
    {"id", "key", "parent", "account_id", "fingerprint", "request_id", "client", "member"}
)
"""Members of a trace that are private; every other text is searched for private values."""

OF_THE_CLIENT: Final = ("user_agent", "model")  # Members with the client's words: no name of ours is looked for.

_VERSION: Final = re.compile(
    r"v?\d{1,4}(?:\.\d{1,5}){1,2}(?:-(?:alpha|beta|dev|insider|nightly|pre|preview|rc)(?:\.?\d{1,8})?)?"
)
_MODEL: Final = re.compile(r"(?=[\w.-]*[a-z])[a-z0-9]{1,12}(?:[.-][a-z0-9]{1,12}){0,7}")
_ORIGINATOR: Final = re.compile(r"[A-Za-z][A-Za-z _-]{1,39}")
_HARMLESS: Final = re.compile(
    rf"\d{{1,5}}|{_VERSION.pattern}|true|false|null|(?:127\.0\.0\.1|\[?::1\]?)(?::\d{{1,5}})?"
)
_SEGMENT: Final = re.compile(r"[A-Za-z_.-]{0,40}|v\d|\d{1,5}")
_SNAKE: Final = re.compile(r"[a-z]+(?:[_-][a-z]+)*")
_SCHEME: Final = re.compile(r"([A-Za-z][\w-]{0,31})(\s+)(\S.*)", re.DOTALL)
_PLACEHOLDER: Final = re.compile(r"(?<=<codexpool:)(?!(?:waiting|refused|removed)>)[\w.-]{1,64}(?=>)")
_NAMED: Final = re.compile(
    r"(?:(?<=^codexpool: )|(?<=\()|(?<=; ))[A-Za-z][\w.-]{0,63}(?=: |, attempt \d)"
    r"|(?:(?<= pinned to )|(?<= asks for ))[\w.-]{1,64}(?= \(codexpool )"
)
"""Names of identities in a flow's comment, and in what codexpool answers."""

_IN_TEXT: Final = re.compile(
    rf"(?P<id>{UUID.pattern}|(?<![0-9A-Za-z]){PREFIX.pattern}(?=[A-Za-z]*\d)[A-Za-z0-9]{{8,}})"
    r"|sha256:(?P<digest>[0-9a-f]{12})(?![0-9a-f])"
    r"|(?<![\w.])(?P<address>(?!127\.)(?:\d{1,3}\.){3}\d{1,3})(?![\w.])"
    r"|(?:/home/|/Users/|[A-Za-z]:\\{1,2}[Uu]sers\\{1,2})(?P<home>[^\s/\\\"'<>:;,|?*&()\[\]{}`%]{1,64})"
)


def public_values(flow: http.HTTPFlow) -> set[str]:
    """Return what says which client and which model was used: recordings of two clients are there to be compared.

    A header that Codex does not have may repeat such a value. That makes it no secret.
    """
    headers = flow.request.headers
    model = headers.get("x-codex-routing-hint", "").partition("model=")[2].partition(";")[0].partition(",")[0]
    found = ((headers.get("originator", ""), _ORIGINATOR), (headers.get("version", ""), _VERSION), (model, _MODEL))
    values = {value for value, shape in found if shape.fullmatch(value)}
    agent = headers.get("user-agent", "")
    return {value for value in values | ({agent} if " " in agent else set()) if _is_public(value)}


def _is_public(value: str) -> bool:
    """Return whether a value may stay everywhere: it has no credential, id, address or home folder in it."""
    return redact_text(value, full=True) == value and _IN_TEXT.search(value) is None


def strip(flow: http.HTTPFlow) -> http.HTTPFlow:
    """Return a copy without bodies; of a flow from an earlier recording the sizes are kept."""
    client, server = connection.Client(peername=_NOWHERE, sockname=_NOWHERE), connection.Server(address=None)
    for made_one, one in ((client, flow.client_conn), (server, flow.server_conn)):
        for name in _OF_CONNECTION:
            setattr(made_one, name, getattr(one, name))
    server.timestamp_tcp_setup = flow.server_conn.timestamp_tcp_setup
    made = http.HTTPFlow(client, server)
    made.id, made.timestamp_created = flow.id, flow.timestamp_created
    made.request = _bare(flow.request)
    made.response = _bare(flow.response) if flow.response is not None else None
    made.error = copy.copy(flow.error)
    made.comment, made.marked, made.is_replay = flow.comment, flow.marked, flow.is_replay
    if (socket := flow.websocket) is not None:
        made.websocket = websocket.WebSocketData(
            [], socket.closed_by_client, socket.close_code, socket.close_reason, socket.timestamp_end
        )
    sizes = flow.metadata.get(NOTE)
    if not isinstance(sizes, dict):
        sizes = {"request_bytes": _size(flow.request), "response_bytes": _size(flow.response)}
    made.metadata = {NOTE: {name: size for name in SIZES if isinstance(size := sizes.get(name), int | None)}}
    if METADATA in flow.metadata:
        made.metadata[METADATA] = flow.metadata[METADATA]
    return made


def _bare(message: M) -> M:
    made = type(message).__new__(type(message))
    made.data = copy.copy(message.data)
    made.data.headers = http.Headers(message.headers.fields)
    made.data.content = made.data.trailers = None
    return made


def _size(message: http.Message | None) -> int | None:
    """Return the bytes of a body: of one that was streamed, as its headers announced it."""
    if message is None:
        return None
    length = message.headers.get("content-length", "")
    if message.raw_content is None:
        return int(length) if length.isdecimal() else None
    return len(message.raw_content)


class Anonymizer:
    """Puts the pseudonyms of one file into copies of flows."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms

    def flow(self, source: http.HTTPFlow) -> http.HTTPFlow:
        """Return a copy without bodies, in which every private value is a pseudonym."""
        made = strip(source)
        for one in (made, made.client_conn, made.server_conn):
            one.id = self._pseudonyms.of(one.id)
        request, response = made.request, made.response
        request.data.host = self._text(request.host)  # The property would change the headers, too.
        request.authority, request.method = self._text(request.authority), self._text(request.method)
        request.path = self._url(request.path)
        request.headers = self._headers(request.headers)
        if response is not None:
            response.reason, response.headers = self._text(response.reason), self._headers(response.headers)
        if made.error is not None:
            made.error.msg = self._text(made.error.msg)
        if made.websocket is not None and made.websocket.close_reason:
            made.websocket.close_reason = self._text(made.websocket.close_reason)
        made.comment = self._text(made.comment)
        if (trace := made.metadata.get(METADATA)) is not None:
            made.metadata[METADATA] = self._trace(trace if isinstance(trace, dict) else trace.document())
        return made

    # -- headers

    def _headers(self, headers: http.Headers) -> http.Headers:
        pairs = [(self._text(name), self.header(name, value)) for name, value in headers.items(multi=True)]
        return http.Headers([(_encoded(name), _encoded(value)) for name, value in pairs])

    def header(self, name: str, value: str) -> str:
        lower = name.lower()
        if lower in URLS:
            return self._url(value)
        if lower in ("cookie", "set-cookie"):
            crumbs = value.split(";")
            private = crumbs if lower == "cookie" else crumbs[:1]
            return ";".join([*map(self._cookie, private), *map(self._text, crumbs[len(private) :])])
        known = known_header(lower)
        if known is not None and known.is_plain and lower not in IDENTIFYING:
            return self._text(value, is_own=lower.startswith("x-codexpool"))
        return self._private(value)

    def _cookie(self, crumb: str) -> str:
        name, equals, value = crumb.partition("=") if "=" in crumb else ("", "", crumb)
        bare = value.strip().strip('"')
        return f"{self._text(name)}{equals}{value.replace(bare, self._private(unquote(bare)))}" if bare else crumb

    def _private(self, value: str) -> str:
        match = _SCHEME.fullmatch(value)
        scheme, secret = (match[1] + match[2], match[3]) if match and match[1].lower() in SCHEMES else ("", value)
        if is_pseudonym(secret) or _HARMLESS.fullmatch(secret):
            return scheme + self._pseudonyms.of(secret) if is_pseudonym(secret) else value
        if re.fullmatch(r"<codexpool:[\w.-]{1,64}>", secret):
            return scheme + self._text(secret)
        if is_redacted("", secret):  # In a trace. What a JWT says of its bearer is left out.
            return scheme + self._text(secret.partition(",")[0])
        for text in (secret, _from_base64(secret)):
            document = parse_json(text)
            if document is not None:
                return json.dumps(self._document(document), separators=(",", ":"))
        rest, uuids = UUID.subn("", secret)
        if uuids and sum(map(str.isalnum, rest)) < 4:  # <thread>:0
            return UUID.sub(lambda match: self._pseudonyms.of(match[0]), secret)
        self._learn(secret)
        return scheme + self._pseudonyms.of(secret)

    def _learn(self, secret: str) -> None:
        """Learn what a token says of its bearer, both parts of a user name with a password, and home folders."""
        for match in _IN_TEXT.finditer(secret):
            self._found(match)
        try:
            self._claims(payload_of(secret))
        except ValueError:
            user, colon, password = _from_base64(secret).partition(":")
            if colon:
                self._pseudonyms.of_name(user)
                self._pseudonyms.of_name(password)

    def _claims(self, node: Any, name: str = "") -> None:
        match node:
            case dict():
                for key, value in node.items():
                    self._claims(value, key)
            case list():
                for item in node:
                    self._claims(item, name)
            case str() if "name" in name:
                self._pseudonyms.of_name(node)
            case str() if "://" not in node:
                self._pseudonyms.of(node)

    # -- URLs and JSON

    def _url(self, url: str) -> str:
        rest, hash_, fragment = url.partition("#")
        rest, mark, query = rest.partition("?")
        scheme, slashes, rest = rest.rpartition("://")
        host, slash, path = rest.partition("/") if slashes else ("", "", rest)
        host = self._pseudonyms.of(host) if "@" in host else self._text(host)
        path = "/".join(map(self._segment, path.split("/")))
        query = "&".join(self._parameter(*part.partition("=")) for part in query.split("&"))
        return f"{scheme}{slashes}{host}{slash}{path}{mark}{query}{hash_}{self._pseudonyms.of(fragment)}"

    def _segment(self, segment: str) -> str:
        plain = unquote(segment)
        made = self._text(plain) if _SEGMENT.fullmatch(plain) else self._private(plain)
        return segment if made == plain else quote(made, safe="@:<>")

    def _parameter(self, name: str, equals: str, value: str) -> str:
        plain = unquote_plus(value)
        made = self._private(plain)
        shown = name if _SNAKE.fullmatch(name.lower()) else self._private(unquote_plus(name))
        return f"{shown}{equals}{value if made == plain else quote(made, safe='/:@')}"

    def _document(self, node: Any, name: str = "") -> Any:
        match node:
            case dict():
                names = {key: self._text(key) if _SNAKE.fullmatch(key) else self._private(key) for key in node}
                return {names[key]: self._document(value, key) for key, value in node.items()}
            case list():
                return [self._document(item, name) for item in node]
            case str():
                return self._text(node) if name in HARMLESS_MEMBERS else self._private(node)
            case int() | float() if (
                not isinstance(node, bool) and abs(node) > 99_999 and not name.endswith(("_at", "_ms"))
            ):
                return 0
            case _:
                return node

    def _trace(self, node: Any, name: str = "", within: str = "") -> Any:
        match node:
            case dict():
                return {key: self._trace(value, key, name) for key, value in node.items()}
            case [str(header), str(value)] if name.endswith("_headers"):
                return [self._text(header), self.header(header, value)]
            case list() | tuple():
                return [self._trace(item, name, within) for item in node]
            case str() if name == "identity" or (name, within) == ("name", "candidates"):
                return self._pseudonyms.of_identity(node) if node else node
            case str() if name in URLS:
                return self._url(node)
            case str() if name in PRIVATE_IN_TRACE:
                return self._private(node)
            case str() if name in OF_THE_CLIENT:
                return self._text(node)
            case str():
                return self._text(node, is_own=True)
            case _:
                return node

    # -- texts that stay

    def _text(self, text: str, is_own: bool = False) -> str:
        """Return a text with pseudonyms for the private values in it; for all of it, if it may have others."""
        is_own = is_own or text.startswith("codexpool: ")
        for match in _NAMED.finditer(text) if is_own else ():
            self._pseudonyms.of_identity(match[0])
        made = _PLACEHOLDER.sub(lambda match: self._pseudonyms.of_identity(match[0]), text)
        made = _IN_TEXT.sub(self._found, self._pseudonyms.substitute(made, is_own))
        masked = PSEUDONYM.sub("x", made)
        is_clean = redact_text(masked, full=True) == masked and not any(map(self._pseudonyms.is_in, layers(masked)))
        return made if is_clean else self._pseudonyms.of(text)

    def _found(self, match: re.Match[str]) -> str:
        value = match[match.lastgroup or 0]
        made = self._pseudonyms.of_name(value) if match.lastgroup == "home" else self._pseudonyms.of(value)
        return match[0].replace(value, made)


def _from_base64(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
