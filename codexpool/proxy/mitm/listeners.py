"""A table of the handlers of each hook. mitmproxy itself searches all addons for every hook.

The table is rebuilt when addons change. Every look-up checks whether they have (1 µs), because mitmproxy sends no
notice when it reloads a script. A handler that an addon sets on itself is found when an option changes, and at the
latest after `OLDEST` seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import eq, is_
from time import monotonic
from types import ModuleType
from typing import Any, Final, NamedTuple

from mitmproxy.addonmanager import AddonManager, traverse
from mitmproxy.addons.dumper import Dumper
from mitmproxy.exceptions import AddonManagerError

UPDATE: Final = "update"  # the hook that mitmproxy calls after each hook of a flow
OLDEST: Final = 1.0  # seconds after which the table is rebuilt in any case

END: Final = object()  # stands between the addons of one parent and those of the next


Place = tuple[tuple[Sequence[object], int], ...]


class Listener(NamedTuple):
    """An addon, its handler for a hook, and its place: from the chain down, the list of each level and the index."""

    addon: object
    call: Callable[..., Any]
    place: Place

    def rest(self, name: str) -> Iterator[Listener]:
        """Yield the listeners after this one in its group, as mitmproxy does if addons change during the hook."""
        beside = (islice(addons, index + 1, None) for addons, index in reversed(self.place[1:]))
        for addons in (getattr(self.addon, "addons", ()), *beside):
            yield from listening(traverse(addons), name)


Group = tuple[Listener, ...]
"""The handlers of one addon in mitmproxy's chain and of the addons in it: an exception skips the rest of them."""


def _dumps_messages(options: Any) -> bool:
    """Return whether mitmdump prints messages in detail, or only those that match a filter.

    By default it prints one line for each message, which costs more than passing the message on.
    """
    return options.flow_detail >= 2 or (options.flow_detail == 1 and bool(options.dumper_filter))


IS_BUSY: Final[dict[tuple[str, type], Callable[[Any], bool]]] = {("websocket_message", Dumper): _dumps_messages}
"""Handlers of mitmproxy's own addons that may be left out, and with which options they may not."""


class Listeners:
    """The handlers of each hook, in mitmproxy's order."""

    def __init__(self, manager: AddonManager) -> None:
        self._manager = manager
        self._groups: dict[str, tuple[Group, ...]] = {}
        self._others: dict[tuple[str, int], bool] = {}
        self._parents: list[Any] = []
        self._seen: list[object] = []
        self._are_equal: Callable[[list[object], list[object]], bool] = _are_same  # `eq` takes a tenth of its time.
        self._until = 0.0
        manager.master.options.changed.connect(self._changed)  # A weak reference, called after all addons.

    def of(self, name: str) -> tuple[Group, ...]:
        """Return the handlers of a hook."""
        self._look()
        groups = self._groups.get(name)
        if groups is None:
            chain = self._manager.chain
            found = (tuple(_listeners(chain, index, name)) for index in range(len(chain)))
            groups = self._groups[name] = tuple(group for group in found if group)
        return groups

    def others(self, name: str, ours: object) -> bool:
        """Return whether an addon other than ``ours`` has something to do in a hook, or in `UPDATE` after it."""
        self._look()
        key = name, id(ours)
        has = self._others.get(key)
        if has is None:
            groups = (*self.of(name), *self.of(UPDATE))
            listeners = (one for group in groups for one in group if one.addon is not ours)
            has = self._others[key] = any(self._is_busy(name, one.addon) for one in listeners)
        return has

    def forget(self) -> None:
        """Rebuild the table at the next look-up, because an addon may have set a handler on itself."""
        self._until = 0.0

    def _changed(self, updated: set[str]) -> None:
        self.forget()

    def _is_busy(self, name: str, addon: object) -> bool:
        is_busy = IS_BUSY.get((name, type(addon)))
        return is_busy is None or is_busy(self._manager.master.options)

    def _look(self) -> None:
        """Rebuild the table if addons have changed, or if it is old."""
        if monotonic() < self._until and self._is_current():
            return
        self._groups.clear()
        self._others.clear()
        self._parents = list(_parents(self._manager.chain))
        self._seen = self._addons()
        self._are_equal = eq if all(type(one).__eq__ is object.__eq__ for one in self._seen) else _are_same
        self._until = monotonic() + OLDEST

    def _addons(self) -> list[object]:
        """Return all addons, the chain's and those of each parent."""
        found = [*self._manager.chain]
        for parent in self._parents:
            found += (END, *parent.addons)
        return found

    def _is_current(self) -> bool:
        try:
            return self._are_equal(self._addons(), self._seen)
        except Exception:  # A property of an addon may raise anything: see `_listeners`.
            return False


def _are_same(some: list[object], others: list[object]) -> bool:
    """Return whether both lists have the same objects. (Dataclasses equal others of their class.)"""
    return len(some) == len(others) and all(map(is_, some, others))


def _parents(addons: Iterable[object]) -> Iterator[Any]:
    """Yield the addons that have addons."""
    for top in addons:
        with contextlib.suppress(Exception):  # `_listeners` keeps the error for mitmproxy's log.
            for addon in traverse([top]):
                if hasattr(addon, "addons"):
                    tuple(addon.addons)
                    yield addon


def _listeners(chain: Sequence[object], index: int, name: str) -> Iterator[Listener]:
    """Yield the handlers of an addon in the chain and of those in it; the last one raises what went wrong."""
    top: Place = ((chain, index),)
    try:
        for addon, place in _places(chain[index], top):
            for listener in listening([addon], name):
                yield listener._replace(place=place)
    except Exception as error:  # mitmproxy logs it after it has called the handlers before it.
        yield Listener(chain[index], _raiser(error), top)


def _places(addon: object, place: Place) -> Iterator[tuple[object, Place]]:
    """Yield an addon and those in it, in the order of mitmproxy's `traverse`."""
    yield addon, place
    if hasattr(addon, "addons"):
        addons = addon.addons
        for index, child in enumerate(addons):
            yield from _places(child, (*place, (addons, index)))


def listening(addons: Iterable[object], name: str) -> Iterator[Listener]:
    """Yield the handlers of addons, as mitmproxy's `_iter_hooks` does. Raises AddonManagerError."""
    for addon in addons:
        handler = getattr(addon, name, None)
        if handler and callable(handler):
            yield Listener(addon, handler, ())
        elif handler and not isinstance(handler, ModuleType):  # A script may have `from mitmproxy import log`.
            raise AddonManagerError(f"Addon handler {name} ({addon}) not callable")


def _raiser(error: Exception) -> Callable[..., Any]:
    def handler(*_: object) -> None:
        raise error.with_traceback(None)  # or it would grow with each call

    return handler
