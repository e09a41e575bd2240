"""A crowd of clients in front of one proxy, a chaos that breaks whatever may break, and what must hold all the while.

The clients behave as Codex does (docs/when-no-identity-can-serve.md): they retry what it retries, as often as it does, and
they take everything the proxy tells them at its word. What each of them is answered is compared with the record that
the stand-in has. Whatever is wrong is a line in `Findings.wrong`; the test wants none.
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
    LOGINS,
    MITMPROXYS,
    PATS,
    QUIET,
    SETTLES,
    WATCHER,
)
from tests.soak.field import Refused
from tests.soak.findings import Findings
from tests.soak.world import World
from tests.standin import RESPONSES, StandIn
from tests.standin.limits import SHORT


@contextlib.contextmanager
def a_soaked_world(folder: Path) -> Iterator[World]:
    """Ten PATs and two logins behind a proxy, ready to serve."""
    fresh = (
        time.time() + SHORT * 60
    )  # Windows that have just begun: whoever comes back from a limit is no better off.
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
    """MB of a process."""
    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True).stdout) / 1024


def files_of(pid: int) -> int | None:
    """How many files and sockets a process has open, where that can be seen."""
    folder = Path(f"/proc/{pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else None


@dataclass(frozen=True)
class Rest:
    """What there is in the proxy's process while nobody asks for anything."""

    files: int | None
    tasks: list[str]
    threads: int
    exchanges: int
    flows: int

    @property
    def of(self) -> str:
        """How much of what."""
        counts = f"{self.files} files, {len(self.tasks)} tasks, {self.threads} threads"
        return f"{counts}, {self.exchanges} exchanges, {self.flows} flows"


def rest_of(world: World) -> Rest:
    """What there is now."""
    state = world.proxy.door("state")
    with httpx.Client(proxy=world.proxy.url, trust_env=False, timeout=30) as client:
        more = client.get("http://soak.test/").json()
    return Rest(files_of(world.proxy.pid), more["tasks"], more["threads"], state["exchanges"], state["flows"])


async def soak(world: World, seconds: float, seed: int) -> None:
    """Let the clients and the chaos loose for so many seconds, and then see to it that all is well."""
    findings, chaos = world.findings, Chaos(world, seed)
    before = await asyncio.to_thread(rest_of, world)
    begun = time.monotonic()
    watching = asyncio.ensure_future(_watch(world, chaos, begun))
    clients = [Client(world, number, seed, sockets=bool(number % 2)) for number in range(CLIENTS)]
    running = [asyncio.ensure_future(client.run()) for client in clients]
    running.append(asyncio.ensure_future(Refused(world).run()))
    try:
        await chaos.run(max(5.0, seconds - QUIET))
        await chaos.end()
        await _settle(world, chaos)
    finally:
        world.ended.set()
        done, hanging = await asyncio.wait(running, timeout=60)
        for task in hanging:
            findings.add(f"a client does not come to an end: {task.get_stack()}")
            task.cancel()
        for task in done:
            if error := task.exception():
                findings.add(f"a client has broken: {error!r}")
                findings.counts["broken clients"] += 1
        watching.cancel()
        await asyncio.gather(watching, *hanging, return_exceptions=True)
    findings.counts["seconds"] = round(time.monotonic() - begun)
    await asyncio.to_thread(_nothing_left, world, before)
    _look_at_the_records(world)
    _look_at_the_memory(findings)
    world.proxy.stop()
    _look_at_the_log(world)


async def _watch(world: World, chaos: Chaos, begun: float) -> None:
    """Memory, and that no flag is put on a token that is alive."""
    while True:
        world.findings.rss.append((time.monotonic() - begun, await asyncio.to_thread(rss_of, world.proxy.pid)))
        for name, token in chaos.flagged().items():
            known = world.standin.backend.known(token)
            if known is not None and known.alive:
                world.findings.add(f"{name} is flagged, and its token is alive")
        await asyncio.sleep(0.5)


