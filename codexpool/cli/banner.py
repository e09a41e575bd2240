"""What `codexpool run` says on the terminal once the proxy listens: where, for whom, and what comes next."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from codexpool import __version__
from codexpool.cli.shells import eval_line
from codexpool.common.addresses import is_loopback
from codexpool.common.tasks import Tasks
from codexpool.pool.identity import Status

WAIT: Final = 3.0  # seconds to wait for the backend's answer about each identity
LOOK: Final = 0.05  # seconds between two looks
TERMINAL: Final = Path("/dev/tty")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the lines say. ``statuses`` are those of the identities; ``web`` is the URL of mitmweb's page, if any."""

    listens: Sequence[str]
    access: str
    statuses: Sequence[str]
    members: int = 0
    closed: str = ""
    observes: bool = False
    web: str = ""


def lines(facts: Facts, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the banner."""
    yield f"codexpool {__version__} at {', '.join(facts.listens) or 'no address'}, {_whom(facts)}"
    yield _row("identities", _identities(facts))
    yield _row("page", "http://codex.pool/ in a browser with this proxy (docs/page.md)")
    if facts.web:
        yield _row("mitmweb", facts.web)
    yield _row("clients", eval_line(environ, "codex"))


def _row(name: str, text: str) -> str:
    return f"  {name:<10}  {text}"


def _whom(facts: Facts) -> str:
    if facts.observes:
        return "only observing: nothing is swapped"
    if facts.access == "members":
        return f"for members only ({facts.members or 'none yet: codexpool member add NAME'})"
    hosts = (text.rpartition(":")[0].strip("[]") for text in facts.listens)
    return "for anyone on this machine" if all(map(is_loopback, hosts)) else "for anyone who can reach it"


def _identities(facts: Facts) -> str:
    if facts.closed:
        return f"no request is served: {facts.closed}"
    if not facts.statuses:
        return "none yet: codexpool add NAME, or codexpool login NAME"
    count = Counter(facts.statuses)
    parts = [f"{count[Status.READY]} of {len(facts.statuses)} ready"]
    if others := [f"{count[status]} {status}" for status in sorted(count) if status != Status.READY]:
        parts += [", ".join(others), "see codexpool list"]
    return "; ".join(parts)


class Banner:
    """An addon for mitmproxy that prints the banner.

    The URL of mitmweb's page contains a token. It is for the terminal only, never for a log.
    """

    name = "codexpool-banner"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._tasks = Tasks()

    def running(self) -> None:
        self._tasks.spawn(self._show())

    def done(self) -> None:
        self._tasks.stop()

    async def _show(self) -> None:
        until, facts = time.monotonic() + WAIT, _facts()
        while not _is_settled(facts) and time.monotonic() < until:
            await asyncio.sleep(LOOK)
            facts = _facts()
        self._print(facts)

    def _print(self, facts: Facts) -> None:
        if sys.stderr.isatty():
            click.echo("\n".join(["", *lines(facts, self._environ), ""]), err=True)
        elif facts.web:
            with contextlib.suppress(OSError), TERMINAL.open("w") as terminal:
                terminal.write(f"codexpool: mitmweb's page: {facts.web}\r\n")


def _is_settled(facts: Facts) -> bool:
    return bool(facts.closed) or (bool(facts.listens) and Status.UNVERIFIED not in facts.statuses)


def _facts() -> Facts:
    """Return how it stands. The addon's modules are loaded again by its entry, so its types are not these here."""
    from mitmproxy import ctx

    web = getattr(ctx.master, "web_url", "")
    addon: Any = ctx.master.addons.get("codexpool")
    if addon is None:
        return Facts([], "", [], closed="the addon is not loaded; see the log", web=web)
    view = addon.telemetry.status_view(time.time())
    known = {one.name: one.condition.status.value for one in view.pool.identities.values()} if view.pool else {}
    specs = view.config.identities if view.config is not None else ()
    statuses = [known.get(spec.name, Status.UNVERIFIED.value) for spec in specs]
    return Facts(view.listens, view.access, statuses, len(view.members), view.why_closed, view.observes, web)
