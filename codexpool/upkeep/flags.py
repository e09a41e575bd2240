"""The flags of pool.toml: read into the pool, and written from it in the background.

`FlagWriter` decides what an identity's flag must be. `PendingFlags` writes it: `put` only queues, and one task writes
the whole queue in one edit, in its own thread, under the lock of `codexpool.config.editing`. No request waits for it.

- The file cannot be written (locked, read-only, full, half saved): the flag stays queued and is retried after a
  growing pause. The failure is logged once, and so is the recovery.
- A newer flag for the same identity is queued during a write: it is written next.
- The reason is gone (a new token, a removed identity): ``is_wanted`` is checked before each attempt, and the edit
  compares the fingerprint of the token in the file. Such a flag is dropped.
- The process ends: one last attempt, which waits for the lock `LAST_LOCK_TIMEOUT` at most. A flag lost then is found
  out again after the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from codexpool.common import tasks
from codexpool.config.model import Flag, IdentitySpec, PoolConfig
from codexpool.pool.identity import Condition, Evidence, Identity, Status
from codexpool.pool.pool import Pool
from codexpool.upkeep.vault import Vault

logger = logging.getLogger("codexpool")

PAUSES: Final = (0.5, 15.0)
"""Seconds between two attempts to write: the first pause and the longest. Each is twice the one before."""

LAST_LOCK_TIMEOUT: Final = 0.5
"""Seconds that the last attempt waits for another editor."""

IsWanted = Callable[[str, Flag | None], bool]
"""Tells whether an identity's flag (None: its removal) must still be written."""


class FlagWriter:
    """Keeps the flags of pool.toml and the statuses of identities consistent. ``config`` is the one in force."""

    def __init__(self, pool: Pool, vault: Vault, owner: tasks.Tasks) -> None:
        self.config: PoolConfig | None = None
        self._pool = pool
        self._vault = vault
        self._pending = PendingFlags(owner, self._is_wanted)

    def apply(self, spec: IdentitySpec, before: IdentitySpec | None) -> None:
        """Apply to an identity the flag that pool.toml has; ``before`` is its entry before the reload."""
        identity, bearer = self._pool.identities[spec.name], self._vault.bearer(spec.name)
        if bearer is None:
            return
        if before is not None and (before.account_id, before.user_id) != (spec.account_id, spec.user_id):
            self._vault.doubt(identity)
        if spec.flag is None:
            if identity.status is not Status.NEEDS_REPLACEMENT:
                return
            if before is not None and before.flag is not None:
                self._vault.doubt(identity)  # A person removed the flag and kept the token.
            else:
                self.flag(identity)  # An editor saved an older text over our flag.
        elif not spec.flag.applies_to(bearer):
            self._put(spec.name, None)
        elif identity.status is not Status.NEEDS_REPLACEMENT:
            evidence = Evidence(spec.flag.since.timestamp(), fingerprint=bearer.fingerprint, note=spec.flag.reason)
            condition = Condition(Status.NEEDS_REPLACEMENT, evidence.at, evidence=evidence)
            self._pool.states.condition_learned(identity.name, identity.fingerprint, condition)

    def flag(self, identity: Identity) -> None:
        """Write the flag of an identity with a dead token, unless pool.toml has it."""
        condition, spec = identity.condition, self._spec(identity.name)
        if spec is not None and not _is_flagged(spec, identity):
            since = datetime.fromtimestamp(int(condition.since), UTC)
            reason = str(condition.evidence or "")
            self._put(identity.name, Flag(since, reason, f"sha256:{identity.fingerprint}"))

    def close(self) -> None:
        """Write what is pending. May take a second: for the end of the process."""
        self._pending.close()

    def _put(self, name: str, flag: Flag | None) -> None:
        if self.config is not None:
            self._pending.put(self.config.path, name, flag)

    def _is_wanted(self, name: str, flag: Flag | None) -> bool:
        identity, spec = self._pool.identities.get(name), self._spec(name)
        if identity is None or spec is None:
            return False
        if flag is None:
            return spec.flag is not None and not _is_flagged(spec, identity)
        return identity.status is Status.NEEDS_REPLACEMENT and flag.token == f"sha256:{identity.fingerprint}"

    def _spec(self, name: str) -> IdentitySpec | None:
        return self.config.identity(name) if self.config is not None else None


def _is_flagged(spec: IdentitySpec, identity: Identity) -> bool:
    return spec.flag is not None and spec.flag.token == f"sha256:{identity.fingerprint}"


class PendingFlags:
    """The flags not yet written to pool.toml. Every method belongs to the thread of the event loop."""

    def __init__(self, owner: tasks.Tasks, is_wanted: IsWanted) -> None:
        self._owner = owner
        self._is_wanted = is_wanted
        self._queued: dict[str, Flag | None] = {}
        self._path = Path()
        self._writing: asyncio.Task[None] | None = None
        self._is_failing = False

    def put(self, path: Path, name: str, flag: Flag | None) -> None:
        """Queue a flag for an identity in the file at ``path``; None removes it."""
        self._path = path
        self._queued[name] = flag
        if self._writing is None or self._writing.done():
            self._writing = self._owner.spawn(self._write())

    def close(self) -> None:
        """Try once more to write what is queued. May take a second: for the end of the process."""
        self._drop_unwanted()
        if self._queued:
            self._put(LAST_LOCK_TIMEOUT)
            self._queued.clear()

    async def _write(self) -> None:
        pauses = tasks.growing_pauses(*PAUSES)
        while self._queued:
            flags = dict(self._queued)
            said = await tasks.in_thread(_put, self._path, flags, None)
            if said is None:
                self._written(flags)
            else:
                self._failed(said)
                await asyncio.sleep(next(pauses))
            self._drop_unwanted()

    def _put(self, lock_timeout: float) -> None:
        flags = dict(self._queued)
        said = _put(self._path, flags, lock_timeout)
        if said is None:
            self._written(flags)
        else:
            logger.error("%s; not written before the end: %s", said, ", ".join(flags))

    def _written(self, flags: dict[str, Flag | None]) -> None:
        for name, flag in flags.items():
            if name in self._queued and self._queued[name] is flag:
                del self._queued[name]
        if self._is_failing and not self._queued:
            self._is_failing = False
            logger.info("%s: the flags are written (%s)", self._path, ", ".join(flags))

    def _failed(self, said: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            names = ", ".join(self._queued)
            logger.error("%s. The flags of %s are written when that is possible", said, names)

    def _drop_unwanted(self) -> None:
        for name, flag in list(self._queued.items()):
            if not self._is_wanted(name, flag):
                del self._queued[name]
        if not self._queued:
            self._is_failing = False


def _put(path: Path, flags: dict[str, Flag | None], lock_timeout: float | None) -> str | None:
    """Write the flags. Return the error if the file cannot be written now. For a thread."""
    from codexpool.config import editing  # Slow to import and rarely needed.

    try:
        refused = editing.put_flags(path, flags, lock_timeout)
    except editing.EditError as error:
        return str(error)
    for name, reason in refused.items():
        logger.error("%s: the flag of %s cannot be written: %s; edit the file by hand", path, name, reason)
    return None
