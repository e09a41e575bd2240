"""Five functions of mitmproxy that each request calls dozens of times, with the same results in less time.

- `Headers.get_all`, which every look-up of a header uses, calls two functions for each field.
- `MessageData.__post_init__` checks the types of the fields of a request or response, and formats an error message
  for each field before it checks it.
- `Hook.args` asks the dataclass for its fields each time that an addon is called.
- `_Option.current`, which every look-up of an option uses, copies numbers and strings, which cannot change.
- `Context.fork` makes a server connection with a random identifier, and drops it.

Together they took a tenth of the time of a small request. Unusual arguments go to mitmproxy's own functions.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, get_args

from mitmproxy import hooks, http, optmanager
from mitmproxy.proxy import context


def _of_mitmproxy(kind: type, name: str) -> Any:
    """Return mitmproxy's own function. After a reload of this module the class still has the one installed before."""
    found = getattr(kind, name, None)  # With `python -O`, `MessageData` has no `__post_init__`.
    return getattr(found, "of_mitmproxy", found)


_get_all: Any = _of_mitmproxy(http.Headers, "get_all")
_check: Any = _of_mitmproxy(http.MessageData, "__post_init__")
_args: Any = _of_mitmproxy(hooks.Hook, "args")
_current: Any = _of_mitmproxy(optmanager._Option, "current")
_fork: Any = _of_mitmproxy(context.Context, "fork")

_PLAIN = frozenset({bool, int, float, str, type(None)})
_PARTS = {"client", "server", "options", "layers"}


def get_all(headers: http.Headers, name: str | bytes) -> list[str]:
    if type(name) is str:
        wanted = name.encode("utf-8", "surrogateescape").lower()
    elif type(name) is bytes:
        wanted = name.lower()
    else:
        return _get_all(headers, name)  # type: ignore[no-any-return]
    return [value.decode("utf-8", "surrogateescape") for key, value in headers.fields if key.lower() == wanted]


@cache
def _kinds(kind: type) -> tuple[tuple[str, frozenset[object]], ...]:
    """Return the types that each field of a message may have; an int counts as a float."""
    found = []
    for one in fields(kind):
        types = set(get_args(one.type)) or {one.type}
        found.append((one.name, frozenset(types | ({int} if float in types else set()))))
    return tuple(found)


def check(data: http.MessageData) -> None:
    parts = vars(data)
    for name, kinds in _kinds(type(data)):
        if type(parts.get(name)) not in kinds:
            _check(data)  # It accepts subclasses, and writes the error message.
            return


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


def args(hook: hooks.Hook) -> list[Any]:
    kind: Any = type(hook)
    return [getattr(hook, name) for name in _names(kind)]


def current(option: Any) -> Any:
    value = option._default if option.value is optmanager.unset else option.value
    return value if type(value) in _PLAIN else _current(option)


def fork(self: context.Context) -> context.Context:
    if vars(self).keys() != _PARTS:
        return _fork(self)  # type: ignore[no-any-return]
    forked = context.Context.__new__(context.Context)
    vars(forked).update(vars(self), layers=self.layers.copy())
    return forked


def install() -> None:
    """Replace mitmproxy's functions with these, where they exist."""
    for kind, name, quick, of_mitmproxy in (
        (http.Headers, "get_all", get_all, _get_all),
        (http.MessageData, "__post_init__", check, _check),
        (hooks.Hook, "args", args, _args),
        (optmanager._Option, "current", current, _current),
        (context.Context, "fork", fork, _fork),
    ):
        if of_mitmproxy is not None:
            vars(quick)["of_mitmproxy"] = of_mitmproxy
            setattr(kind, name, quick)
