"""The table has what mitmproxy finds when it searches all addons, at any time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import mitmproxy
import pytest
from mitmproxy import hooks
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons import default_addons
from mitmproxy.addons.dumper import Dumper
from mitmproxy.addons.script import ScriptLoader
from mitmproxy.exceptions import AddonManagerError
from mitmproxy.test import taddons

from codexpool.proxy.mitm import listeners
from codexpool.proxy.mitm.listeners import Listeners


class Addon:
    """An addon with a handler for ``response``, and addons of its own."""

    def __init__(self, name: str, *addons: object) -> None:
        self.name = name
        self.addons = list(addons)

    def response(self, flow: object) -> None:
        return


class Silent:
    """An addon without handlers."""

    def __init__(self, name: str = "silent") -> None:
        self.name = name


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[AddonManager]:
    monkeypatch.setattr(listeners, "OLDEST", 1e9)  # No test depends on the clock.
    with taddons.context(loadcore=False) as context:
        context.master.addons.clear()
        yield context.master.addons


def walked(manager: AddonManager, name: str = "response") -> list[list[object]]:
    """Return whose handlers mitmproxy finds."""
    event = object.__new__(hooks.all_hooks[name])
    found = ([addon for addon, _ in manager._iter_hooks(top, event)] for top in manager.chain)
    return [group for group in found if group]


def listed(known: Listeners, name: str = "response") -> list[list[object]]:
    return [[one.addon for one in group] for group in known.of(name)]


def test_nested_addons_are_one_group(manager: AddonManager) -> None:
    known = Listeners(manager)
    inner, other = Addon("inner", Addon("innermost")), Addon("other")
    manager.add(Silent("first"), outer := Addon("outer", Silent("beside"), inner), other)
    assert listed(known) == [[outer, inner, *inner.addons], [other]] == walked(manager)
    assert listed(known, "request") == []


def test_changes_of_the_chain_are_seen_at_once(manager: AddonManager) -> None:
    known = Listeners(manager)
    manager.add(first := Addon("first"), second := Addon("second"))
    assert listed(known) == [[first], [second]]
    manager.remove(first)
    assert listed(known) == [[second]]
    manager.add(third := Addon("third"))
    assert listed(known) == [[second], [third]]
    manager.chain[0] = first
    assert listed(known) == [[first], [third]]
    manager.clear()
    assert listed(known) == []


@dataclass
class Equal:
    """An addon that equals every other one of its class, and a container of addons."""

    name: str = "equal"
    addons: list[object] = field(default_factory=list)

    def response(self, flow: object) -> None:
        return


def test_an_equal_addon_in_its_place_is_another(manager: AddonManager) -> None:
    known = Listeners(manager)
    manager.add(Addon("outer", Equal()))
    known.of("response")
    manager.chain[0].addons[0] = new = Equal()
    assert known.of("response")[0][1].addon is new
    manager.chain[0] = top = Equal()
    assert known.of("response")[0][0].addon is top


async def test_a_script_that_is_loaded_again_is_another(manager: AddonManager, tmp_path: Path) -> None:
    """mitmproxy's own scripts change their addons after they are registered."""
    path = tmp_path / "script.py"
    path.write_text("def response(flow): ...\n")
    manager.add(ScriptLoader())
    known = Listeners(manager)
    assert listed(known) == []
    manager.master.options.update(scripts=[str(path)])
    await _until(lambda: listed(known) != [])
    [[first]] = listed(known)
    path.write_text("def request(flow): ...\n")
    os.utime(path, (2e9, 2e9))
    await _until(lambda: listed(known, "request") != [])
    [[second]] = listed(known, "request")
    assert isinstance(first, ModuleType)
    assert second is not first
    assert listed(known) == [] == walked(manager)
    manager.master.options.update(scripts=[])
    assert listed(known, "request") == []


async def _until(reached: Any) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_a_module_of_a_hooks_name_is_no_handler(manager: AddonManager) -> None:
    known = Listeners(manager)
    script: Any = ModuleType("script")
    script.response, script.name = mitmproxy.http, "script"
    manager.add(script)
    assert listed(known) == [] == walked(manager)


