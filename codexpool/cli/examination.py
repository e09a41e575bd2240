"""What `codexpool doctor` looks at, area by area."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from codexpool.cli import running_proxy
from codexpool.cli.common import Failure, pool_path, sources, state_file
from codexpool.common.private_files import UnusableError, read_private
from codexpool.config.model import PoolConfig
from codexpool.config.sources import Resolved, resolve
from codexpool.doctor import configuration, machine, probe, proxy_status, trust, variables
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, wrong
from codexpool.doctor.trust import Tunnel
from codexpool.local import ca_files
from codexpool.protocol.headers import PROBE_VERSION
from codexpool.state.sqlite import VARIABLE as STATE_VARIABLE
from codexpool.web import site

RESTART: Final = "install the same codexpool for both, and restart the proxy"


class Examination:
    """The areas in the order of a request's way; each may take some seconds."""

    def __init__(self, client: ClientEnvironment, program: Path | None, proxy_url: str | None) -> None:
        self._client = client
        self._program = program
        self._proxy = _proxy_of(proxy_url, client)
        self._status: Mapping[str, Any] = {}
        """What the proxy answered; empty if it did not."""
        self._asked_at = self._answered_at = 0.0
        self._knows_probe = False
        self._config: PoolConfig | None = None
        self._resolved = Resolved({})
        self._auth_json = _private_text(client.home / configuration.AUTH_JSON)
        self._token = probe.client_token(client, self._auth_json)

    def areas(self) -> Iterator[tuple[str, Iterator[Finding]]]:
        """Yield each area's name and its findings."""
        yield "pool.toml", self._pool()
        yield "the proxy", self._running()
        yield "a request's way through the proxy", self._way()
        yield "the client's version", machine.check_client(self._program, self._token)
        yield "files", machine.check_files(self._kept())
        if self._status:
            yield "the clock", machine.check_clocks(self._status, self._asked_at, self._answered_at)
        if self._config is not None:
            credentials = self._resolved.credentials
            yield "logins", configuration.check_logins(self._config, credentials, self._client, self._auth_json)

    def _pool(self) -> Iterator[Finding]:
        try:
            path = pool_path(None)
        except Failure as failure:
            yield wrong(configuration.POOL, failure.message, "correct CODEXPOOL_CONFIG, or unset it")
            return
        if path is None:
            yield configuration.missing()
            return
        self._config, problems = configuration.read(path)
        yield from problems
        if self._config is not None:
            self._resolved = resolve(self._config, sources())
            yield from configuration.check_config(self._config, self._resolved)

    def _running(self) -> Iterator[Finding]:
        self._asked_at = time.time()
        try:
            self._status = self._proxy.get(running_proxy.STATUS)
        except running_proxy.ProxyFailure as failure:
            if failure.status != 403:
                yield wrong(proxy_status.PROXY, failure.what, failure.remedy)
                return
            with contextlib.suppress(Failure):
                self._knows_probe = _knows_probe(self._proxy.get(site.HEALTH))
            text = f"answers at {self._proxy}, but shows its status only on its own machine"
            yield note(proxy_status.PROXY, text, "for the rest, run codexpool doctor there")
            return
        self._answered_at = time.time()
        self._knows_probe = _knows_probe(self._status.get("proxy"))
        path = self._config.path if self._config is not None else None
        yield from proxy_status.findings(self._status, str(self._proxy), path)

    def _way(self) -> Iterator[Finding]:
        """From the client's variables to the proxy, and through it."""
        at = self._proxy.at
        seen = trust.UNCHECKED
        if self._status or self._knows_probe:
            tunnel = Tunnel(at.host, at.port, at.user, at.password)
            certificate = running_proxy.confdir_of(self._proxy) / ca_files.CERTIFICATE
            seen = trust.check(self._client, tunnel, certificate if certificate.is_file() else None)
            yield from self._probe(tunnel, seen)
        yield from variables.findings(self._client, (at.host, at.port), self._places())
        yield seen.finding

    def _probe(self, tunnel: Tunnel, seen: trust.Trusted) -> Iterator[Finding]:
        if not self._knows_probe:
            yield wrong(probe.ABOUT, "not sent: this proxy is older than this command", RESTART)
        elif seen.context is None:
            yield note(probe.ABOUT, "not sent: no connection is known to end at this proxy (see: trust)")
        else:
            yield from probe.findings(tunnel, seen.context, self._token)

    def _places(self) -> list[variables.Place]:
        listens = [str(text) for text in (self._status.get("proxy") or {}).get("listens") or ()]
        places = [place for text in listens if (place := variables.place_of(text)) is not None]
        wanted = variables.place_of(self._client.proxy_variable()[1])
        if wanted is not None and any(host in ("0.0.0.0", "::", "*") and port == wanted[1] for host, port in places):
            places.append(wanted)  # It listens on all addresses, whatever the client calls this machine.
        return places

    def _kept(self) -> list[machine.Kept]:
        import platformdirs

        kept = machine.secret_files(
            self._config.files if self._config is not None else (),
            platformdirs.user_data_path("codexpool", appauthor=False) / "logins",
            running_proxy.confdir_of(self._proxy),
            state_file(),
            self._client.home / configuration.AUTH_JSON,
        )
        if not os.environ.get(STATE_VARIABLE):  # A folder that the user names may have other uses.
            kept.append(machine.Kept(state_file().parent, "the folder of the state"))
        return kept


def _proxy_of(url: str | None, client: ClientEnvironment) -> running_proxy.RunningProxy:
    """Return the proxy to ask; if none runs on this machine, the one in the client's proxy variable."""
    found = running_proxy.find_proxy(url)
    if url or os.environ.get(running_proxy.VARIABLE) or found.announcement is not None:
        return found
    name, value = client.proxy_variable()
    if variables.place_of(value) is None or not value.removeprefix("http://"):
        return found
    try:
        return running_proxy.RunningProxy(running_proxy.address(value, name))
    except click.UsageError:
        return found  # `variables` reports it.


def _knows_probe(document: object) -> bool:
    return isinstance(document, dict) and document.get("probe") == PROBE_VERSION


def _private_text(path: Path) -> str:
    with contextlib.suppress(UnusableError):
        return read_private(path)
    return ""
