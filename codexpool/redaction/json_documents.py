"""Redacts JSON documents: a telling name makes everything below it a secret, and the value beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from codexpool.redaction.describe import describe_secret
from codexpool.redaction.named_values import is_redacted
from codexpool.redaction.secret_names import is_secret, names_secret

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


def _called(objects: tuple[dict[str, Any], ...]) -> str:
    """Return the name that objects have as a member, preferably a telling one."""
    names = [value for one in objects for key, value in one.items() if key.lower() in _NAMES]
    texts = [name for name in names if isinstance(name, str)]
    return next(filter(names_secret, texts), texts[0] if texts else "")


TOP: Final = Place()


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