def test_what_is_no_handler_is_an_error_after_the_handlers_before_it(manager: AddonManager) -> None:
    known = Listeners(manager)
    wrong: Any = Silent("wrong")
    wrong.response = "no function"
    manager.add(outer := Addon("outer", wrong, Addon("never")), last := Addon("last"))
    [[first, error], [other]] = known.of("response")
    assert (first.addon, other.addon) == (outer, last)
    for _ in range(3):
        with pytest.raises(AddonManagerError, match=r"response .* not callable") as raised:
            error.call(None)
        assert len(raised.traceback) == 2  # It does not grow.


class Broken(Silent):
    @property
    def response(self) -> object:
        raise ZeroDivisionError

    @property
    def addons(self) -> list[object]:
        raise ZeroDivisionError


def test_an_error_in_a_property_is_that_of_the_call(manager: AddonManager) -> None:
    known = Listeners(manager)
    manager.chain = [Addon("first"), Broken(), last := Addon("last")]
    for _ in range(2):
        [[_], [error], [_]] = known.of("response")
        with pytest.raises(ZeroDivisionError):
            error.call(None)
    last.addons = [Addon("inner")]
    assert [len(group) for group in known.of("response")] == [1, 1, 2]


class Late(Silent):
    """Sets its handler on itself."""

    def configure(self, updated: set[str]) -> None:
        self.response = lambda flow: None


def test_handlers_set_in_configure_are_found(manager: AddonManager) -> None:
    known = Listeners(manager)
    manager.add(late := Late())
    assert listed(known) == []
    manager.master.options.update(ssl_insecure=True)
    assert listed(known) == [[late]]


def test_handlers_set_at_any_other_time_are_found_a_second_later(
    manager: AddonManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(listeners, "OLDEST", 1.0)
    monkeypatch.setattr(listeners, "monotonic", lambda: now)
    known = Listeners(manager)
    manager.add(silent := Silent())
    assert listed(known) == []
    silent.response = lambda flow: None  # type: ignore[attr-defined]
    now += 1.0
    assert listed(known) == [[silent]]
    del silent.response  # type: ignore[attr-defined]
    known.forget()
    assert listed(known) == []


def test_the_table_is_made_once(manager: AddonManager) -> None:
    known = Listeners(manager)
    manager.add(Addon("outer", Addon("inner")))
    assert known.of("response") is known.of("response")


# -- others than ours


class Reader(Silent):
    def websocket_message(self, flow: object) -> None:
        return


def test_only_others_count(manager: AddonManager) -> None:
    known = Listeners(manager)
    manager.add(Addon("outer", ours := Reader("ours")))
    assert not known.others("websocket_message", ours)
    assert known.others("websocket_message", None)
    manager.add(theirs := Reader("theirs"))
    assert known.others("websocket_message", ours)
    manager.remove(theirs)
    assert not known.others("websocket_message", ours)


class View(Silent):
    def update(self, flows: object) -> None:
        return


def test_an_addon_that_hears_of_updates_counts(manager: AddonManager) -> None:
    known = Listeners(manager)
    manager.add(view := View("view"))
    assert known.others("websocket_message", None)
    assert not known.others("websocket_message", view)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, False),
        ({"flow_detail": 0, "dumper_filter": "~all"}, False),
        ({"flow_detail": 1, "dumper_filter": "~websocket"}, True),
        ({"flow_detail": 2}, True),
    ],
)
def test_the_dumper_counts_if_it_prints_more_than_a_line(
    manager: AddonManager, options: dict[str, Any], counts: bool
) -> None:
    known = Listeners(manager)
    manager.add(Dumper())
    assert not known.others("websocket_message", None)
    manager.master.options.update(**options)
    assert known.others("websocket_message", None) is counts


def test_a_subclass_of_theirs_counts(manager: AddonManager) -> None:
    class Dump(Dumper):
        pass

    known = Listeners(manager)
    manager.add(Dump())
    assert known.others("websocket_message", None)


def test_the_dumper_is_the_only_addon_of_mitmdump_with_that_handler() -> None:
    """Another one would need a rule of its own, or messages would never take the fast path."""
    assert [type(one) for one in [*default_addons(), Dumper()] if hasattr(one, "websocket_message")] == [Dumper]
