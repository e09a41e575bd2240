"""`codexpool doctor`: what is wrong between a client and the pool, and how to fix it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from codexpool.cli import running_proxy
from codexpool.cli.common import Failure, json_option, pool_places, sources
from codexpool.cli.output import Column, Output, console, print_json, print_table, progress
from codexpool.cli.processes import Signals
from codexpool.cli.running_proxy import proxy_option
from codexpool.common.private_files import UnusableError, read_private
from codexpool.config.model import PoolConfig
from codexpool.config.sources import Resolved, resolve
from codexpool.credentials.upstream_proxy import VARIABLE as UPSTREAM_PROXY
from codexpool.doctor import configuration, environment, machine, probe, proxy_status, shared_state, trust, variables
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, Level, note, wrong
from codexpool.doctor.trust import Tunnel
from codexpool.protocol.headers import PROBE_VERSION
from codexpool.protocol.routes import AS_SHIPPED, Routes
from codexpool.state import StateError
from codexpool.state.location import VARIABLE as STATE_VARIABLE
from codexpool.state.location import Location, SqliteFile, location
from codexpool.views.formatting import Line, wrap
from codexpool.web import site

OTHERS: Final = (("other hosts of openai.com and chatgpt.com", "never"), ("every other host", "passed through"))
STYLES: Final = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "bold red"}

AREA: Final = 10  # columns for the name of an area

INDENT: Final = 5 + 2 + AREA + 2  # columns before a finding's text


@click.command()
@proxy_option
@click.option(
    "--client",
    "program",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The Codex client. Default: $CODEXPOOL_CODEX, then the codex on the PATH.",
)
@click.option("--routes", "only_routes", is_flag=True, help="Print which paths are swapped, and check nothing.")
@json_option
@click.pass_context
def doctor(
    context: click.Context, proxy_url: str | None, program: Path | None, only_routes: bool, as_json: bool
) -> None:
    """Find out what is wrong between a client started from this shell and the pool.

    Checks pool.toml, the running proxy, the variables and files that a client reads, its version, the modes of
    files, and the clock. Sends a probe along the path of a client's request, over HTTP and as a WebSocket, which the
    proxy answers itself: nothing reaches the backend. No secret is shown.

    The exit code is 1 if something is wrong; notes do not count.
    """
    out = Output()
    if only_routes:
        _print_routes(_routes(), as_json)
        return
    context.exit(0 if examine(out, os.environ, program, proxy_url, as_json) else 1)


def examine(
    out: Output, environ: Mapping[str, str], program: Path | None, proxy_url: str | None, as_json: bool = False
) -> bool:
    """Check a client with these variables, print what is found, and return whether nothing is wrong."""
    client = environment.client_environment(environ)
    named = machine.find_program(program, environ)
    if program is not None and named is None:
        raise click.UsageError(f"--client: {program} is not a program")
    with Signals():
        found = _check(out, Examination(client, named, proxy_url).areas(), as_json)
    return not _count(found, Level.WRONG)


def _check(out: Output, areas: Iterable[tuple[str, Iterator[Finding]]], as_json: bool) -> list[Finding]:
    """Check all areas, and print what is found in each."""
    found: list[Finding] = []
    for area, findings in areas:
        with progress(f"checking {area}"):
            new = [finding.safe() for finding in findings]
        found += new
        for finding in new if not as_json else ():
            _print(out, finding)
    if as_json:
        rows = [{**finding._asdict(), "level": finding.level.value} for finding in found]
        print_json({"findings": rows, "wrong": _count(found, Level.WRONG)})
    else:
        out.lines(_summary(found))
    return found


def _print(out: Output, finding: Finding) -> None:
    """Print a finding: on one line in a file, otherwise wrapped, with its remedy below."""
    text = f"{finding.level:<5}  {finding.about:<{AREA}}  {finding.text}"
    remedy = f"-> {finding.remedy}" if finding.remedy else ""
    if out.columns is None:
        text, remedy = f"{text} {remedy}".rstrip(), ""
    lines = [Text(line) for line in wrap(Line(text, hang=INDENT), out.columns)]
    lines[0].stylize(STYLES[finding.level], 0, len(finding.level))
    if remedy:
        lines += [Text(line, "cyan") for line in wrap(Line(" " * INDENT + remedy, hang=INDENT + 3), out.columns)]
    out.lines(*lines)


def _count(found: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in found)


def _summary(found: Sequence[Finding]) -> Text:
    wrong, notes = _count(found, Level.WRONG), _count(found, Level.NOTE)
    more = f"; {notes} {'note' if notes == 1 else 'notes'}" if notes else ""
    if not wrong:
        return Text(f"Nothing is wrong{more}.", "bold green")
    return Text(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong{more}.", "bold red")


def _routes() -> Routes:
    """Return the path policy of the pool.toml on this machine, or the shipped one."""
    path = pool_places(None).find()
    config, problems = configuration.read(path) if path is not None else (None, [])
    if problems:
        console(stderr=True).print(f"{path} is invalid (codexpool config check): the table lacks what it moves")
    return config.routes if config is not None else AS_SHIPPED


def _print_routes(routes: Routes, as_json: bool) -> None:
    """Print a path policy."""
    if as_json:
        rows = [{**row._asdict(), "policy": row.policy.value, "moved": row in routes.moved} for row in routes.rows]
        others = [{"hosts": hosts, "policy": policy} for hosts, policy in OTHERS]
        print_json({"routes": rows, "hosts": others})
        return
    shown = [
        {
            "path": row.path,
            "methods": " ".join(row.methods) or "any",
            "policy": f"{row.policy.value} (pool.toml)" if row in routes.moved else row.policy.value,
            "repeatable": "yes" if row.repeatable else "GET only",
        }
        for row in routes.rows
    ]
    for hosts, policy in (("all other paths", "own"), *OTHERS):
        shown.append({"path": hosts, "methods": "any", "policy": policy, "repeatable": ""})
    ranks = {"path": 0, "policy": 0, "methods": 1, "repeatable": 2}
    print_table([Column(name, name, rank) for name, rank in ranks.items()], shown)


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
        yield "the state", shared_state.findings(os.environ, self._status)
        yield "a request's way through the proxy", self._way()
        yield "the client's version", machine.check_client(self._program, self._token)
        yield "files", machine.check_files(self._kept())
        if self._status:
            yield "the clock", machine.check_clocks(self._status, self._asked_at, self._answered_at)
        if self._config is not None:
            credentials = self._resolved.credentials
            yield "logins", configuration.check_logins(self._config, credentials, self._client, self._auth_json)

    def _pool(self) -> Iterator[Finding]:
        places = pool_places(None)
        path = places.find()
        if path is None:
            yield configuration.missing(places)
            return
        self._config, problems = configuration.read(path)
        yield from problems
        try:
            asked = sources()
        except click.UsageError as error:
            yield wrong(configuration.POOL, error.message, f"correct it, or: unset {UPSTREAM_PROXY}")
            return
        if self._config is not None:
            self._resolved = resolve(self._config, asked)
            yield from configuration.check_config(self._config, self._resolved, os.environ)

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
            seen = self._trust(tunnel)
            yield from self._probe(tunnel, seen)
        names = [str(identity["name"]) for identity in self._status.get("identities") or ()]
        yield from variables.findings(self._client, (at.host, at.port), self._places(), names)
        yield seen.finding

    def _trust(self, tunnel: Tunnel) -> trust.Trusted:
        if not self._knows_probe:  # It would take the connection for a client's.
            return trust.Trusted(
                note(trust.ABOUT, "not checked: this proxy is older than this command", RESTART), None
            )
        own = running_proxy.certificate_of(self._proxy)
        return trust.check(self._client, tunnel, own, probe.new_number())

    def _probe(self, tunnel: Tunnel, seen: trust.Trusted) -> Iterator[Finding]:
        if not self._knows_probe:
            yield wrong(probe.ABOUT, "not sent: this proxy is older than this command", RESTART)
        elif seen.store is None:
            yield note(probe.ABOUT, "not sent: no connection is known to end at this proxy (see: trust)")
        else:
            yield from probe.findings(tunnel, seen.store, self._token)

    def _places(self) -> list[variables.Place]:
        listens = [str(text) for text in (self._status.get("proxy") or {}).get("listens") or ()]
        places = [place for text in listens if (place := variables.place_of(text)) is not None]
        wanted = variables.place_of(self._client.proxy_variable()[1])
        if wanted is not None and any(host in ("0.0.0.0", "::", "*") and port == wanted[1] for host, port in places):
            places.append(wanted)  # It listens on all addresses, whatever the client calls this machine.
        return places

    def _kept(self) -> list[machine.Kept]:
        import platformdirs

        at: Location | None = None
        with contextlib.suppress(StateError):  # `shared_state` says so.
            at = location(os.environ)
        kept = machine.secret_files(
            self._config.files if self._config is not None else (),
            platformdirs.user_data_path("codexpool", appauthor=False) / "logins",
            running_proxy.confdir_of(self._proxy),
            at.path if isinstance(at, SqliteFile) else None,
            self._client.home / configuration.AUTH_JSON,
        )
        if at is not None and not os.environ.get(STATE_VARIABLE):  # A folder that the user names may have other uses.
            kept.append(machine.Kept(at.folder, "the folder of the state"))
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
