"""mitmproxy's masters with a table of handlers. mitmproxy itself searches all addons for every hook.

Options, addons, commands and arguments are mitmproxy's own. It also calls the hooks in `WALKED` itself.
"""

from __future__ import annotations

import errno
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


class AddressInUseError(Exception):
    """mitmproxy cannot listen, because others have its ``addresses`` (hosts and ports).

    ``option`` is the beginning of the argument that sets another port.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], option: str) -> None:
        super().__init__("address in use")
        self.addresses, self.option = addresses, option


class _Master:
    """Makes a master of mitmproxy use our manager, and has some more addons."""

    more: Sequence[object] = ()
    made: Any = None
    """The one that was made last."""
    was_interrupted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        type(self).made = self
        self.addons.add(*self.more)  # type: ignore[no-untyped-call]

    @property
    def addons(self) -> Manager:
        return self._addons

    @addons.setter
    def addons(self, plain: addonmanager.AddonManager) -> None:
        self._addons = Manager(self)


def master(tool: str, more: Sequence[object] = ()) -> type[Any]:
    """Replace the master of one of mitmproxy's commands with one that has our manager, and return it."""
    module, name = import_module(MASTERS[tool][0]), MASTERS[tool][1]
    base = getattr(module, name)
    # Ctrl-C calls this, if there is one: mitmproxy's own window asks first.
    own = {} if hasattr(base, "prompt_for_exit") else {"prompt_for_exit": _interrupt}
    made = type(name, (_Master, base), {"more": more, **own})
    setattr(module, name, made)
    return made


def _interrupt(master: Any) -> None:
    type(master).was_interrupted = True
    master.shutdown()


def run(tool: str, arguments: Sequence[str], more: Sequence[object] = ()) -> bool:
    """Run one of mitmproxy's commands, with ``more`` addons, until it ends. Return whether Ctrl-C ended it.

    Raises AddressInUseError.
    """
    cls = master(tool, more)
    sys.argv = [tool, *arguments]  # for mitmproxy's usage and errors
    try:
        getattr(main, tool)(arguments)
    except SystemExit:
        if taken := _taken(cls.made):
            raise AddressInUseError(taken, "-p ") from None
        raise
    except OSError as error:  # mitmweb cannot listen for its own page.
        if error.errno != errno.EADDRINUSE or tool != "mitmweb":
            raise
        options = cls.made.options
        raise AddressInUseError([(options.web_host, options.web_port)], "--set web_port=") from None
    return bool(cls.was_interrupted)


def _taken(made: Any) -> list[tuple[str, int]]:
    """Return the addresses at which a master failed to listen because another program does."""
    proxyserver = made.addons.get("proxyserver") if made is not None else None
    return [
        (one.mode.listen_host(made.options.listen_host), one.mode.listen_port(made.options.listen_port))
        for one in (proxyserver.servers if proxyserver is not None else ())
        if getattr(one.last_exception, "errno", 0) == errno.EADDRINUSE
    ]
