"""What a row says, if it can be read: another version may have written it, or a person.

A row that cannot be read is left out. It must not hide the others, nor be a limit without end.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final, NoReturn, TypeVar

from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.pool.usage import LONGEST_LIMIT
from codexpool.protocol.routes import host_of
from codexpool.state import Note, Record

logger = logging.getLogger("codexpool")

T = TypeVar("T")

UNREADABLE: Final = (ValueError, TypeError, AttributeError)
_EVIDENCE: Final = {field.name: float if field.name == "at" else type(field.default) for field in fields(Evidence)}


def readable(what: str, read: Callable[..., T], *columns: object) -> T | None:
    """Return what ``read`` makes of the columns of a row; None, and log it, if it cannot be read."""
    try:
        return read(*columns)
    except UNREADABLE:
        logger.warning("state: ignoring a %s that cannot be read", what)
        return None


def condition(status: str, since: object, until: object, evidence: str | None) -> Condition:
    begun = _time(since)
    ends = None if until is None else min(_time(until), begun + LONGEST_LIMIT)
    return Condition(Status(status), begun, ends, _evidence(_object(evidence)) if evidence else None)


def metadata(*columns: Any) -> Metadata:
    found = Metadata(*columns)
    host_of(found.origin)
    sent = found.account_id, found.user_id, found.plan, found.routing_override or ""
    if not all(text.isprintable() for text in sent):
        raise ValueError("more than a line of text")
    return found


def record(fingerprint: str, account_id: str, user_id: str, used_at: object) -> Record:
    return Record(fingerprint, IdentityKey(account_id, user_id), None if used_at is None else _time(used_at))


def note(text: str) -> Note:
    return _object(text)


def _evidence(document: dict[str, Any]) -> Evidence | None:
    known = {name: value for name, value in document.items() if name in _EVIDENCE}
    for name, value in known.items():
        if name == "at":
            _time(value)
        elif type(value) is not _EVIDENCE[name]:
            raise TypeError(name)
    return Evidence(**known) if known else None


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no time")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise TypeError("no object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # A bound that is not a number would hold for ever.
