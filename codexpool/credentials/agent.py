"""Agent identities as credentials: a task is registered once and kept, and each request is signed for it.

The task is kept in a file of its own in the state's folder, so that restarts, commands and other proxies use the
same one. It is registered under a lock that works across processes, and only if the file has no other task than the
refused one. Where the file cannot be used, the task is kept in memory. The id of a task is not secret; the key, which
is, is not written there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from codexpool.common import tasks
from codexpool.common.atomic_replace import Replacement, locked
from codexpool.common.private_files import private_folder
from codexpool.credentials import Credential, Renewal
from codexpool.credentials.agent_api import TIMEOUT, AgentApi, WrongSignatureError
from codexpool.credentials.agent_identity import AgentIdentity
from codexpool.credentials.authapi import Whoami
from codexpool.pool.identity import Evidence, Kind, Word
from codexpool.tokens.agent_key import AgentTask, is_id
from codexpool.tokens.bearer import Bearer

logger = logging.getLogger("codexpool")

LOCK_TIMEOUT: Final = TIMEOUT + 10.0  # Seconds to wait for another process that registers a task of the same agent.
LONGEST_FILE: Final = 4096  # Bytes of a file with a task that are read.


class Agent(Credential):
    """An agent identity, and the task it works on; ``identity`` was just read from where pool.toml has it."""

    kind = Kind.AGENT

    def __init__(self, identity: AgentIdentity, api: AgentApi) -> None:
        self.identity = identity
        self._api = api
        self._path = api.folder / f"{identity.key.fingerprint}.json"
        self._is_signed = not identity.jwt  # Its signature is good; nothing signs a record.
        self._task = self._kept() or (self._of(identity.task_id) if identity.task_id else None)

    def bearer(self) -> AgentTask | None:
        return self._task

    @property
    def mark(self) -> str:
        return self.identity.key.fingerprint

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        if self._task is not None and self._task != stale:
            return Renewal(self._task, issued=False)
        # Shielded, in a thread of its own: a task that was registered is kept. The end of the process does not wait.
        task, is_new = await asyncio.shield(tasks.in_thread(self._renew, stale, daemon=True))
        self._task = task
        return Renewal(task, issued=refused and is_new)

    async def confirm(self) -> None:
        """Register a task that is not used: the backend does so for a good key only.

        Raises NoTokenNowError and NoTokenAnyMoreError.
        """
        await tasks.in_thread(self._api.register, self.identity, daemon=True)

    async def owner(self, task: Bearer) -> Whoami:
        """Return the owner that the credential names, unless it is a JWT with a wrong signature."""
        evidence = Evidence(time.time(), fingerprint=task.fingerprint)
        try:
            if not self._is_signed:
                self._is_signed = await self._api.is_signed(self.identity.jwt)
        except WrongSignatureError:
            note = "its JWT has a wrong signature, by the keys that the backend publishes"
            return Whoami(Word.UNREACHABLE, Evidence(evidence.at, fingerprint=task.fingerprint, note=note))
        return Whoami(Word.HEALTHY, evidence, self.identity.metadata)

    def after(self, before: Credential | None) -> Credential:
        if isinstance(before, Agent) and before.identity == self.identity:
            return before
        return self

    def _of(self, task_id: str) -> AgentTask:
        return AgentTask.of_key(self.identity.key, task_id, self._api.clock)

    def _renew(self, stale: Bearer | None) -> tuple[AgentTask, bool]:
        """Return another task than ``stale``, and whether it was registered just now."""
        with ExitStack() as stack:
            new = self._locked(stack)
            if (kept := self._kept()) is not None and kept != stale:
                return kept, False
            task_id = self._api.register(self.identity)
            if new is not None:
                self._keep(new, task_id)
            return self._of(task_id), True

    def _locked(self, stack: ExitStack) -> Path | None:
        """Lock the file of the task, and return it; None if that is impossible here."""
        try:
            for folder in (self._path.parent.parent, self._path.parent):  # The first one is the state's.
                private_folder(folder)
            self._path.touch(mode=0o600)
            real = self._path.resolve(strict=True)
            stack.enter_context(locked(real, LOCK_TIMEOUT))
        except (OSError, RuntimeError, NotImplementedError) as error:
            _not_kept(self._path, error)
            return None
        return real

    def _keep(self, real: Path, task_id: str) -> None:
        try:
            with Replacement(real) as new:
                new.put(json.dumps({"task_id": task_id}).encode())
        except OSError as error:
            _not_kept(self._path, error)

    def _kept(self) -> AgentTask | None:
        """Return the task that the file has; None if there is none, or it is not readable."""
        try:
            with self._path.open("rb") as file:
                document = json.loads(file.read(LONGEST_FILE))
        except (OSError, ValueError, RecursionError):
            return None
        task_id = document.get("task_id") if isinstance(document, dict) else None
        return self._of(str(task_id)) if is_id(task_id) else None


def _not_kept(path: Path, error: BaseException) -> None:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    logger.warning("%s cannot be written (%s): after a restart, another task is registered", path, reason)
