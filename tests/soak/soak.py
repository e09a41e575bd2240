"""Many clients of one proxy, injected faults, and what must be true throughout.

The clients behave like Codex (docs/when-no-identity-can-serve.md): they retry what it retries, as often as it does.
Each answer is compared with the stand-in's record. Every error is a line in `Findings.wrong`; the test expects none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.e2e.logins import DAY, auth_entry, login_of, owner
from tests.e2e.world import E2EProxy
from tests.running import CLIENT, pat, pool_toml
from tests.soak.chaos import Chaos, fingerprint
from tests.soak.clients import Client
from tests.soak.constants import (
    BROKEN,
    CLIENTS,
    HARMLESS,
    LOGINS,
    PATS,
    QUIET,
    SETTLES,
    WATCHER,
)
from tests.soak.findings import Findings
from tests.soak.surroundings import RefusedClient
from tests.soak.world import World
from tests.standin import RESPONSES, StandIn
from tests.standin.limits import SHORT


@contextlib.contextmanager
def soak_world(folder: Path) -> Iterator[World]:
    """A proxy with ten PATs and two logins, ready to serve."""
    fresh = time.time() + SHORT * 60  # all windows start now, so that no identity is preferred after a limit
    tokens = [pat(f"pat{number}", resets_at=fresh) for number in range(PATS)]
    owners = [owner(f"login{number}", resets_at=fresh) for number in range(LOGINS)]
    with StandIn(tokens, clients=[CLIENT], folder=folder, pace=0.004, encrypted="bound") as standin:
        logins = [login_of(standin, folder, who, 10 * DAY) for who in owners]
        head = "".join(auth_entry(who.name, login.path) for who, login in zip(owners, logins, strict=True))
        pool_toml(folder, *tokens, head='[pool]\nselection = "headroom"\n' + head)
        watcher = folder / "watcher.py"
        watcher.write_text(WATCHER)
        proxy = E2EProxy(standin, folder, "-s", str(watcher), ready=PATS + LOGINS)
        proxy.start()
        try:
            yield World(standin, proxy, {token.name: token for token in tokens}, logins)
        finally:
            proxy.stop()


def rss_of(pid: int) -> float:
    """Return the memory of a process, in MB."""
    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True).stdout) / 1024


def files_of(pid: int) -> int | None:
    """Return how many files and sockets a process has open. None if unknown."""
    folder = Path(f"/proc/{pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else None


@dataclass(frozen=True)
class Idle:
    """What an idle proxy process has open."""

    files: int | None
    tasks: list[str]
    threads: int
    exchanges: int
    flows: int

    def __str__(self) -> str:
        counts = f"{self.files} files, {len(self.tasks)} tasks, {self.threads} threads"
        return f"{counts}, {self.exchanges} exchanges, {self.flows} flows"


def idle_state(world: World) -> Idle:
    """Return what the proxy process has open now."""
    state = world.proxy.door("state")
    with httpx.Client(proxy=world.proxy.url, trust_env=False, timeout=30) as client:
        more = client.get("http://soak.test/").json()
    return Idle(files_of(world.proxy.pid), more["tasks"], more["threads"], state["exchanges"], state["flows"])


async def soak(world: World, seconds: float, seed: int) -> None:
    """Run clients and faults for so many seconds, then check the results."""
    findings, chaos = world.findings, Chaos(world, seed)
    before = await asyncio.to_thread(idle_state, world)
    begun = time.monotonic()
    watching = asyncio.ensure_future(_watch(world, chaos, begun))
    clients = [Client(world, number, seed, sockets=bool(number % 2)) for number in range(CLIENTS)]
    running = [asyncio.ensure_future(client.run()) for client in clients]
    running.append(asyncio.ensure_future(RefusedClient(world).run()))
    try:
        await chaos.run(max(5.0, seconds - QUIET))
        await chaos.end()
        await _settle(world, chaos)
    finally:
        world.ended.set()
        done, hanging = await asyncio.wait(running, timeout=60)
        for task in hanging:
            findings.add(f"a client does not end: {task.get_stack()}")
            task.cancel()
        for task in done:
            if error := task.exception():
                findings.add(f"a client failed: {error!r}")
                findings.counts["failed clients"] += 1
        watching.cancel()
        await asyncio.gather(watching, *hanging, return_exceptions=True)
    findings.counts["seconds"] = round(time.monotonic() - begun)
    await asyncio.to_thread(_check_cleanup, world, before)
    _check_records(world)
    _check_memory(findings)
    world.proxy.stop()
    _check_log(world)


async def _watch(world: World, chaos: Chaos, begun: float) -> None:
    """Record the memory, and check that no valid token is flagged."""
    while True:
        world.findings.rss.append((time.monotonic() - begun, await asyncio.to_thread(rss_of, world.proxy.pid)))
        for name, token in chaos.flagged().items():
            known = world.standin.backend.known(token)
            if known is not None and known.alive:
                world.findings.add(f"{name} is flagged, but its token is valid")
        await asyncio.sleep(0.5)


async def _settle(world: World, chaos: Chaos) -> None:
    """Wait until every valid identity serves and every dead one is flagged."""
    begun = time.time()

    def wrong_now() -> list[str]:
        flags = chaos.flagged()
        idle = [n for n in world.names if n not in chaos.dead and world.served.get(n, 0.0) < begun]
        return [
            *(f"{name} is dead but not flagged" for name in sorted(chaos.dead - flags.keys())),
            *(f"{name} is valid but flagged" for name in sorted(flags.keys() - chaos.dead)),
            *(f"{name} is valid but does not serve" for name in idle),
        ]

    while (wrong := wrong_now()) and time.time() < begun + SETTLES:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    world.findings.counts["seconds to settle"] = round(time.time() - begun)
    statuses = await asyncio.to_thread(_identities, world) if wrong else {}
    for text in wrong:
        world.findings.add(f"{SETTLES:.0f} s after the faults {text}; the proxy says {statuses.get(text.split()[0])}")


def _identities(world: World) -> dict[str, object]:
    """Return the proxy's own view of each identity."""
    with httpx.Client(proxy=world.proxy.url, trust_env=False, timeout=30) as client:
        identities = client.get("http://codex.pool/api/status").json()["identities"]
    return {identity["name"]: identity for identity in identities}


