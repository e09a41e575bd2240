"""The mitmproxy addon: options and hooks. It decides nothing itself."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from pathlib import Path

from mitmproxy import ctx, exceptions, http, version
from mitmproxy.addonmanager import Loader

from codexpool import host
from codexpool.config import ConfigError, PoolConfig, Watcher, find, load, places
from codexpool.exchanges import Exchanges
from codexpool.keeper import Keeper
from codexpool.redact import redact_logs
from codexpool.state import State, open_state, state_path
from codexpool.supported import resend, support

logger = logging.getLogger("codexpool")


def _open_state() -> State:
    return open_state(state_path(os.environ))


class Codexpool:
    """Sends each request for the Codex backend under an identity of the pool.

    The hooks are a few lines each: a flow goes to `Exchanges`, and an error of ours on the way never becomes a
    request that leaves as it came.
    """

    def __init__(self, entry: Path | None, reloaded: bool) -> None:
        self.name = "codexpool"
        self.reloaded = reloaded
        self.entry = entry
        self.support = support(version.VERSION)
        self.exchanges = Exchanges(self.support.resends)
        self.config: PoolConfig | None = None
        self.watcher = Watcher([])
        self.refused = ""
        self.keeper: Keeper | None = None

    def load(self, loader: Loader) -> None:
        if host.given_twice("codexpool_config"):
            sys.exit("codexpool: codexpool_config is given twice; say --set codexpool_config=PATH once")
        loader.add_option(
            "codexpool_config",
            str,
            "",
            "The pool.toml to use. Without it CODEXPOOL_CONFIG is looked at, then config/pool.toml beside the addon, "
            "then codexpool/pool.toml in the user's configuration folder.",
        )
        self._undo_redaction = redact_logs()
        host.set_defaults()
        if self.support.resends and resend is not None:
            resend.install(self.exchanges)
        host.warn_of_modes()
        if self.support.notice:
            logger.warning("%s", self.support.notice)

    def configure(self, updated: set[str]) -> None:
        try:
            host.refuse_unfit(self.support.loopback_only)
            if "codexpool_config" in updated:
                path = find(ctx.options.codexpool_config or None, os.environ, self.entry)
                self.watcher = Watcher([path] if path is not None else [])  # first: no change is lost
                self.config = load(path) if path is not None else None
        except (ConfigError, exceptions.OptionsError) as error:
            self._refuse(str(error))
        else:
            if "codexpool_config" in updated and self.keeper is not None:
                self.running()

    def running(self) -> None:
        self._stop()
        if self.refused:
            self.exchanges.closed = self.refused
        elif self.config is None and host.had_a_pool():
            self.exchanges.closed = "there was a pool, and no pool.toml is found any more; the proxy's log says where"
            logger.error("no pool.toml is found any more: %s", ", ".join(places(self.entry)))
        elif self.config is None:
            self.exchanges.closed = ""
            logger.warning(
                "no pool.toml was found, and nothing is swapped. Looked at: %s. Make one (codexpool add NAME, or "
                "after config/pool.example.toml), and start again",
                ", ".join(places(self.entry)),
            )
        else:
            host.note_pool()
            self.keeper = Keeper(_open_state, os.environ, host.own_route())
            self.keeper.on_change = partial(self.exchanges.sockets.changed, self.keeper)
            self.keeper.start(self.config, self.watcher)
            self.exchanges.keeper = self.keeper

    def _refuse(self, reason: str) -> None:
        """Do not start. While running: do not take a change over. After a reload: refuse what is to be swapped."""
        if self.keeper is not None:
            raise exceptions.OptionsError(reason)
        if not self.reloaded:
            # An OptionsError in `configure` would be printed with a traceback around it.
            sys.exit("\n".join(f"codexpool: {line}" for line in reason.splitlines()))
        self.refused = reason
        logger.error("codexpool refuses to serve: %s. Mend it, and touch the entry file or restart", reason)

    def done(self) -> None:
        # A reload that fails leaves mitmproxy without this addon, but with its streams: they go on refusing what
        # must not leave undressed, until a next `load` installs others.
        self.exchanges.closed = "codexpool is not loaded any more; restart the proxy"
        self.exchanges.undress_all()
        self._stop()
        self._undo_redaction()

    def _stop(self) -> None:
        self.exchanges.keeper = None
        if self.keeper is not None:
            self.keeper.stop()
            self.keeper = None

    # -- hooks

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        host.hide_password(flow)
        if flow.response or flow.error or not flow.live:
            return
        try:
            self.exchanges.open(flow)
        except Exception as error:
            self.exchanges.fail(flow, error, "reading the request")

    async def request(self, flow: http.HTTPFlow) -> None:
        if flow.response or flow.error or not flow.live:
            return
        try:
            await self.exchanges.assign(flow)
        except Exception as error:
            self.exchanges.fail(flow, error, "finding an identity")

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        try:
            self.exchanges.headers_came(flow)
        except Exception as error:
            self.exchanges.fail(flow, error, "reading the answer")

    async def response(self, flow: http.HTTPFlow) -> None:
        try:
            await self.exchanges.judge(flow)
        except Exception as error:
            self.exchanges.fail(flow, error, "judging the answer")

    async def error(self, flow: http.HTTPFlow) -> None:
        try:
            await self.exchanges.judge_loss(flow)
        except Exception as error:
            self.exchanges.fail(flow, error, "judging a lost connection")

    def websocket_start(self, flow: http.HTTPFlow) -> None:
        self.exchanges.socket_opened(flow)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        self.exchanges.message_came(flow)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        self.exchanges.socket_closed(flow)
