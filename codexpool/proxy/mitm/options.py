"""mitmproxy's own options: which defaults are ours, and which settings we refuse."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Any, Final

from mitmproxy import ctx, exceptions, http, optmanager
from mitmproxy.connection import Server
from mitmproxy.proxy import mode_specs, server

from codexpool.common.addresses import is_loopback
from codexpool.credentials.http_client import Route, proxy_url
from codexpool.protocol.hosts import CODEX, PAGE, is_codex

logger = logging.getLogger("codexpool")

LOOPBACK: Final = "127.0.0.1"

SILENCE: Final = 3900
"""Seconds without a byte after which a connection is given up. Codex keeps a silent WebSocket for an hour."""

DEFAULTS: Final = {
    # mitmproxy listens on all addresses; a pool of other people's credentials does not.
    "listen_host": LOOPBACK,
    # 600 would end silent streams and idle WebSockets in the middle of a session.
    "tcp_timeout": SILENCE,
    # Over HTTP/2 a GOAWAY cuts streams in flight, and an abrupt close can leave requests hanging.
    "http2": False,
}
"""What holds unless the user has set the option."""


def set_defaults() -> None:
    """Put our defaults in place of mitmproxy's."""
    ours = {name: value for name, value in DEFAULTS.items() if name in ctx.options and not is_set_by_user(name)}
    ctx.options.update(**ours)
    if "tcp_timeout" not in ctx.options and hasattr(server, "TCP_TIMEOUT"):  # an option since mitmproxy 12.2.1
        server.TCP_TIMEOUT = SILENCE
    if "listen_host" in ours and (proxyserver := ctx.master.addons.get("proxyserver")) is not None:
        task = asyncio.get_running_loop().create_task(_listen_anew(proxyserver))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Task[None]] = set()
"""The event loop itself holds its tasks weakly only."""


async def _listen_anew(proxyserver: Any) -> None:
    """Have mitmproxy, which may have begun to listen before it loads a script, do so once more where we want it."""
    await proxyserver.setup_servers()  # does nothing but wait, if that is under way
    addresses = proxyserver.listen_addrs()
    if all(is_loopback(address[0]) for address in addresses):
        return
    if ctx.options.listen_port == 0:
        ctx.options.update(listen_port=addresses[0][1])
    await proxyserver.servers.update([])
    await proxyserver.setup_servers()


def is_stored(flow: http.HTTPFlow) -> bool:
    """Whether a flow was read from a file: mitmproxy then runs the hooks for it, and nobody is connected.

    (One that another addon has killed is not live either, but its client is there.)
    """
    if flow.live:
        return False  # Nearly every flow, and each message of a WebSocket, gets no further.
    return flow.client_conn.id not in getattr(ctx.master.addons.get("proxyserver"), "connections", {})


def hide_password(flow: http.HTTPFlow) -> None:
    """mitmproxy's `proxyauth` leaves user and password in every flow's metadata, which is written into dumps."""
    given = flow.metadata.get("proxyauth")
    if given is not None and len(given) == 2:
        flow.metadata["proxyauth"] = (given[0], HIDDEN)


HIDDEN: Final = "<codexpool: not recorded>"


def note_pool() -> None:
    """There is a pool in this process, whatever a reload finds later."""
    setattr(ctx.master, _POOL, True)


def had_a_pool() -> bool:
    """Whether there was one: then nothing may pass as if there had never been any."""
    return bool(getattr(ctx.master, _POOL, False))


_POOL: Final = "codexpool_had_a_pool"
"""What outlives a reload of this package is mitmproxy's own."""

NAMELESS: Final = frozenset({"transparent", "local", "wireguard"})
"""Modes in which a request has an address, and perhaps no host name."""


NETWORKS: Final = frozenset({"tun"})
"""Modes in which others may reach the proxy though it listens on no address."""


def warn_of_modes() -> None:
    """Say where requests have no host name to go by."""
    nameless = NAMELESS & {mode_specs.ProxyMode.parse(mode).type_name for mode in ctx.options.mode}
    if nameless:
        logger.warning(
            "mode %s: connections have an address only. One is taken for the backend's by the name in TLS, and "
            "without such a name it passes untouched. Mode regular is what codexpool was made for",
            ", ".join(sorted(nameless)),
        )


def is_on(name: str) -> bool:
    """Whether a switch among our options is on. Raises OptionsError for what is neither ``true`` nor ``false``.

    (mitmproxy would take a switch that it cannot read for a reason to go on without the addon, and say nothing.)
    """
    said: str = getattr(ctx.options, name)
    if said.lower() not in ("true", "false", ""):
        raise exceptions.OptionsError(f"{name} is {said!r}; say --set {name}=true, or leave it out")
    return said.lower() == "true"


def given_twice(name: str) -> bool:
    """Whether an option of ours stands on the command line more than once.

    mitmproxy would refuse that after `load`, without a word, and go on without the addon (its issue 8013).
    """
    deferred = ctx.options.deferred.get(name)
    return len(getattr(deferred, "val", ())) > 1


def refuse_unfit(loopback_only: bool) -> None:
    """Raise OptionsError for settings with which requests could not be sent, or not be sent safely."""
    if ctx.options.stream_large_bodies:
        raise exceptions.OptionsError(
            "codexpool cannot work with stream_large_bodies: a body that has passed by cannot be sent again under "
            "another identity. Take the option away; answers are streamed all the same"
        )
    if loopback_only:
        _refuse_others(_listen_hosts())


