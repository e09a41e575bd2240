"""The areas that `codexpool doctor` looks at, one after the other, and where it gets from what it looks at."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import click

from codexpool.cli import running_proxy
from codexpool.cli.common import Failure, pool_path, sources, state_file
from codexpool.common.private_files import UnusableError, read_private
from codexpool.config import PoolConfig, Resolved, resolve
from codexpool.doctor import clocks, configuration, files, logins, probe, standing, trust, variables, versions
from codexpool.doctor.bypass import proxy_variable
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, wrong
from codexpool.doctor.tunnel import Tunnel
from codexpool.local import ca_files
from codexpool.protocol.headers import PROBE_VERSION
from codexpool.state.sqlite import VARIABLE as STATE_VARIABLE
from codexpool.web import health

STATUS: Final = "/api/status"

START: Final = ". Start one with: "
"""Where the remedy begins in what is said of a proxy that cannot be reached."""

RESTART: Final = "install the same codexpool for both, and restart the proxy"


class _Asked(NamedTuple):
    """A proxy that was asked. ``document`` is its status, empty where it does not tell."""

    proxy: running_proxy.RunningProxy
    document: Mapping[str, Any] = MappingProxyType({})
    before: float = 0.0
    after: float = 0.0
    findings: tuple[Finding, ...] = ()
    """Why it does not tell."""
    knows_probe: bool = False


class Examination:
    """All that is looked at, area by area in the order of a reader's way; each may take some seconds."""

    def __init__(self, client: ClientEnvironment, program: Path | None, proxy_url: str | None) -> None:
        self._client = client
        self._program = program
        self._asked = _Asked(_proxy(proxy_url, client))
        self._config: PoolConfig | None = None
        self._resolved = Resolved({})
        self._auth_json = _private_text(client.home / logins.AUTH_JSON)
        self._token = probe.token_of(client, self._auth_json)

    def areas(self) -> Iterator[tuple[str, Iterator[Finding]]]:
        """What is being looked at, in words, and what is found."""
        yield "pool.toml", self._pool()
        yield "the proxy", self._proxy()
        yield "a request's way through the proxy", self._way()
        yield "the client's version", versions.findings(self._program, self._token)
        yield "files", files.findings(self._kept())
        if self._asked.document:
            yield "the clock", clocks.findings(self._asked.document, self._asked.before, self._asked.after)
        if self._config is not None:
            yield "logins", logins.findings(self._config, self._resolved.credentials, self._client, self._auth_json)

    def _pool(self) -> Iterator[Finding]:
        try:
            path = pool_path(None)
        except Failure as failure:
            yield wrong(configuration.ABOUT, failure.message, "correct CODEXPOOL_CONFIG, or unset it")
            return
        if path is None:
            yield configuration.nowhere()
            return
        self._config, problems = configuration.read(path)
        yield from problems
        if self._config is not None:
            self._resolved = resolve(self._config, sources())
            yield from configuration.findings(self._config, self._resolved)

    def _proxy(self) -> Iterator[Finding]:
        self._asked = asked = _asked(self._asked.proxy)
        yield from asked.findings
        if asked.document:
            path = self._config.path if self._config is not None else None
            yield from standing.findings(asked.document, str(asked.proxy), path)

    def _way(self) -> Iterator[Finding]:
        """From the client's variables to the proxy, and through it."""
        at = self._asked.proxy.at
        answers = bool(self._asked.document) or self._asked.knows_probe
        seen = trust.Trusted([trust.unlooked()], None)
        if answers:
            tunnel = Tunnel(at.host, at.port, at.user, at.password)
            seen = trust.looked_at(self._client, tunnel, _ca_file(self._asked.proxy))
            yield from self._probe(tunnel, seen)
        yield from variables.findings(self._client, (at.host, at.port), self._places())
        yield from seen.findings

    def _probe(self, tunnel: Tunnel, seen: trust.Trusted) -> Iterator[Finding]:
        if not self._asked.knows_probe:
            yield wrong(
                probe.ABOUT, "this proxy is older than this command and knows no probe: none is sent", RESTART
            )
        elif seen.context is None:
            yield note(probe.ABOUT, "none is sent: no connection is known to end at this proxy (see: trust)")
        else:
            yield from probe.findings(tunnel, seen.context, self._token)

    def _places(self) -> list[variables.Place]:
        """Where the proxy listens, by its own word; on all addresses, it may be."""
        listens = [str(text) for text in (self._asked.document.get("proxy") or {}).get("listens") or ()]
        places = [place for text in listens if (place := variables.place_of(text)) is not None]
        wanted = variables.place_of(proxy_variable(self._client)[1])
        everywhere = [port for host, port in places if host in ("0.0.0.0", "::", "*")]
        if wanted is not None and wanted[1] in everywhere and _is_this_machine(wanted[0]):
            places.append(wanted)
        return places

    def _kept(self) -> Iterator[files.Kept]:
        import platformdirs

        if self._config is not None:
            yield from files.of_pool(self._config.files)
        yield from files.of_logins(platformdirs.user_data_path("codexpool", appauthor=False) / "logins")
        yield from files.of_confdir(running_proxy.confdir_of(self._asked.proxy))
        yield from files.of_state(state_file(), bool(os.environ.get(STATE_VARIABLE)))
        yield files.Kept(self._client.home / logins.AUTH_JSON, "the client's login")


