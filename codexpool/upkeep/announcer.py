"""Tells people what happened to the pool: log lines, reminders, and notices by command or webhook.

A notice is sent once per case, without delaying requests, and without secrets.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from codexpool.common import tasks
from codexpool.common.iso_time import iso_time
from codexpool.common.tasks import Tasks
from codexpool.config.model import PoolConfig
from codexpool.config.sources import environ_of_programs, secret_variables
from codexpool.credentials import http_client
from codexpool.credentials.command import CommandLine, run
from codexpool.credentials.http_client import Route
from codexpool.pool.identity import Condition, Identity, Status, clock
from codexpool.pool.needs import described, expiry, reasons_of, remedy
from codexpool.pool.pool import Pool
from codexpool.pool.states import RETURNING
from codexpool.redaction import redact_tokens

logger = logging.getLogger("codexpool")

REMIND_EVERY: Final = 86_400.0  # Seconds between two reminders that the same token expires soon.
TIMEOUT: Final = 10.0  # Seconds for the command or the webhook of a notice.
PAUSES: Final = (1.0, 5.0, 30.0)  # Seconds between two attempts to send a notice.


@dataclass(slots=True)
class Announcer:
    """Logs each change once, and sends a notice when an identity needs a person.

    ``config`` is the configuration in use. ``claim`` tells whether this process may handle a case: several proxies
    may find out the same thing. ``scope`` returns the key in the state of what belongs to a folder. The command of a
    notice runs with ``environ`` without the pool's secrets.
    """

    config: PoolConfig
    pool: Pool
    owner: Tasks
    claim: Callable[[str], Awaitable[bool]]
    scope: Callable[[Path], str]
    route: Route
    environ: Mapping[str, str]
    _reminded: dict[str, float] = field(default_factory=dict)
    _announced_breaker: float | None = None  # When the open breaker ends, as last announced.

    def status(self, identity: Identity, before: Condition) -> None:
        """Announce an identity's condition; ``before`` is the one it left."""
        condition = identity.condition
        match condition.status:
            case Status.READY:
                if before.status not in RETURNING:
                    logger.info("%s is ready: %s", identity.name, described(identity))
                elif before.status is Status.LIMITED and condition.since < (before.until or 0.0):
                    logger.info("%s is ready: its limit was lifted before its time", identity.name)
            case Status.NEEDS_REPLACEMENT | Status.NEEDS_LOGIN | Status.CONFLICT:
                self._needs_a_person(identity)
            case Status.PAUSED:
                logger.warning("%s is paused: %s", identity.name, condition.evidence)
            case Status.RESTING | Status.LIMITED:
                until = "further notice" if condition.until is None else clock(condition.until, condition.since)
                doing = "rests" if condition.status is Status.RESTING else "is limited"
                logger.info("%s %s until %s UTC: %s", identity.name, doing, until, condition.evidence)

    def breaker(self) -> str:
        """Announce that the breaker opened or closed. Return the text, empty if nothing changed."""
        breaker = self.pool.states.breaker
        until = breaker.until if breaker.opened_at is not None else None
        if until == self._announced_breaker:
            return ""
        self._announced_breaker = until
        if until is not None:
            why = reasons_of(self.pool, breaker.names)
            text = (
                f"the breaker is open until {clock(until)} UTC, sessions are not moved: refused for good "
                f"within a minute: {', '.join(breaker.names)}{why}. Then one request finds out. To end it now: "
                "codexpool breaker --close"
            )
        else:
            text = "the breaker is closed: sessions are moved again"
        logger.warning("%s", text)
        return text

    def remind(self, now: float) -> None:
        """Log, once a day for each identity, that its token expires soon and should be replaced."""
        for identity in self.pool.identities.values():
            text = expiry(identity.expires_at, now)
            if text and abs(now - self._reminded.get(identity.name, 0.0)) > REMIND_EVERY:
                self._reminded[identity.name] = now
                logger.warning("%s: %s. codexpool replace %s", identity.name, text, identity.name)

    def _needs_a_person(self, identity: Identity) -> None:
        config, evidence, status = self.config, identity.condition.evidence, identity.status
        spec = config.identity(identity.name)
        if spec is None or evidence is None:
            return
        what = f"is in {status}" if status is Status.CONFLICT else str(status)
        logger.warning("%s %s: %s. %s", identity.name, what, evidence, remedy(identity, f"{config.path}:{spec.line}"))
        text, scope, notify = json.dumps(notice(identity)), self.scope(config.path.parent), config.notify
        sends = {"command": partial(self._run, config, text)} if notify.command else {}
        if notify.webhook:
            sends["webhook"] = partial(self._post, notify.webhook, text)
        for channel, send in sends.items():
            case = f"{channel}:{scope}:{identity.name}:{status}:{identity.fingerprint}"
            self.owner.spawn(self._send(case, f"notify.{channel}", identity.name, send))

    async def _send(self, case: str, channel: str, name: str, send: Callable[[], Awaitable[None]]) -> None:
        if not await self.claim(case):
            return
        for pause in (*PAUSES, None):
            try:
                await send()
            except Exception as error:  # Whatever a command or a server comes up with.
                reason = redact_tokens(str(error)) or type(error).__name__
                if pause is None:
                    logger.error("%s: could not send the notice about %s: %s", channel, name, reason)
                    return
                logger.warning("%s: %s; retrying in %.0f s", channel, reason, pause)
                await asyncio.sleep(pause)
            else:
                return

    async def _run(self, config: PoolConfig, text: str) -> None:
        line = CommandLine(config.notify.command, config.path.parent, timeout_ms=round(TIMEOUT * 1000))
        environ = environ_of_programs(self.environ, secret_variables(config))
        await run(line, environ, text=text, wants_output=False)

    async def _post(self, address: str, text: str) -> None:
        headers = {"content-type": "application/json"}
        async with (
            await tasks.in_thread(http_client.client, self.route, TIMEOUT, headers) as client,
            client.stream("POST", address, content=text) as response,
        ):
            status = response.status_code  # The body is not read.
        if status >= 400:
            raise RuntimeError(f"the webhook answers {status}")


def notice(identity: Identity) -> dict[str, str]:
    """Return the notice about an identity; ``since`` is in UTC."""
    condition = identity.condition
    since = iso_time(int(condition.since))
    return {
        "name": identity.name,
        "status": str(condition.status),
        "reason": redact_tokens(str(condition.evidence or "")),
        "since": since,
        "fingerprint": identity.fingerprint,
    }
