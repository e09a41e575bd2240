"""Our manager of addons does what mitmproxy's does: the same calls in the same order, the same log and errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, cast
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import hooks, http, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.exceptions import AddonHalt, AddonManagerError, OptionsError
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook, HttpResponseHook
from mitmproxy.test import tflow
from mitmproxy.tools import dump

from codexpool.proxy.mitm.master import MASTERS, Manager
from codexpool.proxy.mitm.master import master as mitmproxys_master

Kind = Literal[
    "none", "sync", "async", "waits", "raises", "raises later", "halts", "refuses", "text", "module", "awaitable"
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
CHANGES = ("add", "remove first", "remove last", "replace inner", "new list", "clear")
NAMES = ("request", "response", "update", "tick")


@dataclass
class TickHook(hooks.Hook):
    """A hook whose argument is no flow."""

    name = "tick"
    number: int


@dataclass
class Plan:
    """An addon to create: the kind of its handler for each hook, nested addons, and what its first call changes."""

    handlers: dict[str, Kind]
    inner: list[Plan] = field(default_factory=list)
    change: str = ""


class Master:
    """What a manager needs of a master."""

    def __init__(self) -> None:
        self.options = options.Options()
        self.commands = self

    def collect_commands(self, addon: object) -> None:
        return


class Addon:
    """An addon whose handlers record their calls."""

    def __init__(self, world: World, plan: Plan) -> None:
        world.made += 1
        self.name = f"addon{world.made}"
        self.world, self.plan = world, plan
        if plan.inner:
            self.addons = [Addon(world, inner) for inner in plan.inner]
        for hook, kind in plan.handlers.items():
            if kind != "none":
                setattr(self, hook, world.handler(self, hook, kind))

    def __repr__(self) -> str:
        return self.name


class World:
    """A manager, its addons, and the calls."""

    def __init__(self, manager: type[AddonManager], plans: list[Plan]) -> None:
        self.made = 0
        self.calls: list[str] = []
        self.manager = manager(Master())
        for plan in plans:
            self.manager.add(Addon(self, plan))

    def handler(self, addon: Addon, hook: str, kind: Kind) -> object:
        """Return a handler."""
        if kind == "text":
            return "no function"
        if kind == "module":
            return ModuleType(hook)

        def sync(subject: object) -> Any:
            self.calls.append(f"{addon}.{hook}({self.shown(subject)})")
            self.change(addon)
            if kind == "awaitable":
                done = asyncio.get_running_loop().create_future()
                done.set_result(None)
                return done
            if error := {"raises": ValueError, "halts": AddonHalt, "refuses": OptionsError}.get(kind):
                raise error(f"{addon} {kind}")
            return None

        async def waits(subject: object) -> None:
            sync(subject)
            if kind != "async":
                await asyncio.sleep(0)
                self.calls.append(f"{addon}.{hook} goes on")
            if kind == "raises later":
                raise ValueError(f"{addon} {kind}")

        return waits if kind in ("async", "waits", "raises later") else sync

    @staticmethod
    def shown(subject: object) -> str:
        return (
            "flow" if isinstance(subject, http.HTTPFlow) else "flows" if isinstance(subject, list) else str(subject)
        )

    def change(self, addon: Addon) -> None:
        """Apply the change of an addon, once."""
        what, addon.plan.change = addon.plan.change, ""
        if what:
            self.apply(what, addon)

    def apply(self, what: str, addon: Addon | None = None) -> None:
        """Change the addons."""
        chain = self.manager.chain
        new = Plan(dict.fromkeys(NAMES, "sync"))
        match what:
            case "add":
                self.manager.add(Addon(self, new))
            case "remove first" if chain:
                self.manager.remove(chain[0])
            case "remove last" if chain:
                self.manager.remove(chain[-1])
            case "replace inner":
                for top in chain:
                    if hasattr(top, "addons"):
                        self.manager.remove(top.addons[-1])
                        top.addons[-1] = self.manager.register(Addon(self, new))
            case "new list":
                for top in chain:
                    if hasattr(top, "addons"):
                        top.addons = [*top.addons, self.manager.register(Addon(self, new))]
            case "clear":
                self.manager.clear()
            case _:
                return
        self.calls.append(what)

    async def trigger(self, how: str) -> None:
        """Trigger a hook in one of the three ways, and record an error that it raises."""
        subject = tflow.tflow()
        way, _, name = how.partition(" ")
        event = {
            "request": HttpRequestHook(subject),
            "response": HttpResponseHook(subject),
            "update": hooks.UpdateHook([subject]),
            "tick": TickHook(1),
        }[name]
        try:
            match way:
                case "lifecycle":
                    await self.manager.handle_lifecycle(event)
                case "async":
                    await self.manager.trigger_event(event)
                case "sync":
                    self.manager.trigger(event)
        except (OptionsError, AddonManagerError) as error:
            self.calls.append(f"out: {error!r}")


plans: st.SearchStrategy[Plan] = st.recursive(
    st.builds(
        Plan,
        st.fixed_dictionaries({name: st.sampled_from(KINDS) for name in NAMES}),
        st.just([]),
        st.sampled_from(("", "", "", *CHANGES)),
    ),
    lambda inner: st.builds(
        Plan,
        st.fixed_dictionaries({name: st.sampled_from(KINDS) for name in NAMES}),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)
steps = st.lists(
    st.sampled_from([f"{way} {name}" for way in ("lifecycle", "async", "sync") for name in NAMES] + list(CHANGES)),
    max_size=8,
)


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what mitmproxy logs: the message, and the functions of the traceback."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trace = record.exc_info[2] if record.exc_info else None
            names = []
            while trace is not None:
                names.append(trace.tb_frame.f_code.co_name)
                trace = trace.tb_next
            if record.exc_info and isinstance(record.exc_info[1], AddonManagerError):
                names = []  # It was raised by the manager itself.
            lines.append(f"{record.levelname} {record.getMessage()} {names}")

    handler, logger = Lines(), logging.getLogger("mitmproxy.addonmanager")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


async def history(manager: type[AddonManager], make: Callable[[], list[Plan]], what: list[str]) -> list[str]:
    """Return all that happened to a manager."""
    world = World(manager, make())
    with logged() as lines:
        for step in what:
            if step in CHANGES:
                world.apply(step)
            else:
                await world.trigger(step)
            world.calls += lines
            lines.clear()
    return world.calls


def copied(plan: Plan) -> Plan:
    return Plan(dict(plan.handlers), [copied(inner) for inner in plan.inner], plan.change)


@given(st.lists(plans, max_size=4), steps)
@settings(deadline=None, max_examples=300)
def test_it_calls_what_mitmproxy_calls(trees: list[Plan], what: list[str]) -> None:
    def make() -> list[Plan]:
        return [copied(plan) for plan in trees]

    theirs = asyncio.run(history(AddonManager, make, what))
    ours = asyncio.run(history(cast(type[AddonManager], Manager), make, what))

    assert ours == theirs


@pytest.mark.parametrize("tool", MASTERS)
async def test_a_master_has_all_that_mitmproxys_has(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name = import_module(MASTERS[tool][0]), MASTERS[tool][1]
    plain = getattr(module, name)
    monkeypatch.setattr(module, name, plain)  # restores it
    made = mitmproxys_master(tool)
    assert getattr(module, name) is made
    assert (made.__name__, issubclass(made, plain)) == (name, True)

    theirs, ours = plain(options.Options()), made(options.Options())

    assert isinstance(ours.addons, Manager)
    assert ours.addons.master is ours
    assert list(map(type, ours.addons.chain)) == list(map(type, theirs.addons.chain))
    assert ours.addons.lookup.keys() == theirs.addons.lookup.keys()
    assert ours.options.keys() == theirs.options.keys()
    assert ours.commands.commands.keys() == theirs.commands.commands.keys()


async def test_an_option_that_an_addon_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "DumpMaster", dump.DumpMaster)
    made = mitmproxys_master("mitmdump")(options.Options())
    with pytest.raises(OptionsError, match="nonsense"):
        made.options.update(mode=["nonsense"])
    assert made.options.mode == ["regular"]


async def test_update_is_triggered_only_if_an_addon_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """mitmdump has no such addon, and would build the hook for each message."""
    manager = Manager(Master())
    built: list[object] = []
    monkeypatch.setattr(manager, "_trigger", AsyncMock(side_effect=lambda name, args: built.append(name)))
    hook = HttpRequestHook(tflow.tflow())
    await manager.handle_lifecycle(hook)
    assert built == ["request"]
    manager.chain.append(SimpleNamespace(update=print))
    await manager.handle_lifecycle(hook)
    assert built == ["request", "request", "update"]
