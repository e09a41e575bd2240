"""mitmproxy's own options: our defaults, and the settings we refuse."""

from __future__ import annotations

import base64
import difflib
import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from mitmproxy import ctx, exceptions, http, optmanager
from mitmproxy.connection import Server
from mitmproxy.proxy import mode_specs, server

from codexpool.common.addresses import is_loopback
from codexpool.common.private_files import OPEN_TO_OTHERS, closing
from codexpool.common.tasks import Tasks
from codexpool.config.model import one_line
from codexpool.credentials.http_client import Route
from codexpool.credentials.upstream_proxy import VARIABLE, UpstreamProxy, no_proxy, of_environ
from codexpool.protocol.hosts import CODEX, PAGE, is_codex

logger = logging.getLogger("codexpool")

# Seconds without a byte after which a connection is closed. Codex keeps a silent WebSocket for an hour.
SILENCE: Final = 3900

DEFAULTS: Final = {
    # mitmproxy listens on all addresses; a pool of other people's credentials does not.
    "listen_host": "127.0.0.1",
    # 600 would end silent streams and idle WebSockets in the middle of a session.
    "tcp_timeout": SILENCE,
    # Over HTTP/2 a GOAWAY cuts streams in flight, and an abrupt close can leave requests hanging.
    "http2": False,
    # mitmweb's own, and the comment, which names the identity.
    "web_columns": ["tls", "icon", "path", "method", "status", "size", "time", "comment"],
}
"""Our values of options that the user has not set."""

HIDDEN: Final = "<codexpool: not recorded>"

# Modes in which a request has an address, and perhaps no host name.
NAMELESS: Final = frozenset({"transparent", "local", "wireguard"})

UNFIT_FOR_A_POOL: Final = (
    ("websocket", False, "member keys, limits and turns on WebSockets would go unseen"),
    ("validate_inbound_headers", False, "a header such as 'Authorization : …' would leave beside the identity's own"),
    ("proxy_debug", True, "the log would hold the tokens of the pool, in forms that cannot be hidden"),
)
"""Options, the value with which a pool cannot be served safely, and why."""

# Matches the hosts of Codex's backend, with their ports.
CODEX_PATTERN: Final = rf"^(.+\.)?({'|'.join(map(re.escape, (*CODEX, PAGE)))}):\d+$"
_POOL: Final = "codexpool_had_a_pool"  # an attribute of mitmproxy's master, which survives a reload of this package

_tasks = Tasks()


# -- our defaults


def set_defaults(environ: Mapping[str, str]) -> None:
    """Set our defaults. Raises OptionsError if `VARIABLE` is invalid."""
    ours = {name: value for name, value in DEFAULTS.items() if name in ctx.options and not is_set_by_user(name)}
    ctx.options.update(**ours)
    if "tcp_timeout" not in ctx.options and hasattr(server, "TCP_TIMEOUT"):  # an option since mitmproxy 12.2.1
        server.TCP_TIMEOUT = SILENCE
    mode = _use_upstream_proxy(environ)
    if ("listen_host" in ours or mode) and (proxyserver := ctx.master.addons.get("proxyserver")) is not None:
        _tasks.spawn(_listen_again(proxyserver, mode, on_loopback="listen_host" in ours))


async def _listen_again(proxyserver: Any, mode: Sequence[str], on_loopback: bool) -> None:
    """Listen again if mitmproxy has begun to listen otherwise before it loaded this addon.

    ``mode`` is the mode to listen in, if it is another one. (Not set before: two modes cannot share an address.)
    """
    await proxyserver.setup_servers()  # If that is under way, this only waits for it.
    addresses = proxyserver.listen_addrs()
    if not mode and (not on_loopback or all(is_loopback(address[0]) for address in addresses)):
        return
    if ctx.options.listen_port == 0 and addresses:
        ctx.options.update(listen_port=addresses[0][1])
    await proxyserver.servers.update([])
    if mode:
        ctx.options.update(mode=mode)
    await proxyserver.setup_servers()


def _use_upstream_proxy(environ: Mapping[str, str]) -> Sequence[str]:
    """Return the mode to set for the proxy that `VARIABLE` names; empty if there is none, or the user has set one.

    Its password gets into no option: mitmproxy shows options.
    """
    if (proxy := _named_upstream(environ)) is None:
        return ()
    mode = () if is_set_by_user("mode") else (f"upstream:{proxy.scheme}://{proxy}",)
    if not mode and (proxy.host, proxy.port) not in upstreams():
        logger.warning(
            "%s applies only to what the proxy itself asks: clients' requests go out as the option mode says (%s)",
            VARIABLE,
            ", ".join(ctx.options.mode),
        )
    elif any(isinstance(spec, mode_specs.ReverseMode) for spec in _modes()):
        logger.warning("mode reverse is set, too: set upstream_auth if the proxy that %s names needs it", VARIABLE)
    elif proxy.auth and not ctx.options.upstream_auth:
        # What the option would do.
        ctx.master.addons.get("upstreamauth").auth = b"Basic " + base64.b64encode(proxy.auth.encode())
    return mode


