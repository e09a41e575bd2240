"""The mitmproxy addon: its options and hooks. All decisions are made elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mitmproxy import command, ctx, exceptions, flow, http, types, version
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.tls import ClientHelloData, TlsData

from codexpool.common.tasks import Tasks
from codexpool.config.files import Places, Watcher, places
from codexpool.config.model import Access, ConfigError, Intercept, PoolConfig
from codexpool.config.read import load_or_empty
from codexpool.proxy import content_view, probe, proxy_user
from codexpool.proxy.find_keys import hide_key
from codexpool.proxy.flows import Closed
from codexpool.proxy.handler import Handler, NoPool, Setup
from codexpool.proxy.mitm import json_log, options, reloading
from codexpool.proxy.mitm.authorities import Authorities
from codexpool.proxy.mitm.garbage import exempt_all_objects, free_exempt_objects
from codexpool.proxy.mitm.listeners import Listeners
from codexpool.proxy.mitm.shutdown import REASON, Shutdown
from codexpool.proxy.observe.handler import ObserveHandler
from codexpool.proxy.serving import SwapHandler
from codexpool.proxy.telemetry import Telemetry
from codexpool.proxy.tunnels import UndecidedError
from codexpool.proxy.versions import connections, resend, support, tls_sessions
from codexpool.redaction import redact_logs
from codexpool.state import StateError
from codexpool.state.location import named_location
from codexpool.traces.history import History
from codexpool.upkeep.pool_finder import PoolFinder
from codexpool.web.site import is_here

logger = logging.getLogger("codexpool")


OPTIONS = (
    (
        "codexpool_config",
        "",
        "The pool.toml to use. Default: $CODEXPOOL_CONFIG, then config/pool.toml beside the addon, then "
        "codexpool/pool.toml in the user's configuration folder.",
    ),
    (
        "codexpool_observe",
        "false",
        "true: change no request. Requests keep the client's own credential, and the log says what would be done.",
    ),
    (
        "codexpool_events",
        "",
        "Append each request and each change of an identity to this file, as a line of JSON (docs/events.md). It "
        "contains no secrets and no bodies, and may be renamed at any time.",
    ),
    (json_log.OPTION, json_log.DEFAULT, json_log.HELP),
    (
        "codexpool_record",
        "",
        "Write a recording to share: a HAR file if the name ends in .har, else a flow file. It contains no bodies, "
        "and pseudonyms for private values. It is complete once the proxy has ended.",
    ),
    (
        "codexpool_record_all_hosts",
        "false",
        "true: record requests to all hosts, not only to those of Codex.",
    ),
)
"""Name, default and help of each option. All are strings: mitmproxy silently drops an addon with a number or switch
that it cannot parse."""

HOSTS_AWAITED = 1.0
"""Seconds a new tunnel waits, just after the start, for the hosts of identities to be known."""


class Codexpool:
    """Hands each flow to a handler (see `codexpool.proxy.handler`), and its exceptions too."""

    def __init__(self, entry: Path | None, reloaded: bool) -> None:
        self.name = "codexpool"
        self.reloaded = reloaded
        self.entry = entry
        self.support = support(version.VERSION)
        self.shutdown = Shutdown(self._leave, lambda: self.handler.open_sockets)
        self.history = History()
        self.handler: Handler = SwapHandler(self.history)
        self.finder = PoolFinder(lambda: self.places, self._path_in_use, self._use)
        self._finding = Tasks()
        self.telemetry = Telemetry(self.handler, self.finder, self.shutdown, self.history, reloaded)
        self.is_running = False
        self.config: PoolConfig | None = None
        self.watcher = Watcher([])
        self.refused = ""
        self.places = Places(())

    def load(self, loader: Loader) -> None:
        if self.support.refusal:
            sys.exit(f"codexpool: {self.support.refusal}")
        for name, default, help_text in OPTIONS:
            if options.given_twice(name):
                sys.exit(f"codexpool: {name} is set twice; use --set {name}=… once")
            loader.add_option(name, str, default, help_text)
        content_view.add_view()
        self._undo_redaction = redact_logs()
        self._undo_logs = json_log.log_as("")
        try:
            options.set_defaults(os.environ)
        except exceptions.OptionsError as error:
            sys.exit(f"codexpool: {error}")
        self.listeners = Listeners(ctx.master.addons)
        resend.install(self.handler, self._are_messages_heard)
        self.tls_sessions = tls_sessions.TlsSessions(lambda: self.handler.hosts)
        tls_sessions.install(self.tls_sessions, Authorities(os.environ))
        options.warn_of_modes()
        if self.support.notice:
            logger.warning("%s", self.support.notice)

    def configure(self, updated: set[str]) -> None:
        try:
            if json_log.OPTION in updated:
                self._undo_logs()
                self._undo_logs = json_log.log_as(getattr(ctx.options, json_log.OPTION))
            options.refuse_unfit(self.support.loopback_only)
            named_location(os.environ)
            if "codexpool_observe" in updated:
                self._observe(options.is_on("codexpool_observe"))
            if "codexpool_config" in updated:
                self.places = places(ctx.options.codexpool_config or None, os.environ, self.entry)
                path = self.places.find() or (self.places.new if self.places.named_by else None)
                self.watcher = Watcher([path] if path is not None else [])  # before loading: no change is missed
                self.config = load_or_empty(path) if path is not None else None
            self._check(self.config)
            self.telemetry.configure(updated)
            self._guard()
        except (ConfigError, StateError, exceptions.OptionsError) as error:
            self._refuse(str(error))
        else:
            if "codexpool_config" in updated and self.is_running:
                self._start()

    def _check(self, config: PoolConfig | None) -> None:
        """Raise OptionsError if mitmproxy's options do not allow serving this pool."""
        if config is not None:
            self.handler.check_options(config)
            if config.access is Access.ANYONE:
                options.refuse_anyone()

    def _guard(self) -> None:
        """Tell the gate who can reach the proxy."""
        gate = self.handler.gate
        gate.on_loopback, gate.lets_all = options.is_for_this_machine(), bool(ctx.options.proxyauth)

    def running(self) -> None:
        self._guard()
        if not self.is_running and not self.reloaded:
            exempt_all_objects()
            options.warn_of_open_dump()
        self.is_running = True
        if self.entry is not None:  # Not in `load`: a refusal to start, in a watch that is replaced, has a traceback.
            reloading.take_over(self.entry)
        self._start()
        options.warn_of_unknown("codexpool_")
        self.telemetry.running()
        self.shutdown.running()

    def _start(self) -> None:
        """Serve the pool as it is set up, and look for another pool.toml to use."""
        self.handler.start(self._setup(), self.watcher)
        self._finding.stop()
        self._finding = Tasks()
        if not self.refused:
            self._finding.spawn(self.finder.run())

    def _setup(self) -> Setup:
        if self.refused:
            return Closed(self.refused)
        return self.config or NoPool(str(self.places))

    def _path_in_use(self) -> Path | None:
        if self.config is None or (self.config.is_missing and self.handler.observes):
            return None  # A serving pool follows its file by itself, also one that is still missing.
        return self.config.path

    def _use(self, config: PoolConfig, watcher: Watcher) -> None:
        """Serve another pool from now on. Raises ValueError if mitmproxy's options do not allow that."""
        try:
            self._check(config)
        except exceptions.OptionsError as error:
            raise ValueError(str(error)) from None
        self.config, self.watcher = config, watcher
        self.handler.start(config, watcher)

    def _leave(self) -> None:
        """Leave commands and clients to the proxy's successor."""
        self.telemetry.withdraw()
        self.handler.end_sockets()

    def _observe(self, observes: bool) -> None:
        """Choose the handler; possible only before the proxy runs."""
        if observes == self.handler.observes:
            return
        if self.is_running:
            raise exceptions.OptionsError("codexpool_observe cannot be changed while the proxy runs: restart it")
        self.handler = ObserveHandler(self.history) if observes else SwapHandler(self.history)
        self.telemetry.view = self.handler
        resend.install(self.handler, self._are_messages_heard)

    def _are_messages_heard(self) -> bool:
        """Return whether another addon has hooks for WebSocket messages."""
        return self.listeners.others("websocket_message", self)

    def _refuse(self, reason: str) -> None:
        """Refuse to start; while running, refuse the change; after a reload, refuse requests to swap."""
        if self.is_running:
            raise exceptions.OptionsError(reason)
        if not self.reloaded:
            # mitmproxy would print an OptionsError with a traceback.
            sys.exit("\n".join(f"codexpool: {line}" for line in reason.splitlines()))
        self.refused = reason
        logger.error("codexpool refuses to serve: %s. Fix it, then restart the proxy", reason)

    def done(self) -> None:
        self._finding.stop()
        self.shutdown.done()
        # If a reload fails, mitmproxy has no addon, but streams that still ask this handler: it goes on refusing
        # requests that must not leave with the client's credential, until the next `load` replaces it.
        self.handler.stop("codexpool is no longer loaded; restart the proxy")
        self.telemetry.done()
        free_exempt_objects()
        self._undo_logs()
        self._undo_redaction()

    @command.command("codexpool.headers")  # type: ignore[untyped-decorator]
    def headers(self, flows: Sequence[flow.Flow]) -> types.Data:
        """Show what the client sent, what went upstream, and what was done to each header."""
        return content_view.headers_of(flows)

    # -- hooks

    def socks5_auth(self, data: proxy_user.SocksUser) -> None:
        proxy_user.signs_in(data)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        proxy_user.connects(flow)
        options.hide_password(flow)
        self.handler.tunnels.asked(flow.server_conn, flow.request.host)
        if flow.response is None and is_here(flow.request.host, flow.request.port):
            flow.response = http.Response.make(200)  # Otherwise mitmproxy would look for that host.
            return
        if flow.response is None and (why := self._refusal(flow.client_conn, flow.request.host, flow.request.port)):
            flow.response = http.Response.make(403, why, {"content-type": "text/plain; charset=utf-8"})
        probe.connects(flow)

    def tls_clienthello(self, data: ClientHelloData) -> None:
        address = data.context.server.address
        if probe.is_marked(data.context.client) or (address is not None and is_here(*address[:2])):
            data.establish_server_tls_first = False  # There is no server.
            raise exceptions.AddonHalt  # mitmproxy's own hook comes later, and would set it.

    def server_connect(self, data: ServerConnectionHookData) -> None:
        if probe.is_marked(data.client):
            data.server.error = probe.REACHES_NOTHING
            return
        address = data.server.address
        if address is None or address[:2] in options.upstreams():
            return  # A request for an upstream proxy was checked when it came.
        asked = self.handler.tunnels.opens(data.server, address[0])
        if why := self._refusal(data.client, asked, address[1]):
            data.server.error = why

    def client_connected(self, client: Client) -> None:
        connections.close_well(ctx.master.addons.get("proxyserver"), client)

    def server_connected(self, data: ServerConnectionHookData) -> None:
        connections.hear(ctx.master.addons.get("proxyserver"), data)

    def server_disconnected(self, data: ServerConnectionHookData) -> None:
        self.tls_sessions.let_go()

    def tls_established_server(self, data: TlsData) -> None:
        self.tls_sessions.keep(data)

    async def next_layer(self, asked: NextLayer) -> None:
        address = asked.context.server.address
        if address is not None and is_here(*address[:2]):
            return
        try:
            if not self.handler.tunnels.is_known(asked.context):
                await self.handler.hosts_known(HOSTS_AWAITED)
            if self.handler.config is not None:
                options.read_too(self.handler.hosts)
            self.handler.tunnels.pass_through(asked, self._reads_all())
        except UndecidedError:
            raise exceptions.AddonHalt from None  # or mitmproxy would decide now, and intercept

    def _reads_all(self) -> bool:
        """Return whether to intercept tunnels to hosts other than the pool's, too."""
        config = self.handler.config
        is_configured = config is not None and config.intercept is Intercept.ALL
        return is_configured or options.is_on("codexpool_record_all_hosts") or bool(ctx.options.allow_hosts)

    def _refusal(self, client: Client, to_host: str, port: int) -> str:
        try:
            return self.handler.refusal(client, to_host, port)
        except Exception as error:
            logger.exception("checking the destination of a connection failed")
            return f"codexpool: checking the destination failed ({type(error).__name__})"

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if options.is_stored(flow):
            return
        proxy_user.asks(flow)
        options.hide_password(flow)
        self.handler.tunnels.name(flow)
        if flow.response or flow.error or not flow.live:
            hide_key(flow)  # It goes no further, but a dump may have it.
            return
        is_of_page = self.telemetry.site.has(flow)
        if is_of_page or probe.is_marked(flow.client_conn):
            # Strangers may ask, and mitmproxy keeps a body in memory. (A browser may ask for the page over HTTP/2.)
            if not (probe.is_readable(flow.request) or (is_of_page and flow.request.is_http2)):
                flow.kill()
            raise exceptions.AddonHalt
        if why := self._refusal(flow.client_conn, flow.request.host, flow.request.port):
            hide_key(flow)
            flow.response = http.Response.make(403, why, {"content-type": "text/plain; charset=utf-8"})
            return
        self.shutdown.track(flow)
        try:
            if self.shutdown.has_begun and self.handler.turns_away(flow, REASON):
                return
            self.handler.open(flow)
        except Exception as error:
            self.handler.fail(flow, error, "reading the request")

    async def request(self, flow: http.HTTPFlow) -> None:
        if self.telemetry.site.has(flow) and flow.response is None and not options.is_stored(flow):
            await self.telemetry.site.answer(flow)
        if probe.is_marked(flow.client_conn) and flow.response is None and not options.is_stored(flow):
            flow.response = self._probed(flow)
        if not self._is_traffic(flow) or flow.response or flow.error or not flow.live:
            return
        try:
            await self.handler.assign(flow)
        except Exception as error:
            self.handler.fail(flow, error, "finding an identity")

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if not self._is_traffic(flow):
            return
        try:
            self.handler.headers_came(flow)
        except Exception as error:
            self.handler.fail(flow, error, "reading the answer")
        self.shutdown.close_after(flow)

    async def response(self, flow: http.HTTPFlow) -> None:
        if not self._is_traffic(flow):
            return
        options.hide_upstream_auth(flow)
        try:
            await self.handler.judge(flow)
        except Exception as error:
            self.handler.fail(flow, error, "judging the answer")
        self.shutdown.close_after(flow)
        if self.handler.finish(flow):
            self.telemetry.over(flow)

    async def error(self, flow: http.HTTPFlow) -> None:
        if not self._is_traffic(flow):
            return
        options.hide_upstream_auth(flow)
        try:
            await self.handler.judge_loss(flow)
        except Exception as error:
            self.handler.fail(flow, error, "judging a lost connection")
        if self.handler.finish(flow):
            self.telemetry.over(flow)

    def _probed(self, flow: http.HTTPFlow) -> http.Response:
        try:
            outlook = self.handler.dry_run(flow)
        except Exception as error:
            logger.exception("answering a probe failed")
            outlook = probe.Outlook(status=503, reason=f"codexpool: answering failed ({type(error).__name__})")
        return probe.answer(flow.request, outlook)

    def _is_traffic(self, flow: http.HTTPFlow) -> bool:
        """Return False for a flow from a file. Raises AddonHalt for the page and probes: other addons skip them."""
        if options.is_stored(flow):
            return False
        if self.telemetry.site.has(flow) or probe.is_marked(flow.client_conn):
            raise exceptions.AddonHalt
        return True

    def websocket_start(self, flow: http.HTTPFlow) -> None:
        if not options.is_stored(flow):
            self.handler.socket_opened(flow)

    async def websocket_message(self, flow: http.HTTPFlow) -> None:
        if not options.is_stored(flow):
            await self.handler.message(flow)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        if not options.is_stored(flow):
            self.handler.socket_closed(flow)
            self.telemetry.over(flow)
