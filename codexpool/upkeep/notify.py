"""Notifies people when an identity needs one: once per case, without delaying requests, and without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from codexpool.common import tasks
from codexpool.common.tasks import Tasks
from codexpool.config.model import Notify
from codexpool.credentials import http_client
from codexpool.credentials.command import CommandLine, run
from codexpool.credentials.http_client import Route
from codexpool.pool.identity import Identity
from codexpool.redaction import redact_tokens

logger = logging.getLogger("codexpool")

TIMEOUT: Final = 10.0
"""Seconds for a command or a webhook."""

PAUSES: Final = (1.0, 5.0, 30.0)
"""Seconds between two attempts."""


class Notices:
    """Runs the command, and calls the webhook, of pool.toml.

    ``claim`` tells whether this process may handle a case: several proxies may find out the same thing.
    """

    def __init__(self, route: Route, tasks: Tasks, claim: Callable[[str], Awaitable[bool]]) -> None:
        self._route = route
        self._tasks = tasks
        self._claim = claim

    def send(self, identity: Identity, notify: Notify, folder: Path, environ: Mapping[str, str]) -> None:
        """Send a notice that this identity needs a person. The command runs in ``folder`` with ``environ``."""
        text = json.dumps(notice(identity))
        for channel, send in (
            ("command", lambda: _run(notify.command, folder, environ, text)),
            ("webhook", lambda: self._post(notify.webhook, text)),
        ):
            if getattr(notify, channel):
                case = f"{channel}:{folder}:{identity.name}:{identity.status}:{identity.fingerprint}"
                self._tasks.spawn(self._send(case, f"notify.{channel}", identity.name, send))

    async def _send(self, case: str, channel: str, name: str, send: Callable[[], Awaitable[None]]) -> None:
        if not await self._claim(case):
            return None
        for pause in (*PAUSES, None):
            try:
                return await send()
            except Exception as error:  # Whatever a command or a server comes up with.
                reason = redact_tokens(str(error)) or type(error).__name__
                if pause is None:
                    logger.error("%s: could not send the notice about %s: %s", channel, name, reason)
                    return None
                logger.warning("%s: %s; retrying in %.0f s", channel, reason, pause)
                await asyncio.sleep(pause)
        return None

    async def _post(self, address: str, text: str) -> None:
        headers = {"content-type": "application/json"}
        async with (
            await tasks.in_thread(http_client.client, self._route, TIMEOUT, headers) as client,
            client.stream("POST", address, content=text) as response,
        ):
            status = response.status_code  # The body is not read.
        if status >= 400:
            raise RuntimeError(f"the webhook answers {status}")


def notice(identity: Identity) -> dict[str, str]:
    """Return the notice about an identity: ``name``, ``status``, ``reason``, ``since`` (UTC), ``fingerprint``."""
    condition = identity.condition
    since = datetime.fromtimestamp(int(condition.since), UTC).isoformat().replace("+00:00", "Z")
    return {
        "name": identity.name,
        "status": str(condition.status),
        "reason": redact_tokens(str(condition.evidence or "")),
        "since": since,
        "fingerprint": identity.fingerprint,
    }


async def _run(argv: tuple[str, ...], folder: Path, environ: Mapping[str, str], text: str) -> None:
    line = CommandLine(argv, folder, timeout_ms=round(TIMEOUT * 1000))
    await run(line, environ, text=text, wants_output=False)
