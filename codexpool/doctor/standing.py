"""How the running proxy stands, by its own word: the status document (`codexpool.web.status`). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from codexpool import __version__
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.pool.identity import Status
from codexpool.pool.states import CONDEMNED, RETURNING
from codexpool.views.formatting import clock

PROXY: Final = "proxy"
IDENTITIES: Final = "identities"


def findings(document: Mapping[str, Any], where: str, pool_toml: Path | None) -> Iterator[Finding]:
    """About a proxy that has answered. ``pool_toml`` is the one that commands use on this machine."""
    proxy: Mapping[str, Any] = document.get("proxy") or {}
    yield ok(
        PROXY,
        f"listens at {where}: codexpool {proxy.get('version', '?')}, mitmproxy {proxy.get('mitmproxy', '?')}, "
        f"process {proxy.get('pid', '?')}; {_access(proxy, document.get('members'))}",
    )
    yield from _of_versions(proxy)
    yield from _of_pools(proxy, pool_toml)
    if closed := proxy.get("closed"):
        yield wrong(
            PROXY, f"serves nobody: {closed}", "mend pool.toml (codexpool config check); no restart is needed"
        )
    elif proxy.get("observe"):
        yield note(
            PROXY,
            "only observes: nothing is swapped, clients keep their own credentials",
            "restart it without codexpool_observe to have it swap",
        )
    breaker: Mapping[str, Any] = document.get("breaker") or {}
    if breaker.get("open"):
        names = ", ".join(map(str, breaker.get("names") or ()))
        yield wrong(
            PROXY,
            f"does not move sessions for a while: several identities died at once ({names})",
            "look at why they died; then: codexpool breaker --close",
        )
    if not proxy.get("closed"):
        yield from of_identities(document.get("identities") or ())


def _access(proxy: Mapping[str, Any], members: object) -> str:
    access = proxy.get("access")
    if access == "members":
        known = f" ({len(members)} of them)" if isinstance(members, list) else ""
        return f"serves members{known}"
    return "serves anyone who reaches it" if access == "anyone" else "does not say whom it serves"


def _of_versions(proxy: Mapping[str, Any]) -> Iterator[Finding]:
    if (version := proxy.get("version")) != __version__:
        yield note(
            PROXY,
            f"is codexpool {version}, and this command is {__version__}",
            "install the same release for both, and restart the proxy",
        )


def _of_pools(proxy: Mapping[str, Any], pool_toml: Path | None) -> Iterator[Finding]:
    used = proxy.get("pool")
    if used and pool_toml is not None and Path(used) != pool_toml:
        yield note(
            PROXY,
            f"uses {used}; commands in this shell use {pool_toml}",
            f"CODEXPOOL_CONFIG={used} has both use the same",
        )


def of_identities(identities: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Who can serve, and what each of the others needs."""
    serving = [one["name"] for one in identities if one.get("status") == Status.READY]
    if serving:
        yield ok(IDENTITIES, f"{len(serving)} of {len(identities)} ready: {_some(serving)}")
    else:
        yield wrong(IDENTITIES, _nobody(identities), "see what each of them needs: codexpool list")
    for one in identities:
        yield from _of_identity(one)


def _of_identity(one: Mapping[str, Any]) -> Iterator[Finding]:
    name, status = one.get("name", "?"), one.get("status", "?")
    why = f" ({one['evidence']})" if one.get("evidence") else ""
    needs = one.get("needs") or ""
    if status in CONDEMNED or (needs and status == Status.UNVERIFIED):
        yield wrong(IDENTITIES, f"{name} is {status}{why}", needs or f"codexpool show {name}")
    elif status == Status.PAUSED:
        yield note(IDENTITIES, f"{name} is paused{why}", needs)
    elif status in RETURNING:
        until = one.get("until")
        again = f"; it serves again at {clock(until, day=True)} UTC" if until else ""
        yield note(IDENTITIES, f"{name} is {status}{why}{again}")
    elif status != Status.READY:
        yield note(IDENTITIES, f"{name} is {status}{why}", needs)
    if reminder := one.get("reminder"):
        yield note(IDENTITIES, f"{name}: {reminder}", f"in time: codexpool replace {name}")


def _nobody(identities: Sequence[Mapping[str, Any]]) -> str:
    if not identities:
        return "there are none: nobody can serve"
    return f"none of {len(identities)} is ready: nobody can serve"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