def _check_cleanup(world: World, before: Idle) -> None:
    """Check that nothing is left of the clients after they have ended."""
    ends = time.monotonic() + 15
    while True:
        now = idle_state(world)
        files = now.files is None or before.files is None or now.files <= before.files + 4
        tasks = Counter(now.tasks) - Counter(before.tasks)
        if files and now.exchanges == 0 and now.flows <= before.flows + 2 and tasks.total() <= 2:
            world.findings.idle = f"{now} ({before} before)"
            return
        if time.monotonic() > ends:
            world.findings.add(f"not cleaned up: {now}, before: {before}")
            return
        time.sleep(0.5)


def _check_records(world: World) -> None:
    standin, findings = world.standin, world.findings
    seen = list(standin.seen)
    findings.counts["requests to the backend"] = len(seen)
    findings.counts["renewals"] = standin.refreshes
    for number, word in world.answered.items():
        one = seen[number - 1]
        if one.cut or not (one.complete or one.transport == "message"):  # clients leave sockets early
            findings.add(f"{word}: answered, but {number} is not complete: {one.status} {one.cut} {one.aborted}")
    for leak in standin.leaks:
        findings.add(f"leaked: {leak.method} {leak.host}{leak.path} as {leak.name}")
    for refusal in standin.refusals:
        findings.add(f"refused: {refusal}")
    for trouble in standin.troubles:
        findings.add(f"the stand-in's trouble: {trouble}")
    pooled = {fingerprint(token) for token in standin.backend.secrets()}
    for one in seen:
        if one.path == RESPONSES and one.fingerprint not in pooled:
            findings.add(f"{one.method} {one.path} as {one.name or 'unknown'}, not under an identity of the pool")
    for login in world.logins:
        if not login.is_whole():
            findings.add(f"{login.path} is damaged")


WARM_UP = 60.0  # MB by which bounded buffers may grow after a third of a short run, which is still filling them


def _check_memory(findings: Findings) -> None:
    first, last, _ = findings.growth()
    if last > first + max(WARM_UP, first / 4):
        findings.add(f"memory grew from {first:.0f} MB to {last:.0f} MB")


def _check_log(world: World) -> None:
    """Check that the log has no secret and no sign of a failure."""
    findings, log = world.findings, world.proxy.log
    findings.counts["log lines"] = log.count("\n")
    findings.counts["sent again by the proxy"] = log.count(": sent again, ")
    findings.counts["sockets told to reconnect"] = log.count(": told to connect again, ")
    findings.counts["without foreign reasoning"] = log.count(" encrypted items that ")
    findings.counts["breaker opened"] = log.count("the breaker is open")
    findings.counts["flags"] = len(re.findall(r"needs_replacement: ", log))
    secrets = [*world.standin.backend.secrets(), CLIENT.token, "at-test-", "rt_test-"]
    for path in (world.proxy.log_file, *world.proxy.folder.glob("state.sqlite3*")):
        content = path.read_bytes()
        for secret in secrets:
            if secret.encode() in content:
                findings.add(f"{path.name} has a secret: {secret[:16]}…")
    for line in log.splitlines():
        if BROKEN.search(line) and not HARMLESS.search(line):
            findings.add(f"the log: {line[:300]}")


def duration(default: float = 8.0) -> float:
    """Return the approximate duration of the soak, in seconds."""
    return float(os.environ.get("CODEXPOOL_SOAK_SECONDS", default))


def seed(default: int = 1) -> int:
    """Return the seed of the faults."""
    return int(os.environ.get("CODEXPOOL_SOAK_SEED", default))
