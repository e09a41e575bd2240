"""mitmproxy's masters with a table of handlers. mitmproxy itself searches all addons for every hook.

Options, addons, commands and arguments are mitmproxy's own. It also calls the hooks in `WALKED` itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import isawaitable
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from mitmproxy import addonmanager, flow, hooks
from mitmproxy.exceptions import AddonHalt, OptionsError
from mitmproxy.tools import main

from codexpool.proxy.mitm.listeners import UPDATE, Listener, Listeners, listening

MASTERS: Final = MappingProxyType(
    {
        "mitmdump": ("mitmproxy.tools.dump", "DumpMaster"),
        "mitmproxy": ("mitmproxy.tools.console.master", "ConsoleMaster"),
        "mitmweb": ("mitmproxy.tools.web.master", "WebMaster"),
    }
)
"""mitmproxy's commands, and where the master of each is."""

TOUCHED: Final = ("register", "remove", "clear", "handle_lifecycle", "trigger_event", "trigger")
if missing := [name for name in TOUCHED if not hasattr(addonmanager.AddonManager, name)]:
    raise ImportError(f"this mitmproxy's AddonManager lacks {', '.join(missing)}")

WALKED: Final = frozenset({"load", "configure", "running", "done"})
"""Hooks in which addons are added and removed, or set handlers on themselves: mitmproxy's search sees each change."""


class Manager(addonmanager.AddonManager):
    """mitmproxy's manager of addons, with a table of handlers."""

    def __init__(self, master: Any) -> None:
        super().__init__(master)  # type: ignore[no-untyped-call]
        self.listeners = Listeners(self)
        self._changes = 0  # of the addons

    def register(self, addon: Any) -> Any:
        self._changes += 1
        return super().register(addon)  # type: ignore[no-untyped-call]

    def remove(self, addon: Any) -> None:
        self._changes += 1
        super().remove(addon)  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        self._changes += 1
        super().clear()  # type: ignore[no-untyped-call]

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        args = event.args()
        await self._trigger(event.name, args)
        if isinstance(args[0], flow.Flow) and self.listeners.of(UPDATE):
            await self._trigger(UPDATE, [[args[0]]])

    async def trigger_event(self, event: hooks.Hook) -> None:
        if event.name not in WALKED:
            await self._trigger(event.name, event.args())
            return
        try:
            await super().trigger_event(event)
        finally:
            self.listeners.forget()

    def trigger(self, event: hooks.Hook) -> None:
        try:
            super().trigger(event)  # It is not on the path of a request.
        finally:
            if event.name in WALKED:
                self.listeners.forget()

    async def _trigger(self, name: str, args: Sequence[object]) -> None:
        for group in self._groups(name):
            try:
                for listener in group:
                    result = listener.call(*args)
                    if result is not None and isawaitable(result):
                        await result
            except AddonHalt:
                return
            except OptionsError:
                raise
            except Exception as error:
                _log(error)

    def _groups(self, name: str) -> Iterator[Iterator[Listener]]:
        """Yield the groups of a hook's handlers. If one of them changes addons, search the rest as mitmproxy does."""
        changes, chain = self._changes, self.chain
        for group in self.listeners.of(name):
            yield self._in_turn(group, name, changes)
            if self._changes != changes:
                for addon in islice(chain, group[0].place[0][1] + 1, None):
                    yield listening(addonmanager.traverse([addon]), name)
                return

    def _in_turn(self, group: Sequence[Listener], name: str, changes: int) -> Iterator[Listener]:
        for listener in group:
            yield listener
            if self._changes != changes:
                yield from listener.rest(name)
                return


def _log(error: Exception) -> None:
    """Log an addon's error as mitmproxy does: the traceback begins in the addon."""
    below = error.__traceback__ and error.__traceback__.tb_next
    addonmanager.logger.error(f"Addon error: {error}", exc_info=(type(error), error, below or error.__traceback__))


class _Master:
    """Makes a master of mitmproxy use our manager."""

    @property
    def addons(self) -> Manager:
        return self._addons

    @addons.setter
    def addons(self, plain: addonmanager.AddonManager) -> None:
        self._addons = Manager(self)


def master(tool: str) -> type[Any]:
    """Replace the master of one of mitmproxy's commands with one that has our manager, and return it."""
    module, name = import_module(MASTERS[tool][0]), MASTERS[tool][1]
    made = type(name, (_Master, getattr(module, name)), {})
    setattr(module, name, made)
    return made


def run(tool: str, arguments: Sequence[str]) -> None:
    """Run one of mitmproxy's commands until it ends."""
    master(tool)
    sys.argv = [tool, *arguments]  # for mitmproxy's usage and errors
    getattr(main, tool)(arguments)
