"""Checks the state: whether this shell can use it, and what its proxies and its clock say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.state import StateError
from codexpool.state.fleet import Proxy
from codexpool.state.location import VARIABLE, Location, SqliteFile, location
from codexpool.state.opening import open_state
from codexpool.views.formatting import clock, span

if TYPE_CHECKING:
    from codexpool.state.facts import Facts

STATE: Final = "state"
TOLERATED: Final = 5.0  # seconds between the clocks of this machine and the database


def findings(environ: Mapping[str, str], status: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the state that ``environ`` names; ``status`` is the document of the running proxy, empty if none."""
    try:
        at = location(environ)
    except StateError as error:
        yield wrong(STATE, error.what, error.remedy)
        return
    try:
        facts = _facts(at)
    except StateError as error:
        yield wrong(STATE, error.what, error.remedy)
    else:
        yield ok(STATE, f"{at} can be used" if facts is not None else f"{at} does not exist yet")
        if facts is not None:
            yield from of_clock(facts.ahead)
            yield from of_versions(facts.proxies)
    yield from of_proxy(status, str(at))


def _facts(at: Location) -> Facts | None:
    """Return the facts; None if the state is a file that does not exist yet. Raises StateError."""
    if isinstance(at, SqliteFile) and not at.path.exists():
        return None
    from codexpool.state import facts

    state = open_state(at)
    try:
        return state.transact(facts.facts)
    finally:
        state.close()


def of_clock(ahead: float) -> Iterator[Finding]:
    if abs(ahead) > TOLERATED:
        relation = "behind" if ahead > 0 else "ahead of"
        text = f"this machine's clock is {span(abs(ahead))} {relation} the database's"
        yield note(STATE, f"{text}; times in the state are converted", "synchronize both clocks with NTP")


def of_versions(proxies: Sequence[Proxy]) -> Iterator[Finding]:
    """Check whether all proxies that run have one version."""
    alive = [proxy for proxy in proxies if proxy.is_alive]
    versions = sorted({proxy.version for proxy in alive})
    if len(versions) > 1:
        hosts = (f"{one}: {', '.join(p.host for p in alive if p.version == one)}" for one in versions)
        text = f"proxies of several versions share it ({'; '.join(hosts)})"
        yield note(STATE, text, "install one release everywhere")


def of_proxy(status: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Check what the running proxy says of its state. ``where`` is the one that commands use in this shell."""
    state = status.get("state")
    if not isinstance(state, dict):
        return
    if state.get("where") != where:
        text = f"the proxy uses {state.get('where')}; commands in this shell use {where}"
        yield note(STATE, text, f"set {VARIABLE} to the same for both")
    if not state.get("connected", True):
        text = f"the proxy has lost it since {clock(state.get('since'))}, and goes on with what it knows"
        yield wrong(STATE, text, "see its log; what it learns is written once the state is back")