def _named_upstream(environ: Mapping[str, str]) -> UpstreamProxy | None:
    try:
        return of_environ(environ)
    except ValueError as error:
        raise exceptions.OptionsError(str(error)) from None


def read_too(hosts: Iterable[str]) -> None:
    """Add our hosts if the user has named the hosts to intercept (`allow_hosts`)."""
    patterns: list[str] = list(ctx.options.allow_hosts)
    if not patterns:
        return
    more = [CODEX_PATTERN, *(rf"^{re.escape(host)}:\d+$" for host in hosts if not is_codex(host))]
    if missing := [pattern for pattern in more if pattern not in patterns]:
        ctx.options.update(allow_hosts=[*patterns, *missing])


# -- what we refuse, or warn about


def warn_of_modes() -> None:
    """Log a warning if requests may have no host name."""
    nameless = NAMELESS & {spec.type_name for spec in _modes()}
    if nameless:
        logger.warning(
            "mode %s: connections have an address only. Those that name the backend in TLS are read, all others pass "
            "unchanged. Use mode regular if you can",
            ", ".join(sorted(nameless)),
        )


def warn_of_open_dump() -> None:
    """Log a warning if other users can read the dump that is written (`codexpool run` makes new ones private)."""
    path = getattr(ctx.master.addons.get("save"), "current_path", None)
    try:
        mode = os.stat(path).st_mode if path else 0  # noqa: PTH116 - mitmproxy's path is a text
    except OSError:
        return
    if os.name == "posix" and mode & OPEN_TO_OTHERS:
        text = "the dump %s is open to other users (mode %04o), and will contain prompts and clients' credentials: %s"
        logger.warning(text, path, stat.S_IMODE(mode), closing(str(path)))


def refuse_unfit(loopback_only: bool) -> None:
    """Raise OptionsError for settings with which requests could not be sent, or not safely by this mitmproxy."""
    if ctx.options.stream_large_bodies:
        raise exceptions.OptionsError(
            "codexpool cannot work with stream_large_bodies: a body that was streamed cannot be sent again under "
            "another identity. Take the option away; answers are streamed all the same"
        )
    if loopback_only and has_master("WebMaster"):
        raise exceptions.OptionsError(
            "codexpool does not run under this version's mitmweb, whose API can be reached through the proxy "
            "(CVE-2025-23217). Use mitmdump or mitmproxy, or a newer mitmproxy: uv python install 3.13"
        )
    if loopback_only and (others := _other_hosts()):
        raise exceptions.OptionsError(
            f"codexpool serves only loopback clients on this version of mitmproxy, not {others[0]} "
            "(GHSA-847f-9342-265h). Take listen_host away, or use a newer mitmproxy: uv python install 3.13"
        )


def refuse_unfit_for_a_pool(hosts: Iterable[str]) -> None:
    """Raise OptionsError for settings with which a pool cannot be served safely; ``hosts`` must be read."""
    for name, value, why in UNFIT_FOR_A_POOL:
        if name in ctx.options and getattr(ctx.options, name) is value:
            setting = f"{name}={str(value).lower()}"
            raise exceptions.OptionsError(f"codexpool cannot serve a pool with {setting}: {why}. Take it away")
    for host in hosts:
        for name, shown in (("ignore_hosts", f"{host}:443"), ("tcp_hosts", host)):
            if any(re.search(pattern, shown, re.IGNORECASE) for pattern in getattr(ctx.options, name)):
                raise exceptions.OptionsError(
                    f"{name} makes mitmproxy pass {host} through: nothing would be swapped there, and member keys "
                    f"would leave. Take {host} out of {name}"
                )


def refuse_anyone() -> None:
    """Raise OptionsError if the pool would be open to anyone on the network."""
    if not is_for_this_machine():
        where = ", ".join([*dict.fromkeys(_other_hosts()), *(f"mode {mode}" for mode in _networks())])
        raise exceptions.OptionsError(
            f'pool.toml has access = "anyone", and the proxy listens on {where}: anyone who can reach it could use '
            'your identities. Set access = "members" (codexpool member add NAME), or listen on 127.0.0.1'
        )


def is_on(name: str) -> bool:
    """Return the value of a switch of ours. Raises OptionsError unless it is ``true`` or ``false``.

    (It is a text option because mitmproxy silently drops an addon if it cannot read a real switch.)
    """
    value: str = getattr(ctx.options, name)
    if value.lower() not in ("true", "false", ""):
        raise exceptions.OptionsError(f"{name} is {value!r}; use --set {name}=true, or leave it out")
    return value.lower() == "true"


def given_twice(name: str) -> bool:
    """Return whether an option of ours is on the command line more than once.

    mitmproxy would refuse that silently after `load`, and go on without the addon (its issue 8013).
    """
    deferred = ctx.options.deferred.get(name)
    return len(getattr(deferred, "val", ())) > 1


