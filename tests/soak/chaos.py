"""Random faults from a seed, and the operators who fix them."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.e2e.world import BACKEND
from tests.soak.constants import LOGINS, PATS, SEARCH
from tests.soak.surroundings import Surroundings
from tests.soak.world import World
from tests.standin import RESPONSES, WHOAMI, Answer, error_body


class Chaos:
    """Injects faults at random, but never into more than half of the pool at once."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.standin, self.path = world, world.standin, world.proxy.pool
        self.dice = random.Random(seed)
        self.out: dict[str, float] = {}
        """Identities that do not serve, and until when (approximately)."""
        self.dead: set[str] = set()
        self.paused: set[str] = set()
        self._operators: set[asyncio.Task[None]] = set()
        self._serial = itertools.count(1)
        self._sockets_disturbed = time.monotonic()
        self.faults = [
            (4, self.kill),
            (8, self.limit),
            (4, self.contradict),
            (4, self.trouble),
            (4, self.throttle),
            (5, self.fail),
            (2, self.refuse_pat_on_endpoint),
            (3, self.comment),
            (2, self.order),
            (2, self.select),
            (2, self.pause),
            (3, self.disturb_sockets),
            (1, self.expire_login),
            (2, self.distract_whoami),
        ]
        self.surroundings = Surroundings(self)
        self.faults += self.surroundings.faults

    async def run(self, seconds: float) -> None:
        """Inject faults for so many seconds."""
        self.standin.cut_share = 0.02
        ends = time.monotonic() + seconds
        unplanned = time.monotonic()
        self.surroundings.plan_always()
        while time.monotonic() < ends:
            await asyncio.sleep(self.dice.uniform(0.1, 0.4))
            if time.monotonic() > unplanned + 20:  # unused answers must not accumulate
                self.standin.unplan()
                self.surroundings.plan_always()
                unplanned = time.monotonic()
            fault = self.dice.choices([fault for _, fault in self.faults], [weight for weight, _ in self.faults])[0]
            if fault():
                self.world.findings.counts[f"fault: {fault.__name__}"] += 1

    async def end(self) -> None:
        """End all faults, except for two dead tokens that stay."""
        self.standin.unplan()
        self.standin.cut_share = 0.0
        self.standin.backend.compress = ""
        self._select("round-robin")  # every identity serves in turn
        while self._operators:
            await asyncio.wait(self._operators)
        for _ in range(2):
            name = self.dice.choice([name for name in self.world.tokens if name not in self.dead])
            self._kill(name)

    # -- the target

    def target(self, *, pats: bool = False) -> str | None:
        """Choose a serving identity, unless half of the pool is out. The last login is never chosen."""
        now = time.time()
        self.out = {name: until for name, until in self.out.items() if until > now}
        names = list(self.world.tokens) if pats else self.world.names[:-1]
        free = [name for name in names if name not in self.out]
        if len(self.out) >= (PATS + LOGINS) // 2 or not free:
            return None
        return self.dice.choice(free)

    def mark_out(self, name: str, seconds: float) -> None:
        self.out[name] = time.time() + seconds

    def _plan(self, name: str, transport: Any, **answer: Any) -> None:
        token = self.world.bearer(name) if name else ""
        self.standin.plan(Answer(path=RESPONSES, token=token, transport=transport, **answer))

    def _transport(self) -> str:
        return self.dice.choice(["http/1.1", "websocket", "message"])

    # -- the backend

    def kill(self) -> bool:
        name = self.target(pats=True)
        if name is None or len(self.dead) >= 3:
            return False
        self._kill(name)
        self.start(self._replace_token(name, self.dice.uniform(0.0, 6.0), waits=self.dice.random() < 0.7))
        return True

    def _kill(self, name: str) -> None:
        self.mark_out(name, 3600)
        self.dead.add(name)
        self.standin.kill(self.world.bearer(name))

    def limit(self) -> bool:
        name = self.target()
        if name is None:
            return False
        seconds = self.dice.uniform(2, 7)
        self.mark_out(name, seconds + 2)
        self.standin.limit(self.world.bearer(name), time.time() + seconds)
        return True

    def contradict(self) -> bool:
        """A 401 although whoami accepts the token."""
        name = self.target()
        if name is None:
            return False
        self.mark_out(name, 5)
        body = error_body("token_revoked", "Your authentication token has been revoked.")
        self._plan(name, self._transport(), status=401, body=body, times=self.dice.randint(1, 3))
        return True

    def trouble(self) -> bool:
        """A 5xx for any identity."""
        status = self.dice.choice([500, 502, 503, 503])
        headers = {"retry-after": "0"} if self.dice.random() < 0.3 else {}
        body = error_body("server_error", "Something went wrong.", "server_error")
        times = self.dice.randint(1, 3)
        self._plan("", self._transport(), status=status, body=body, headers=headers, times=times)
        return True

    def throttle(self) -> bool:
        name = self.target()
        if name is None:
            return False
        wait = self.dice.choice([None, 1, 2])
        self.mark_out(name, 5)
        headers = {} if wait is None else {"retry-after": str(wait)}
        body = error_body("rate_limit_exceeded", "Rate limit reached.", "rate_limit_exceeded")
        self._plan(name, self._transport(), status=429, body=body, headers=headers)
        return True

    def fail(self) -> bool:
        """An answer fails after its beginning."""
        code = self.dice.choice(["server_error", "rate_limit_exceeded"])
        name = self.target() if code == "rate_limit_exceeded" else ""
        if name is None:
            return False
        if name:
            self.mark_out(name, 5)
        message = self.dice.choice(["Something went wrong.", "Please try again in 0.3s."])
        transport = self.dice.choice(["http/1.1", "message"])
        self._plan(name, transport, fail=code, fail_message=message, fail_after=self.dice.randint(0, 2))
        return True

    def refuse_pat_on_endpoint(self) -> bool:
        """An endpoint refuses PATs."""
        name = self.target(pats=True)
        if name is None:
            return False
        path = SEARCH.removeprefix(BACKEND)
        body = error_body("no_matching_rule", "This token may not be used here.")
        self.standin.plan(Answer(path=path, token=self.world.bearer(name), status=401, body=body))
        return True

    def disturb_sockets(self) -> bool:
        if time.monotonic() < self._sockets_disturbed + 3:
            return False  # several in a row make a client switch to HTTP
        self._sockets_disturbed = time.monotonic()
        old = error_body("websocket_connection_limit_reached", "This socket is an hour old.")
        match self.dice.randint(0, 3):
            case 0:
                self.standin.drop("websocket")
            case 1:
                self.standin.push({"type": "error", "status": 400, **old, "headers": {}})
            case _:
                self.standin.close(code=self.dice.choice([1000, 1001, 1011, 1012]))
        return True

    def expire_login(self) -> bool:
        """Revoke the access token of a login, so that it has to be renewed."""
        name = self.world.names[-LOGINS]
        if name in self.out:
            return False
        self.mark_out(name, 5)
        self.standin.kill(self.world.bearer(name))
        return True

    def distract_whoami(self) -> bool:
        answer: dict[str, Any] = self.dice.choice(
            [{"status": 503}, {"cut": "head"}, {"status": 403, "body": "<html>bot?</html>"}]
        )
        self.standin.plan(Answer(path=WHOAMI, **answer))
        return True

    # -- the operators

    def start(self, doing: Any) -> None:
        task = asyncio.ensure_future(doing)
        self._operators.add(task)
        task.add_done_callback(self._operators.discard)

    async def _replace_token(self, name: str, seconds: float, waits: bool) -> None:
        """Replace a token, sometimes only after its flag."""
        old = self.world.tokens[name]
        ends = time.monotonic() + 12
        while waits and name not in self.flagged() and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.3)
        await asyncio.sleep(seconds)
        word = f"at-test-{name}-{next(self._serial):04}abcdef0123456789012345678"
        new = replace(old, token=word, alive=True)
        self.standin.add(new)
        self.world.tokens[name] = new
        while old.token in self.edit(lambda text: text.replace(old.token, new.token)):
            self.world.findings.counts["repeated edits"] += 1
            await asyncio.sleep(0.2)
        self.dead.discard(name)
        self.mark_out(name, 3)
        self.world.findings.counts["tokens replaced"] += 1

    def comment(self) -> bool:
        line = f"# note {next(self._serial)}: {'x' * self.dice.randint(0, 60)}\n"

        def change(text: str) -> str:
            lines = [one for one in text.splitlines(keepends=True) if not one.startswith("# note")]
            lines.insert(self.dice.choice([0, len(lines)]), line)
            return "".join(lines)

        self.edit(change)
        return True

    def order(self) -> bool:
        def change(text: str) -> str:
            head, *tables = text.split("[[identity]]")
            tables = [table.rstrip() + "\n\n" for table in tables]
            self.dice.shuffle(tables)
            return "[[identity]]".join([head, *tables])

        self.edit(change)
        return True

    def select(self) -> bool:
        self._select(self.dice.choice(["headroom", "headroom", "round-robin", "drain-first"]))
        return True

    def _select(self, selection: str) -> None:
        self.edit(lambda text: re.sub(r'selection = "[\w-]+"', f'selection = "{selection}"', text))

    def pause(self) -> bool:
        name = self.target()
        if name is None or self.paused:
            return False
        self.start(self._pause(name, self.dice.uniform(2, 6)))
        return True

    async def _pause(self, name: str, seconds: float) -> None:
        line = f'name = "{name}"\n'
        self.mark_out(name, seconds + 3)
        self.paused.add(name)
        self.edit(lambda text: text.replace(line, line + "paused = true\n"))
        await asyncio.sleep(seconds)
        while line + "paused" in self.edit(lambda text: text.replace(line + "paused = true\n", line)):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        self.paused.discard(name)

    def edit(self, change: Callable[[str], str]) -> str:
        """Edit pool.toml without a lock, as an editor does. Return the file's text afterwards."""
        text = change(self.path.read_text())
        tomllib.loads(text)
        new = self.path.with_suffix(".editor")
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(self.path)
        return self.path.read_text()

    def flagged(self) -> dict[str, str]:
        """Return the flags in pool.toml that match the present token: name and token."""
        flags = {}
        for table in tomllib.loads(self.path.read_text())["identity"]:
            flag = table.get("needs_replacement")
            if flag and flag["token"] == f"sha256:{fingerprint(table['token'])}":
                flags[table["name"]] = table["token"]
        return flags


def fingerprint(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:12]