UNFIT_FOR_A_POOL: Final = (
    ("websocket", False, "member keys, limits and turns on WebSockets would go unseen"),
    ("validate_inbound_headers", False, "a header such as 'Authorization : …' would leave beside the identity's own"),
    ("proxy_debug", True, "the log would hold the tokens of the pool, in forms that cannot be hidden"),
)
"""Options of mitmproxy, the value with which no pool can be served safely, and why."""


def refuse_unfit_for_a_pool(hosts: Iterable[str]) -> None:
    """Raise OptionsError for settings with which a pool's requests could not be sent safely; ``hosts`` have to be
    read."""
    for name, value, why in UNFIT_FOR_A_POOL:
        if name in ctx.options and getattr(ctx.options, name) is value:
            said = "true" if value else "false"
            raise exceptions.OptionsError(f"codexpool cannot serve a pool with {name}={said}: {why}. Take it away")
    for host in hosts:
        for name, shown in (("ignore_hosts", f"{host}:443"), ("tcp_hosts", host)):
            if any(re.search(pattern, shown, re.IGNORECASE) for pattern in getattr(ctx.options, name)):
                raise exceptions.OptionsError(
                    f"{name} has mitmproxy pass {host} through: nothing would be swapped there, and member keys "
                    f"would leave. Take {host} out of {name}"
                )


def read_too(hosts: Iterable[str]) -> None:
    """Where the user has named the hosts to intercept (`allow_hosts`), add ours: nothing could be swapped there."""
    patterns: list[str] = list(ctx.options.allow_hosts)
    if not patterns:
        return
    more = [CODEX_PATTERN, *(rf"^{re.escape(host)}:\d+$" for host in hosts if not is_codex(host))]
    if missing := [pattern for pattern in more if pattern not in patterns]:
        ctx.options.update(allow_hosts=[*patterns, *missing])


CODEX_PATTERN: Final = rf"^(.+\.)?({'|'.join(map(re.escape, (*CODEX, PAGE)))}):\d+$"
"""What mitmproxy matches the hosts of Codex's backend by, with their ports."""


def _refuse_others(hosts: Iterable[str]) -> None:
    if type(ctx.master).__name__ == "WebMaster":
        raise exceptions.OptionsError(
            "codexpool does not run under this version's mitmweb, whose API can be reached through the proxy "
            "(CVE-2025-23217). Use mitmdump or mitmproxy, or a newer mitmproxy: uv python install 3.13"
        )
    for host in hosts:
        if not is_loopback(host):
            raise exceptions.OptionsError(
                f"codexpool serves only loopback clients on this version of mitmproxy, not {host or 'all addresses'} "
                "(GHSA-847f-9342-265h). Take listen_host away, or use a newer mitmproxy: uv python install 3.13"
            )


def _listen_hosts() -> list[str]:
    return [mode_specs.ProxyMode.parse(mode).listen_host(ctx.options.listen_host) for mode in ctx.options.mode]


def is_for_this_machine() -> bool:
    """Whether only this machine can reach the proxy."""
    return not _networks() and all(map(is_loopback, _listen_hosts()))


def _networks() -> frozenset[str]:
    return NETWORKS & {mode_specs.ProxyMode.parse(mode).type_name for mode in ctx.options.mode}


def has_passwords() -> bool:
    """Whether mitmproxy itself asks who somebody is."""
    return bool(ctx.options.proxyauth)


def refuse_anyone() -> None:
    """Raise OptionsError where the pool would be for whoever is on the network."""
    if not is_for_this_machine():
        addresses = dict.fromkeys(host or "all addresses" for host in _listen_hosts() if not is_loopback(host))
        where = ", ".join([*addresses, *(f"mode {mode}" for mode in _networks())])
        raise exceptions.OptionsError(
            f'pool.toml says access = "anyone", and the proxy listens on {where}: whoever can reach it would speak '
            'as your identities. Say access = "members" (codexpool member add NAME), or have it listen on 127.0.0.1'
        )


def is_own_connection(address: tuple[object, ...]) -> bool:
    """Whether a client's address is the near end of a connection that this proxy itself has made.

    Then it speaks for whoever asked for that connection, and that may be another machine.
    """
    connections = getattr(ctx.master.addons.get("proxyserver"), "connections", None)
    handlers = connections.values() if isinstance(connections, dict) else connections or ()
    servers = (one for handler in list(handlers) for one in list(handler.transports) if isinstance(one, Server))
    return any(server.sockname is not None and server.sockname[1] == address[1] for server in servers)


def upstreams() -> set[tuple[str, int]]:
    """The proxies behind this one."""
    specs = (mode_specs.ProxyMode.parse(mode) for mode in ctx.options.mode)
    return {spec.address[:2] for spec in specs if isinstance(spec, mode_specs.UpstreamMode)}


def own_route() -> Route:
    """How requests of our own reach the backend: as the proxy's connections do."""
    proxy = None
    for mode in ctx.options.mode:
        spec = mode_specs.ProxyMode.parse(mode)
        if isinstance(spec, mode_specs.UpstreamMode):
            proxy = proxy_url(spec.scheme, *spec.address[:2], ctx.options.upstream_auth or "")
    trusted = ctx.options.ssl_verify_upstream_trusted_ca or ctx.options.ssl_verify_upstream_trusted_confdir
    return Route(proxy, trusted, ctx.options.ssl_insecure)


def is_set_by_user(name: str) -> bool:
    """Whether an option of mitmproxy is the user's own word."""
    # `has_changed` would take `--set http2=true` for our chance to say false: it only compares with the default.
    option: Any = ctx.options._options[name]
    return option.value is not optmanager.unset
