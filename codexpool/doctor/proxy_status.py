"""Checks what the running proxy reports in its status document (`codexpool.web.status`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from codexpool import __version__
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.pool.identity import Status
from codexpool.pool.states import CONDEMNED, RETURNING
from codexpool.views.formatting import clock, local_time

PROXY: Final = "proxy"
IDENTITIES: Final = "identities"


def findings(document: Mapping[str, Any], where: str, pool_toml: Path | None) -> Iterator[Finding]:
    """Check a status document. ``pool_toml`` is the one that commands use on this machine."""
    proxy: Mapping[str, Any] = document.get("proxy") or {}
    version, used, closed = proxy.get("version", "?"), proxy.get("pool"), proxy.get("closed")
    programs = f"codexpool {version}, mitmproxy {proxy.get('mitmproxy', '?')}, process {proxy.get('pid', '?')}"
    yield ok(PROXY, f"listens at {where}: {programs}; {_access(proxy, document.get('members'))}")
    if (installed := proxy.get("installed", version)) != version:
        yield wrong(PROXY, f"{version} runs, {installed} is installed", "restart the proxy")
    elif version != __version__:
        text = f"is codexpool {version}, and this command is {__version__}"
        yield note(PROXY, text, "install the same release for both, and restart the proxy")
    if used and pool_toml is not None and Path(used) != pool_toml:
        text = f"uses {used}; commands in this shell use {pool_toml}"
        yield note(PROXY, text, f"to use the same for both, set CODEXPOOL_CONFIG={used}")
    file: Mapping[str, Any] = document.get("pool_file") or {}
    if file.get("problem"):
        read_at = file.get("read_at")
        of_before = f"uses its pool.toml as it was at {local_time(read_at)}: " if read_at else ""
        text = f"{of_before}{file['problem']}"
        yield wrong(PROXY, text, "fix it (codexpool config check); the proxy notices within two seconds")
    if closed:
        remedy = "see the proxy's log; codexpool config check finds the errors of a pool.toml"
        yield wrong(PROXY, f"refuses all requests: {closed}", remedy)
    elif proxy.get("observe"):
        text = "only observes: nothing is swapped, clients keep their own credentials"
        yield note(PROXY, text, "to swap, restart it without codexpool_observe")
    breaker: Mapping[str, Any] = document.get("breaker") or {}
    if breaker.get("open"):
        names = ", ".join(map(str, breaker.get("names") or ()))
        text = f"does not move sessions for a while: several identities died at once ({names})"
        yield wrong(PROXY, text, "find out why they died; then: codexpool breaker --close")
    if not closed and not used and not proxy.get("observe"):
        text = "the proxy has no pool: requests keep the client's own credential"
        yield wrong(IDENTITIES, text, "codexpool add NAME, or codexpool login NAME; a running proxy follows")
    elif not closed:
        yield from _identities(document.get("identities") or ())


def _access(proxy: Mapping[str, Any], members: object) -> str:
    access = proxy.get("access")
    if access == "members":
        return f"serves members ({len(members)} of them)" if isinstance(members, list) else "serves members"
    return "serves anyone who reaches it" if access == "anyone" else "does not report whom it serves"


def _identities(identities: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    ready = [identity["name"] for identity in identities if identity.get("status") == Status.READY]
    if ready:
        names = ", ".join(ready[:5]) + (f" and {len(ready) - 5} more" if len(ready) > 5 else "")
        yield ok(IDENTITIES, f"{len(ready)} of {len(identities)} ready: {names}")
    else:
        text = f"none of {len(identities)} is ready" if identities else "the pool has none"
        remedy = "codexpool list says what each of them needs" if identities else "codexpool add NAME"
        yield wrong(IDENTITIES, f"{text}: no request can be served", remedy)
    for identity in identities:
        yield from _identity(identity)


def _identity(identity: Mapping[str, Any]) -> Iterator[Finding]:
    name, status, until = identity.get("name", "?"), identity.get("status", "?"), identity.get("until")
    needs = identity.get("needs") or ""
    text = f"{name} is {status}" + (f" ({identity['evidence']})" if identity.get("evidence") else "")
    if status in CONDEMNED or (needs and status == Status.UNVERIFIED):
        yield wrong(IDENTITIES, text, needs or f"codexpool show {name}")
    elif status in RETURNING:
        yield note(IDENTITIES, text + (f"; it serves again at {clock(until, day=True)}" if until else ""))
    elif status != Status.READY:
        yield note(IDENTITIES, text, needs or f"codexpool check {name}")
    if reminder := identity.get("reminder"):
        yield note(IDENTITIES, f"{name}: {reminder}", f"before then: codexpool replace {name}")
