"""What the field does to a pool: answers of an intermediate, answers without end, refusals that are nobody's fault.

None of it makes a token any worse. So none of it may have a person called, and none of it may be seen by a client
other than the one that asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import filelock
import httpx

from tests.e2e.world import BACKEND, own_headers
from tests.running import ROOT
from tests.soak.constants import SILENCE
from tests.soak.world import World
from tests.standin import RESPONSES, WHOAMI, Answer, error_body

if TYPE_CHECKING:
    from tests.soak.chaos import Chaos

IMAGES = "/backend-api/codex/images/generations"
COMPACT = f"{RESPONSES}/compact"

PLANNED = 22.0
"""Seconds after which nothing is left of what the stand-in was to do."""

NOT_OURS: list[dict[str, Any]] = [
    {"status": 403, "body": {"cloudflare_error": True, "error_code": 1020}},
    {"status": 403, "body": {"cloudflare_error": True}, "headers": {"cf-mitigated": "challenge"}},
    {"status": 401, "body": {"message": "proxy authentication is needed"}},
    {"status": 401, "body": "<html>log in to the network</html>"},
    {"status": 403, "body": error_body("ip_not_authorized", "This address may not ask.")},
    {"status": 200, "body": "<html>welcome</html>"},
    {"status": 200, "body": b"{", "endless": 0.2},
    {"status": 401, "body": b'{"error": ', "endless": 0.2},
    {"status": 401, "body": b"x" * 10_000, "endless": 0.001},
    {"status": 429, "body": {"detail": "slow down"}},
]
"""What somebody between codexpool and whoami may answer, for anybody."""

ALWAYS: list[dict[str, Any]] = [
    {"status": 403, "body": error_body("model_not_available_in_workspace", "Not in this workspace.")},
    {"status": 402, "body": {"detail": {"code": "deactivated_workspace"}}},
    {"status": 429, "body": error_body("rate_limit_exceeded", "Too many."), "headers": {"retry-after": "3600"}},
    {"status": 429, "body": error_body("usage_limit_reached", "Used up.") | {"resets_in_seconds": 8 * 86_400}},
    {"status": 403, "body": {"detail": "Codex is not enabled for this workspace"}},
    {"status": 401, "body": error_body("no_matching_rule", "This token may not be used here.")},
]
"""What a side endpoint may say to one client, whoever asks for it."""


class Field:
    """Deeds for `Chaos`, which says whom they may hit."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos, self.world, self.standin, self.dice = chaos, chaos.world, chaos.standin, chaos.dice
        self._resumed = 0
        self._unfit = 0
        self.deeds = [
            (2, self.refuse_endpoint),
            (1, self.refuse_model),
            (4, self.forbid_without_a_code),
            (1, self.fail_late),
            (3, self.compress),
            (4, self.close_sockets_of_one),
            (5, self.stand_between),
            (4, self.refuse_without_end),
            (4, self.cut_a_refusal_off),
            (4, self.announce_early),
            (1, self.lock_pool_toml),
            (1, self.lock_the_state),
        ]

    def plan_always(self) -> None:
        """What is refused to the client that is always refused, for the next seconds."""
        self.standin.plan(Answer(path=IMAGES, times=None, **self.dice.choice(ALWAYS)))
        body = {"detail": "Compaction is not enabled for this workspace"}
        self.standin.plan(Answer(path=COMPACT, times=None, status=403, body=body))

    # -- of one identity

    def refuse_endpoint(self) -> bool:
        """401 for a token that may not be used on this endpoint, until a person puts in another one."""
        name = self.chaos.target(pats=True)
        if name is None or self._unfit >= 4:
            return False
        self._unfit += 1
        self.chaos.takes_out(name, PLANNED + 10)
        body = error_body("no_matching_rule", "This token may not be used here.")
        self._plan(name, self._transport(), status=401, body=body, times=2)
        self.chaos.have(self._resume(name))
        return True

    def refuse_model(self) -> bool:
        """400 for an account that has not the model, until a person says otherwise."""
        name = self.chaos.target()
        if name is None or self._unfit >= 4:
            return False
        self._unfit += 1
        self.chaos.takes_out(name, PLANNED + 10)
        said = "The 'gpt-test' model is not supported when using Codex with a ChatGPT account."
        self._plan(name, self._transport(), status=400, body={"detail": said}, times=2)
        self.chaos.have(self._resume(name))
        return True

    def forbid_without_a_code(self) -> bool:
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.takes_out(name, 10)
        body = self.dice.choice([error_body("", "No."), {"detail": "Codex is not enabled for this workspace"}])
        self._plan(name, self._transport(), status=403, body=body, times=self.dice.randint(1, 4))
        return True

    def fail_late(self) -> bool:
        """An answer that has begun ends at the account's limit, which lasts until a person says otherwise."""
        name = self.chaos.target()
        if name is None or self._resumed >= 4:
            return False
        self._resumed += 1
        self.chaos.takes_out(name, PLANNED + 10)
        transport = self.dice.choice(["http/1.1", "message"])
        self._plan(name, transport, fail="usage_limit_reached", fail_message="Used up.", fail_after=2)
        self.chaos.have(self._resume(name))
        return True

    def close_sockets_of_one(self) -> bool:
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.takes_out(name, 10)
        code, times = self.dice.choice([1008, 1011]), self.dice.randint(1, 4)
        self._plan(name, "message", close=code, times=times)
        return True

    def refuse_without_end(self) -> bool:
        """A 401 whose body never ends, fast or dripping."""
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.takes_out(name, 10)
        pause, body = self.dice.choice([(0.0, b"x" * 65_536), (0.2, b"x"), (0.01, b'{"a": 1}')])
        transport = self.dice.choice(["http/1.1", "websocket"])
        self._plan(name, transport, status=401, body=body, endless=pause)
        return True

    def cut_a_refusal_off(self) -> bool:
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.takes_out(name, 10)
        body = error_body("token_revoked", "Your authentication token has been revoked. " * 40)
        transport = self.dice.choice(["http/1.1", "websocket"])
        self._plan(name, transport, status=401, body=body, cut="body")
        return True

    # -- of nobody in particular

    def compress(self) -> bool:
        """Streams come compressed from now on, or in plain again, although nobody has asked for it."""
        self.standin.backend.compress = self.dice.choice(["", "gzip", "zstd", "deflate"])
        return True

    def announce_early(self) -> bool:
        """A 103 before an answer."""
        times = self.dice.randint(1, 3)
        self.standin.plan(Answer(path=RESPONSES, transport="http/1.1", interim=(103,), times=times))
        return True

    def stand_between(self) -> bool:
        self.standin.plan(Answer(path=WHOAMI, times=self.dice.randint(1, 3), **self.dice.choice(NOT_OURS)))
        return True

    def lock_pool_toml(self) -> bool:
        """Another program edits pool.toml, and takes its time."""
        lock = self.world.proxy.pool.with_name(".pool.toml.lock")
        return self._hold(lambda: filelock.FileLock(lock), self.dice.uniform(3, 9))

    def lock_the_state(self) -> bool:
        return self._hold(lambda: _writing(str(self.world.proxy.state)), self.dice.uniform(1, 6))

    # -- by what means

    def _transport(self) -> str:
        return self.dice.choice(["http/1.1", "websocket", "message"])

    def _plan(self, name: str, transport: Any, **answer: Any) -> None:
        token = self.world.bearer(name)
        self.standin.plan(Answer(path=RESPONSES, token=token, transport=transport, **answer))

    def _hold(self, lock: Any, seconds: float) -> bool:
        """Hold a lock for so long, and nothing else of the kind meanwhile."""
        if any(thread.name == "soak-lock" for thread in threading.enumerate()):
            return False

        def hold() -> None:
            with lock():
                time.sleep(seconds)

        threading.Thread(target=hold, name="soak-lock", daemon=True).start()
        return True

    async def _resume(self, name: str) -> None:
        """A person finds that nothing is the matter with an identity."""
        await asyncio.sleep(PLANNED)
        environ = {**os.environ, "CODEXPOOL_STATE": str(self.world.proxy.state), "PYTHONPATH": str(ROOT)}
        command = (sys.executable, "-c", "from codexpool.cli import main; main()", "resume", name)
        for _ in range(5):
            process = await asyncio.create_subprocess_exec(
                *command,
                *("--config", str(self.world.proxy.pool)),
                env=environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await process.communicate()
            if b"is resumed" not in said and process.returncode == 0:
                return  # Nobody has met what was planned.
            if process.returncode == 0:
                self.world.findings.counts["resumed by a person"] += 1
                return
            await asyncio.sleep(2)  # The state may be locked just now.
        self.world.findings.add(f"{name} cannot be resumed: {said.decode()}")


@contextlib.contextmanager
def _writing(path: str) -> Any:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


class Refused:
    """A client whose requests are always refused: it is told so each time, and nobody else is."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def run(self) -> None:
        """Until the world ends."""
        options: Any = {"headers": own_headers(), "timeout": SILENCE, "trust_env": False}
        async with httpx.AsyncClient(proxy=self.world.proxy.url, verify=self.world.trust, **options) as client:
            number = 0
            while not self.world.ended.is_set():
                number += 1
                path = IMAGES if number % 3 else COMPACT
                headers = {"thread-id": f"refused-{number // 10}"}
                try:
                    answer = await client.post(
                        BACKEND + path, json={"model": "gpt-test", "input": "x"}, headers=headers
                    )
                except httpx.TimeoutException as error:
                    self.world.findings.add(f"refused-{number}: nothing came for {SILENCE:.0f} s ({error!r})")
                except httpx.TransportError:
                    self.world.findings.counts["refused: lost"] += 1
                else:
                    self.world.findings.counts[f"refused: {answer.status_code}"] += 1
                    if answer.status_code == 401:
                        self.world.findings.add(f"a client saw a 401: {path} {answer.text[:200]}")
                await asyncio.sleep(0.5)
