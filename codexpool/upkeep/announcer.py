"""Tells people what happened to the pool: log lines, notices by command or webhook, reminders."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from codexpool.config.model import PoolConfig
from codexpool.config.programs import environ_of_programs, secret_variables
from codexpool.pool.identity import Condition, Identity, Status, clock
from codexpool.pool.needs import described, expiry, reasons_of, remedy
from codexpool.pool.pool import Pool
from codexpool.pool.states import RETURNING
from codexpool.upkeep.notify import Notices

logger = logging.getLogger("codexpool")

REMIND_EVERY = 86_400.0
"""Seconds between two reminders that the same token expires soon."""


class Announcer:
    """Logs each change once, and sends a notice when an identity needs a person.

    ``config`` is the configuration in use. Commands of notices run with ``environ`` without the pool's secrets.
    """

    def __init__(self, config: PoolConfig, pool: Pool, notices: Notices, environ: Mapping[str, str]) -> None:
        self.config = config
        self._pool = pool
        self._notices = notices
        self._environ = environ
        self._reminded: dict[str, float] = {}
        self._announced_breaker: float | None = None
        """When the open breaker ends, as last announced."""

    def status(self, identity: Identity, before: Condition) -> None:
        """Announce an identity's condition; ``before`` is the one it left."""
        condition = identity.condition
        match condition.status:
            case Status.READY:
                if before.status not in RETURNING:
                    logger.info("%s is ready: %s", identity.name, described(identity))
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
        breaker = self._pool.states.breaker
        if self._announced_breaker == breaker.until or (
            self._announced_breaker is None and breaker.opened_at is None
        ):
            return ""
        if breaker.opened_at is not None:
            why = reasons_of(self._pool, breaker.names)
            text = (
                f"the breaker is open until {clock(breaker.until)} UTC, sessions are not moved: refused for good "
                f"within a minute: {', '.join(breaker.names)}{why}. Then one request finds out. To end it now: "
                "codexpool breaker --close"
            )
        else:
            text = "the breaker is closed: sessions are moved again"
        logger.warning("%s", text)
        self._announced_breaker = breaker.until if breaker.opened_at is not None else None
        return text

    def remind(self, now: float) -> None:
        """Log, once a day for each identity, that its token expires soon and should be replaced."""
        for identity in self._pool.identities.values():
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
        environ = environ_of_programs(self._environ, secret_variables(config))
        self._notices.send(identity, config.notify, config.path.parent, environ)
