"""HAR files as browsers, proxies and people's scripts write them: one side of a comparison from an entry."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from codexpool.views.request_diff import Side

HIDDEN: Final = frozenset({":method", ":path", ":scheme", ":authority"})
"""Of HTTP/2: the rest of the entry says the same."""


class BrokenError(ValueError):
    """What is wrong with a file, and where: the line, or the entry."""


def entries(data: bytes) -> list[Any]:
    """The entries of a HAR file. Raises BrokenError."""
    try:
        document = json.loads(data)
    except json.JSONDecodeError as error:
        raise BrokenError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        raise BrokenError("it is no JSON") from None
    log = document.get("log") if isinstance(document, dict) else None
    found = log.get("entries") if isinstance(log, dict) else None
    if not isinstance(found, list):
        raise BrokenError("it is JSON, and has no log.entries: it is no HAR file")
    return found


def side(entry: Any, label: str) -> Side:
    """An entry as one side of a comparison. Raises BrokenError; what may be missing in a HAR file may be missing."""
    entry = _table(entry, "the entry")
    request = _table(entry.get("request"), "request")
    response = _table(entry.get("response") or {}, "response")
    headers = _headers(request, "request", "cookie")
    status = response.get("status")
    return Side(
        label,
        _text(request.get("method"), "request.method"),
        _text(request.get("url"), "request.url"),
        headers,
        _at(entry.get("startedDateTime")),
        _body(request),
        status if isinstance(status, int) and not isinstance(status, bool) and status > 0 else None,
        _headers(response, "response", "set-cookie"),
    )


def url_of(entry: Any) -> tuple[str, str]:
    """Method and URL of an entry, empty where it has none."""
    request = entry.get("request") if isinstance(entry, dict) else None
    told = (request.get("method"), request.get("url")) if isinstance(request, dict) else (None, None)
    return str(told[0] or ""), str(told[1] or "")


def _headers(message: dict[str, Any], where: str, cookies: str) -> list[tuple[str, str]]:
    """The headers; cookies that are only in the list of their own are among them."""
    headers = [pair for pair in _pairs(message, "headers", where) if pair[0].lower() not in HIDDEN]
    if any(name.lower() == cookies for name, _ in headers):
        return headers
    crumbs = [f"{name}={value}" for name, value in _pairs(message, "cookies", where)]
    if cookies == "cookie" and crumbs:
        crumbs = ["; ".join(crumbs)]
    return headers + [(cookies, crumb) for crumb in crumbs]


def _pairs(message: dict[str, Any], key: str, where: str) -> list[tuple[str, str]]:
    """A list of names and values, which may be missing."""
    given = message.get(key)
    if given is None:
        return []
    if not isinstance(given, list):
        raise BrokenError(f"{where}.{key} is no list")
    return [_pair(item, f"{where}.{key}[{index}]") for index, item in enumerate(given)]


def _pair(header: Any, where: str) -> tuple[str, str]:
    """A name and its value, also where they are a list of two (as Slack writes them)."""
    match header:
        case {"name": str(name), "value": str() | int() | float() | None as value}:
            return name, "" if value is None else str(value)
        case [str(name), str(value)]:
            return name, value
        case _:
            raise BrokenError(f"{where} is no name with a value")


def _body(request: dict[str, Any]) -> bytes | None:
    """What was sent; None where the file does not say, though there was something."""
    post = request.get("postData")
    if post is None:
        size = request.get("bodySize")
        return None if isinstance(size, int) and size > 0 else b""
    post = _table(post, "request.postData")
    text, params = post.get("text"), post.get("params")
    if isinstance(text, str) and post.get("encoding") == "base64":
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BrokenError("request.postData.text is no base64") from None
    if isinstance(text, str) and (text or not params):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(params, list):
        pairs = [_pair(_with_value(param), f"request.postData.params[{i}]") for i, param in enumerate(params)]
        return urlencode(pairs).encode()
    raise BrokenError("request.postData has neither text nor params")


def _with_value(param: Any) -> Any:
    return {"value": "", **param} if isinstance(param, dict) else param


def _at(text: Any) -> float:
    """When it was sent, in unix seconds; the begin of time where that is not to be read."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BrokenError(f"{where} is missing" if value is None else f"{where} is no object")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise BrokenError(f"{where} is missing")
    return value