def warn_of_unknown(prefix: str) -> None:
    """Log a warning for each option with this prefix that does not exist: mitmproxy ignores it."""
    known = [name.removeprefix(prefix) for name in ctx.options.keys() if name.startswith(prefix)]  # noqa: SIM118
    for name in ctx.options.deferred:
        if name.startswith(prefix):
            near = difflib.get_close_matches(name.removeprefix(prefix), known, n=1)
            remedy = f"did you mean {prefix}{near[0]}?" if near else f"there are: {prefix}{f', {prefix}'.join(known)}"
            logger.warning("ignored the option %s, which does not exist; %s", one_line(name), remedy)


def is_set_by_user(name: str) -> bool:
    """Return whether the user has set an option of mitmproxy, even to its default."""
    # `has_changed` only compares with the default: it would miss `--set http2=true`.
    option: Any = ctx.options._options[name]
    return option.value is not optmanager.unset


# -- who can reach the proxy, and by which way it reaches others


def is_for_this_machine() -> bool:
    """Return whether only this machine can reach the proxy."""
    return not _networks() and not _other_hosts()


def _modes() -> list[mode_specs.ProxyMode]:
    return [mode_specs.ProxyMode.parse(mode) for mode in ctx.options.mode]


def _other_hosts() -> list[str]:
    """Return the addresses other than loopback that the proxy listens on."""
    hosts = [spec.listen_host(ctx.options.listen_host) for spec in _modes()]
    return [host or "all addresses" for host in hosts if not is_loopback(host)]


def _networks() -> list[str]:
    """Return the modes in which other machines may reach the proxy although it listens on no address."""
    return [spec.type_name for spec in _modes() if spec.type_name == "tun"]


def authority() -> bytes:
    """Return the certificates of the authority that clients trust, as PEM."""
    store = ctx.master.addons.get("tlsconfig").certstore
    return b"".join(one.to_pem() for one in store.default_chain_certs)


def is_own_connection(address: tuple[object, ...]) -> bool:
    """Return whether a client's address is the near end of a connection that this proxy has made for another."""
    connections = getattr(ctx.master.addons.get("proxyserver"), "connections", None)
    handlers = connections.values() if isinstance(connections, dict) else connections or ()
    servers = (one for handler in list(handlers) for one in list(handler.transports) if isinstance(one, Server))
    return any(server.sockname is not None and server.sockname[1] == address[1] for server in servers)


def upstreams() -> set[tuple[str, int]]:
    """Return the addresses of the upstream proxies."""
    return {spec.address[:2] for spec in _modes() if isinstance(spec, mode_specs.UpstreamMode)}


def own_route() -> Route:
    """Return the way our own requests take to the backend: that of the proxy's connections."""
    proxy = named = _named_upstream(os.environ)
    for spec in _modes():
        if isinstance(spec, mode_specs.UpstreamMode):
            host, port = spec.address[:2]
            is_named = named is not None and (host, port) == (named.host, named.port)
            auth = ctx.options.upstream_auth or (named.auth if named is not None and is_named else "")
            proxy = UpstreamProxy(spec.scheme, host, port, auth)
    trusted = ctx.options.ssl_verify_upstream_trusted_ca or ctx.options.ssl_verify_upstream_trusted_confdir
    url = proxy.url if proxy is not None else None
    return Route(url, trusted, ctx.options.ssl_insecure, no_proxy(os.environ))


# -- flows, and what outlives a reload


def has_master(name: str) -> bool:
    """Return whether mitmproxy's master is of that class. (By name: to import mitmweb's takes a second.)"""
    return any(cls.__name__ == name for cls in type(ctx.master).__mro__)


def is_stored(flow: http.HTTPFlow) -> bool:
    """Return whether a flow was read from a file: mitmproxy runs the hooks for it, and it has no client.

    (A flow that another addon has killed is not live either, but its client is connected.)
    """
    if flow.live:
        return False  # Nearly all flows, and all messages of WebSockets.
    return flow.client_conn.id not in getattr(ctx.master.addons.get("proxyserver"), "connections", {})


def hide_password(flow: http.HTTPFlow) -> None:
    """Hide the password that mitmproxy's `proxyauth` keeps in a flow's metadata, which is written into dumps."""
    given = flow.metadata.get("proxyauth")
    if given is not None and len(given) == 2:
        flow.metadata["proxyauth"] = (given[0], HIDDEN)


def hide_upstream_auth(flow: http.HTTPFlow) -> None:
    """Hide the password for the upstream proxy from dumps: mitmproxy adds it to requests without TLS."""
    if flow.request.scheme == "http" and isinstance(flow.client_conn.proxy_mode, mode_specs.UpstreamMode):
        flow.request.headers.pop("proxy-authorization", None)


def note_pool() -> None:
    """Note that this process has had a pool."""
    setattr(ctx.master, _POOL, True)


def had_a_pool() -> bool:
    """Return whether this process has had a pool: if it is gone, requests are refused, not passed through."""
    return bool(getattr(ctx.master, _POOL, False))