async def _settle(world: World, chaos: Chaos) -> None:
    """Wait until everybody who is alive serves, and everybody who is dead is flagged."""
    begun = time.time()

    def amiss() -> list[str]:
        flags = chaos.flagged()
        idle = [n for n in world.names if n not in chaos.dead and world.served.get(n, 0.0) < begun]
        return [
            *(f"{name} is dead and not flagged" for name in sorted(chaos.dead - flags.keys())),
            *(f"{name} is alive and flagged" for name in sorted(flags.keys() - chaos.dead)),
            *(f"{name} is alive and does not serve" for name in idle),
        ]

    while (wrong := amiss()) and time.time() < begun + SETTLES:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    world.findings.counts["seconds to settle"] = round(time.time() - begun)
    stands = await asyncio.to_thread(_standing, world) if wrong else {}
    for text in wrong:
        world.findings.add(f"{SETTLES:.0f} s after the chaos {text}; by its own word {stands.get(text.split()[0])}")


def _standing(world: World) -> dict[str, object]:
    """What the proxy itself says of each identity."""
    with httpx.Client(proxy=world.proxy.url, trust_env=False, timeout=30) as client:
        identities = client.get("http://codex.pool/api/status").json()["identities"]
    return {identity["name"]: identity for identity in identities}


def _nothing_left(world: World, before: Rest) -> None:
    """The clients are gone: so is everything that was there for them."""
    ends = time.monotonic() + 15
    while True:
        now = rest_of(world)
        files = now.files is None or before.files is None or now.files <= before.files + 4
        tasks = Counter(now.tasks) - Counter(before.tasks)
        if files and now.exchanges == 0 and now.flows <= before.flows + 2 and tasks.total() <= 2:
            world.findings.rest = f"{now.of} ({before.of} before)"
            return
        if time.monotonic() > ends:
            world.findings.add(f"left behind: {now}, before it was {before}")
            return
        time.sleep(0.5)


def _look_at_the_records(world: World) -> None:
    standin, findings = world.standin, world.findings
    seen = list(standin.seen)
    findings.counts["requests to the backend"] = len(seen)
    findings.counts["renewals"] = standin.refreshes
    for number, word in world.answered.items():
        one = seen[number - 1]
        if one.cut or not (one.complete or one.transport == "message"):  # A client leaves a socket when it has all.
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
            findings.add(f"{one.method} {one.path} as {one.name or 'nobody'}, not as one of the pool")
    for login in world.logins:
        if not login.is_whole():
            findings.add(f"{login.path} is not whole")


def _look_at_the_memory(findings: Findings) -> None:
    first, last, _ = findings.growth()
    if last > 1.25 * first:
        findings.add(f"memory grew from {first:.0f} MB to {last:.0f} MB")


def _look_at_the_log(world: World) -> None:
    """No secret, and nothing that has broken."""
    findings, log = world.findings, world.proxy.log
    findings.counts["log lines"] = log.count("\n")
    findings.counts["sent again by the proxy"] = log.count(": sent again, ")
    findings.counts["sockets told to connect again"] = log.count(": told to connect again, ")
    findings.counts["lightened"] = log.count(" encrypted items that ")
    findings.counts["breaker opened"] = log.count("the breaker is open")
    findings.counts["flags"] = len(re.findall(r"needs_replacement: ", log))
    secrets = [*world.standin.backend.secrets(), CLIENT.token, "at-test-", "rt_test-"]
    for path in (world.proxy.log_file, *world.proxy.folder.glob("state.sqlite3*")):
        content = path.read_bytes()
        for secret in secrets:
            if secret.encode() in content:
                findings.add(f"{path.name} has a secret: {secret[:16]}…")
    for line in log.splitlines():
        if BROKEN.search(line) and not MITMPROXYS.search(line):
            findings.add(f"the log: {line[:300]}")


def seconds_wanted(default: float = 8.0) -> float:
    """How long the soak takes, all in all about."""
    return float(os.environ.get("CODEXPOOL_SOAK_SECONDS", default))


def seed_wanted(default: int = 1) -> int:
    """What the chaos begins with."""
    return int(os.environ.get("CODEXPOOL_SOAK_SEED", default))
