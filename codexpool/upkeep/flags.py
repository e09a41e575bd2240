"""The flags of pool.toml: read into the pool, and written from it in the background.

A flag is only queued; one task writes the whole queue in one edit, in a thread. While the file cannot be written, the
flags stay queued. A flag that no longer applies (a new token, a removed identity) is dropped before each attempt. At
the end of the process there is one last attempt; a flag lost then is found out again after the next start.

A file that is not for this process to write to (a mounted secret) is no failure. The state has the same flags, as the
conditions of their tokens: `codexpool list` shows them, and `codexpool.upkeep.vault` has them outlive the process.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from codexpool.common import tasks
from codexpool.config.model import Flag, IdentitySpec, PoolConfig, Unflagged
from codexpool.pool.identity import Condition, Evidence, Identity, Kind, Status
from codexpool.pool.pool import Pool
from codexpool.upkeep.vault import Vault

if TYPE_CHECKING:
    from codexpool.config.editing import EditError

logger = logging.getLogger("codexpool")

PAUSES: Final = (0.5, 15.0)  # Seconds between two attempts to write: the first pause and the longest.
LAST_LOCK_TIMEOUT: Final = 0.5  # Seconds that the last attempt waits for another editor.


@dataclass(slots=True)
class FlagWriter:
    """Keeps the flags of pool.toml and the statuses of identities consistent. ``config`` is the one in use."""

    config: PoolConfig
    pool: Pool
    vault: Vault
    owner: tasks.Tasks
    _queued: dict[str, Flag | Unflagged | None] = field(default_factory=dict)  # By identity, see `put_flags`.
    _writing: asyncio.Task[None] | None = None
    _is_failing: bool = False
    _is_read_only: bool = False  # As logged: once is enough.

    def apply(self, spec: IdentitySpec, before: IdentitySpec | None) -> None:
        """Apply to an identity the flag that pool.toml has; ``before`` is its entry before the reload."""
        identity, bearer = self.pool.identities[spec.name], self.vault.bearer(spec.name)
        if bearer is None:
            return
        if before is not None and (before.account_id, before.user_id) != (spec.account_id, spec.user_id):
            self.vault.doubt(identity)
        if spec.flag is None:
            if identity.status is not Status.NEEDS_REPLACEMENT:
                return
            if before is not None and before.flag is not None:
                self.vault.doubt(identity)  # A person removed the flag and kept the token.
            else:
                self.flag(identity)  # An editor saved an older text over our flag.
        elif not spec.flag.applies_to(bearer):
            self._queue(spec.name, None)
        elif _is_good_again(spec, identity):
            self._queue(spec.name, Unflagged(spec.flag.token))
        elif identity.status is not Status.NEEDS_REPLACEMENT and identity.cleared_at <= spec.flag.since.timestamp():
            evidence = Evidence(spec.flag.since.timestamp(), fingerprint=bearer.fingerprint, note=spec.flag.reason)
            condition = Condition(Status.NEEDS_REPLACEMENT, evidence.at, evidence=evidence)
            self.pool.states.condition_learned(identity.name, identity.fingerprint, condition)

    def flag(self, identity: Identity) -> None:
        """Write the flag of an identity with a dead PAT, unless pool.toml has it.

        An agent is not flagged: its fingerprint is that of a task, which pool.toml does not have.
        """
        condition, spec = identity.condition, self.config.identity(identity.name)
        if spec is not None and identity.kind is Kind.PAT and not _is_flagged(spec, identity):
            since = datetime.fromtimestamp(int(condition.since), UTC)
            reason = str(condition.evidence or "")
            self._queue(identity.name, Flag(since, reason, f"sha256:{identity.fingerprint}"))

    def unflag(self, identity: Identity) -> None:
        """Remove the flag of an identity whose token whoami has vouched for since: a person had it verified."""
        spec = self.config.identity(identity.name)
        if spec is not None and spec.flag is not None and _is_good_again(spec, identity):
            self._queue(identity.name, Unflagged(spec.flag.token))

    def close(self) -> None:
        """Try once more to write what is queued. May take a second: for the end of the process."""
        self._drop_unwanted()
        if self._queued and (error := self._put(dict(self._queued), LAST_LOCK_TIMEOUT)) and not error.is_unwritable:
            logger.error("%s; flags not written before the end: %s", error, ", ".join(self._queued))
        self._queued.clear()

    def _queue(self, name: str, flag: Flag | Unflagged | None) -> None:
        self._queued[name] = flag
        if self._writing is None or self._writing.done():
            self._writing = self.owner.spawn(self._write())

    async def _write(self) -> None:
        pauses = tasks.growing_pauses(*PAUSES)
        while self._queued:
            flags = dict(self._queued)
            error = await tasks.in_thread(self._put, flags, None)
            if error is not None:
                self._log(error)
                await asyncio.sleep(next(pauses))
            else:
                for name, flag in flags.items():
                    if name in self._queued and self._queued[name] is flag:
                        del self._queued[name]
                if (self._is_failing or self._is_read_only) and not self._queued:
                    self._is_failing = self._is_read_only = False
                    logger.info("%s: the flags are written (%s)", self.config.path, ", ".join(flags))
            self._drop_unwanted()

    def _log(self, error: EditError) -> None:
        if error.is_unwritable and not self._is_read_only:
            self._is_read_only = True
            logger.info("%s %s: flags are kept in the state", self.config.path, error.what)
        elif not error.is_unwritable and not self._is_failing:
            self._is_failing = True
            logger.error("%s. Retrying; flags not written yet: %s", error, ", ".join(self._queued))

    def _put(self, flags: dict[str, Flag | Unflagged | None], lock_timeout: float | None) -> EditError | None:
        """Write flags. Return the error if the file cannot be written now. For a thread."""
        from codexpool.config import editing  # Slow to import and rarely needed.

        path = self.config.path
        try:
            refused = editing.put_flags(path, flags, lock_timeout)
        except editing.EditError as error:
            return error
        for name, reason in refused.items():
            logger.error("%s: the flag of %s cannot be written: %s; edit the file by hand", path, name, reason)
        return None

    def _drop_unwanted(self) -> None:
        for name, flag in list(self._queued.items()):
            if not self._is_wanted(name, flag):
                del self._queued[name]
        if not self._queued:
            self._is_failing = False

    def _is_wanted(self, name: str, flag: Flag | Unflagged | None) -> bool:
        identity, spec = self.pool.identities.get(name), self.config.identity(name)
        if identity is None or spec is None:
            return False
        if flag is None:
            return spec.flag is not None and not _is_flagged(spec, identity)
        if isinstance(flag, Unflagged):
            return _is_good_again(spec, identity)
        return identity.status is Status.NEEDS_REPLACEMENT and flag.token == f"sha256:{identity.fingerprint}"


def _is_good_again(spec: IdentitySpec, identity: Identity) -> bool:
    """Return whether whoami has vouched for a token since it was flagged."""
    if spec.flag is None or not _is_flagged(spec, identity) or identity.status is Status.NEEDS_REPLACEMENT:
        return False
    return spec.flag.since.timestamp() < identity.vouched_at


def _is_flagged(spec: IdentitySpec, identity: Identity) -> bool:
    return spec.flag is not None and spec.flag.token == f"sha256:{identity.fingerprint}"
