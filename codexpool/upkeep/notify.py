"""A person is told when an identity comes to need one: once a case, off the path of requests, with no secret."""

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
from codexpool.config import Notify
from codexpool.credentials import http_client
from codexpool.credentials.command import let_go
from codexpool.credentials.http_client import Route
from codexpool.pool.identity import Identity
from codexpool.redaction import redact_tokens

logger = logging.getLogger("codexpool")

TIMEOUT: Final = 10.0
"""Seconds for a command or a webhook."""

PAUSES: Final = (1.0, 5.0, 30.0)
"""Seconds between the tries."""


class Notices:
    """Runs the command, and asks the address, that pool.toml names.

    ``claim`` says whether a case is for this process to tell: several proxies may find out the same thing.
    """

    def __init__(self, route: Route, tasks: Tasks, claim: Callable[[str], Awaitable[bool]]) -> None:
        self._route = route
        self._tasks = tasks
        self._claim = claim

    def give(self, identity: Identity, notify: Notify, folder: Path, environ: Mapping[str, str]) -> None:
        """Tell the people named that this identity needs help. Commands run in ``folder`` with ``environ``."""
        text = json.dumps(notice(identity))
        for how, tell in (
            ("command", lambda: _run(notify.command, folder, environ, text)),
            ("webhook", lambda: self._post(notify.webhook, text)),
        ):
            if getattr(notify, how):
                case = f"{how}:{folder}:{identity.name}:{identity.status}:{identity.fingerprint}"
                self._tasks.spawn(self._told(case, f"notify.{how}", identity.name, tell))

    async def _told(self, case: str, how: str, name: str, tell: Callable[[], Awaitable[None]]) -> None:
        if not await self._claim(case):
            return None
        for pause in (*PAUSES, None):
            try:
                return await tell()
            except Exception as error:  # whatever a command or a server comes up with
                reason = redact_tokens(str(error)) or type(error).__name__
                if pause is None:
                    logger.error("%s: nobody could be told about %s: %s", how, name, reason)
                    return None
                logger.warning("%s: %s; tried again in %.0f s", how, reason, pause)
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
    """What is told: ``name``, ``status``, ``reason``, ``since`` (UTC), ``fingerprint``."""
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
    """Run a command with the notice on its standard input."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            _, said = await process.communicate(text.encode())
    except BaseException as error:
        if process.returncode is None:
            process.kill()
        if isinstance(error, TimeoutError):
            raise RuntimeError(f"{argv[0]} has not ended within {TIMEOUT:.0f} s") from None
        raise
    finally:
        let_go(process)
    if process.returncode != 0:
        last = redact_tokens(said.decode(errors="replace")).strip()[-200:]
        raise RuntimeError(f"{argv[0]} ended with exit code {process.returncode}: {last}")
