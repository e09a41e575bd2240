"""Faults between proxy and backend: gateways that answer, endless answers, refusals that say nothing about a token.

None of these invalidates a token. So none may lead to a flag, and no client may see one, unless it causes it.
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
"""Seconds after which the stand-in has forgotten its planned answers."""

GATEWAY: list[dict[str, Any]] = [
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
"""Answers to whoami from something between codexpool and the backend."""

ALWAYS: list[dict[str, Any]] = [
    {"status": 403, "body": error_body("model_not_available_in_workspace", "Not in this workspace.")},
    {"status": 402, "body": {"detail": {"code": "deactivated_workspace"}}},
    {"status": 429, "body": error_body("rate_limit_exceeded", "Too many."), "headers": {"retry-after": "3600"}},
    {"status": 429, "body": error_body("usage_limit_reached", "Used up.") | {"resets_in_seconds": 8 * 86_400}},
    {"status": 403, "body": {"detail": "Codex is not enabled for this workspace"}},
    {"status": 401, "body": error_body("no_matching_rule", "This token may not be used here.")},
]
"""Refusals of a side endpoint under every identity."""


class Surroundings:
    """Faults for `Chaos`, which chooses the target."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos, self.world, self.standin, self.dice = chaos, chaos.world, chaos.standin, chaos.dice
        self._resumed = 0
        self._unfit = 0
        self.faults = [
            (2, self.refuse_endpoint),
            (1, self.refuse_model),
            (4, self.forbid_without_a_code),
            (1, self.fail_late),
            (3, self.compress),
            (4, self.close_sockets_of_one),
            (5, self.answer_whoami_as_gateway),
            (4, self.refuse_without_end),
            (4, self.cut_a_refusal_off),
            (4, self.announce_early),
            (1, self.lock_pool_toml),
            (1, self.lock_the_state),
        ]

    def plan_always(self) -> None:
        """Plan the refusals for `RefusedClient`."""
        self.standin.plan(Answer(path=IMAGES, times=None, **self.dice.choice(ALWAYS)))
        body = {"detail": "Compaction is not enabled for this workspace"}
        self.standin.plan(Answer(path=COMPACT, times=None, status=403, body=body))

    # -- of one identity

    def refuse_endpoint(self) -> bool:
        """A 401 for a token on one endpoint, until an operator resumes the identity."""
        name = self.chaos.target(pats=True)
        if name is None or self._unfit >= 4:
            return False
        self._unfit += 1
        self.chaos.mark_out(name, PLANNED + 10)
        body = error_body("no_matching_rule", "This token may not be used here.")
        self._plan(name, self._transport(), status=401, body=body, times=2)
        self.chaos.start(self._resume(name))
        return True

    def refuse_model(self) -> bool:
        """A 400 for an account without the model, until an operator resumes the identity."""
        name = self.chaos.target()
        if name is None or self._unfit >= 4:
            return False
        self._unfit += 1
        self.chaos.mark_out(name, PLANNED + 10)
        message = "The 'gpt-test' model is not supported when using Codex with a ChatGPT account."
        self._plan(name, self._transport(), status=400, body={"detail": message}, times=2)
        self.chaos.start(self._resume(name))
        return True

    def forbid_without_a_code(self) -> bool:
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.mark_out(name, 10)
        body = self.dice.choice([error_body("", "No."), {"detail": "Codex is not enabled for this workspace"}])
        self._plan(name, self._transport(), status=403, body=body, times=self.dice.randint(1, 4))
        return True

    def fail_late(self) -> bool:
        """A limit in the middle of an answer, until an operator resumes the identity."""
        name = self.chaos.target()
        if name is None or self._resumed >= 4:
            return False
        self._resumed += 1
        self.chaos.mark_out(name, PLANNED + 10)
        transport = self.dice.choice(["http/1.1", "message"])
        self._plan(name, transport, fail="usage_limit_reached", fail_message="Used up.", fail_after=2)
        self.chaos.start(self._resume(name))
        return True

    def close_sockets_of_one(self) -> bool:
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.mark_out(name, 10)
        code, times = self.dice.choice([1008, 1011]), self.dice.randint(1, 4)
        self._plan(name, "message", close=code, times=times)
        return True

    def refuse_without_end(self) -> bool:
        """A 401 whose body never ends, fast or dripping."""
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.mark_out(name, 10)
        pause, body = self.dice.choice([(0.0, b"x" * 65_536), (0.2, b"x"), (0.01, b'{"a": 1}')])
        transport = self.dice.choice(["http/1.1", "websocket"])
        self._plan(name, transport, status=401, body=body, endless=pause)
        return True

    def cut_a_refusal_off(self) -> bool:
        name = self.chaos.target()
        if name is None:
            return False
        self.chaos.mark_out(name, 10)
        body = error_body("token_revoked", "Your authentication token has been revoked. " * 40)
        transport = self.dice.choice(["http/1.1", "websocket"])
        self._plan(name, transport, status=401, body=body, cut="body")
        return True

    # -- of no particular identity

    def compress(self) -> bool:
        """Streams are compressed from now on, or plain again, whatever was requested."""
        self.standin.backend.compress = self.dice.choice(["", "gzip", "zstd", "deflate"])
        return True

    def announce_early(self) -> bool:
        """A 103 before an answer."""
        times = self.dice.randint(1, 3)
        self.standin.plan(Answer(path=RESPONSES, transport="http/1.1", interim=(103,), times=times))
        return True

    def answer_whoami_as_gateway(self) -> bool:
        self.standin.plan(Answer(path=WHOAMI, times=self.dice.randint(1, 3), **self.dice.choice(GATEWAY)))
        return True

    def lock_pool_toml(self) -> bool:
        """Another program locks pool.toml for some seconds."""
        lock = self.world.proxy.pool.with_name(".pool.toml.lock")
        return self._hold(lambda: filelock.FileLock(lock), self.dice.uniform(3, 9))

    def lock_the_state(self) -> bool:
        return self._hold(lambda: _writing(str(self.world.proxy.state)), self.dice.uniform(1, 6))

    # -- helpers

    def _transport(self) -> str:
        return self.dice.choice(["http/1.1", "websocket", "message"])

    def _plan(self, name: str, transport: Any, **answer: Any) -> None:
        token = self.world.bearer(name)
        self.standin.plan(Answer(path=RESPONSES, token=token, transport=transport, **answer))

    def _hold(self, lock: Any, seconds: float) -> bool:
        """Hold a lock for so many seconds, unless one is held already."""
        if any(thread.name == "soak-lock" for thread in threading.enumerate()):
            return False

        def hold() -> None:
            with lock():
                time.sleep(seconds)

        threading.Thread(target=hold, name="soak-lock", daemon=True).start()
        return True

    async def _resume(self, name: str) -> None:
        """Run `codexpool resume` for an identity."""
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
            output, _ = await process.communicate()
            if b"is resumed" not in output and process.returncode == 0:
                return  # no request has met the planned answer
            if process.returncode == 0:
                self.world.findings.counts["resumed"] += 1
                return
            await asyncio.sleep(2)  # the state may be locked
        self.world.findings.add(f"{name} cannot be resumed: {output.decode()}")


@contextlib.contextmanager
def _writing(path: str) -> Any:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


class RefusedClient:
    """A client whose requests every identity is refused. It gets the refusal each time; other clients do not."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def run(self) -> None:
        """Send requests until the world ends."""
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