# -- the proxy


def _proxy(url: str | None, client: ClientEnvironment) -> running_proxy.RunningProxy:
    """The proxy to ask; where none runs on this machine, the one that the client would take."""
    found = running_proxy.proxy(url)
    if url or os.environ.get(running_proxy.VARIABLE) or found.announcement is not None:
        return found
    name, value = proxy_variable(client)
    if variables.place_of(value) is None or not value.removeprefix("http://"):
        return found
    try:
        return running_proxy.RunningProxy(running_proxy.address(value, name))
    except click.UsageError:
        return found  # The variable is spoken of where all variables are.


def _asked(proxy: running_proxy.RunningProxy) -> _Asked:
    """What the proxy says of itself. Asks it, and raises nothing for want of an answer."""
    before = time.time()
    try:
        status = proxy.get(STATUS)
    except running_proxy.Refused as refused:
        if refused.status != 403:
            return _Asked(
                proxy, findings=(wrong(standing.PROXY, refused.message, f"{running_proxy.VARIABLE}, or --proxy"),)
            )
        text = f"answers at {proxy}, and does not tell this machine how it stands"
        found = note(standing.PROXY, text, "for the rest of it run codexpool doctor where the proxy runs")
        return _Asked(proxy, findings=(found,), knows_probe=_knows_probe(_health(proxy)))
    except Failure as failure:
        said, _, cure = failure.message.partition(START)
        remedy = f"start one with: {cure or 'codexpool run'}"
        return _Asked(proxy, findings=(wrong(standing.PROXY, said, remedy),))
    finally:
        proxy.close()
    return _Asked(proxy, status, before, time.time(), knows_probe=_knows_probe(status.get("proxy")))


def _health(proxy: running_proxy.RunningProxy) -> object:
    try:
        return proxy.get(health.PATH)  # what it also tells to other machines
    except Failure:
        return None


def _knows_probe(document: object) -> bool:
    match document:
        case {"probe": int(version)}:
            return version == PROBE_VERSION
        case _:
            return False


def _ca_file(proxy: running_proxy.RunningProxy) -> Path | None:
    path = running_proxy.confdir_of(proxy) / ca_files.CERTIFICATE
    return path if path.is_file() else None


def _is_this_machine(host: str) -> bool:
    """Whether an address is one of this machine's: only those can be listened at."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as made:
            made.bind(address)
    except OSError:
        return False
    return True


def _private_text(path: Path) -> str:
    with contextlib.suppress(UnusableError):
        return read_private(path)
    return ""
