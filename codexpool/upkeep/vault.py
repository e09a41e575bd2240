"""The tokens of the identities: held, verified before they serve, and renewed in time or after a refusal."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from weakref import WeakSet

from codexpool.common.tasks import Tasks
from codexpool.config.model import IdentitySpec, PoolConfig
from codexpool.credentials import Credential, NoTokenNowError, Renewal
from codexpool.credentials.authapi import AuthApi, Whoami
from codexpool.pool.identity import Condition, Identity, IdentityKey, Kind, Status, Word
from codexpool.pool.needs import described, is_of_workspace
from codexpool.pool.pool import Pool
from codexpool.pool.states import IN_DOUBT
from codexpool.state import Record, Snapshot, record_name
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.backoff import Pauses, Waiting
from codexpool.upkeep.persistence import PATIENCE, Memory
from codexpool.upkeep.renewals import Renewals
from codexpool.upkeep.verification import Verification, expected, of_its_login

logger = logging.getLogger("codexpool")

HELD_OVER = frozenset({Status.LIMITED, Status.RESTING, Status.NEEDS_LOGIN})
"""Conditions of an earlier run that hold until their time; whatever else there was is found out anew."""


LOOKED_AT = 5.0
"""Seconds for which whoami's word on a token that serves is good, whatever requests are told."""

NOBODY = IdentityKey("", "")
"""Nobody in particular is expected."""


class Vault:
    """What is done with tokens, each identity's apart from all others. `Pool` says what has to be done.

    ``api`` is a task: its HTTP client takes its time to be there.
    """

    def __init__(self, pool: Pool, tasks: Tasks, memory: Memory, api: asyncio.Task[AuthApi]) -> None:
        self._pool = pool
        self._tasks = tasks
        self._memory = memory
        self._config: PoolConfig | None = None
        self._credentials: dict[str, Credential] = {}
        self._bearers: dict[str, Bearer] = {}
        """The tokens that may be sent: those whose owner is known, or about to be."""
        self._verifying: set[Identity] = set()
        self._looked_at_later: set[Identity] = set()
        self._distrusted: set[str] = set()
        """Fingerprints of tokens that do not serve on what an earlier run knew."""
        self._recalled: WeakSet[Identity] = WeakSet()
        """Those of whom it is asked what an earlier run has found out, once for each..."""
        self._known_of: WeakSet[Identity] = WeakSet()
        """... and those of whom it is known."""
        self._owners: dict[str, IdentityKey] = {}
        """Whose each identity is, by name: its tokens may change, and this does not."""
        self.waiting = Waiting()
        """The requests that wait for an identity: what they wait for is asked about more often."""
        self._verification = Verification(api)
        self._renewals = Renewals(pool, tasks, self.waiting, self._present, self._came)

    def kept(self, config: PoolConfig, credentials: Mapping[str, Credential]) -> list[IdentitySpec]:
        """Those whose credential is still the one they had, where it cannot be read anew.

        A file may be half written just now, a keyring be locked: no healthy token is to be lost by that.
        """
        before = self._config
        missing = [spec for spec in config.identities if spec.name in self._credentials.keys() - credentials.keys()]
        return [
            spec
            for spec in missing
            if before is not None and (was := before.identity(spec.name)) is not None and was.source == spec.source
        ]

    def take_over(self, config: PoolConfig, credentials: Mapping[str, Credential]) -> set[str]:
        """Hold these credentials from now on; those in use go on where they are. The names of all that are held."""
        held = {name: new.after(self._credentials.get(name)) for name, new in credentials.items()}
        held |= {spec.name: self._credentials[spec.name] for spec in self.kept(config, credentials)}
        changed = [name for name, credential in held.items() if credential is not self._credentials.get(name)]
        if self._config is not None:
            for gone in {spec.name for spec in self._config.identities} - {spec.name for spec in config.identities}:
                self._owners.pop(gone, None)
                self._memory.left(self._config.path, gone)
        self._config = config
        self._credentials = held
        self._bearers = {name: bearer for name, one in held.items() if (bearer := one.bearer()) is not None}
        for name in changed:
            if (identity := self._pool.identities.get(name)) is not None:
                self._renewals.hurry(identity)
        return set(held)

    def identity(self, spec: IdentitySpec, now: float) -> Identity:
        """An identity as it begins. Its credential may still be on its way, from a keyring."""
        credential, bearer = self._credentials.get(spec.name), self._bearers.get(spec.name)
        return Identity(
            spec.name,
            credential.kind if credential is not None else Kind.PAT,
            bearer.fingerprint if bearer is not None else "",
            Condition(Status.UNVERIFIED, now),
            expires_at=spec.expires_at,
            paused=spec.paused,
            priority=spec.priority,
            unsendable=bearer is None,
        )

    def bearer(self, name: str) -> Bearer | None:
        """The token an identity is sent with now; None where it has none, or has left the pool."""
        return self._bearers.get(name)

    async def renewal(self, identity: Identity, seconds: float) -> None:
        """Wait until the renewal of an identity's token that is under way has come to something, or to nothing."""
        with self.waiting.one_more():
            await self._renewals.attempted(identity, seconds)

    def look_after(self, identity: Identity) -> None:
        """Have done what an identity needs before it serves, unless that is under way or it needs a person."""
        if self._tasks.are_stopped:
            return
        if identity not in self._recalled:
            self._recalled.add(identity)
            self._tasks.spawn(self._recall(identity))
        elif identity not in self._known_of:
            pass  # It will be looked after once that is known.
        elif identity.is_in_renewal:
            self._renew(identity, refused=True)
        elif identity.status in (*IN_DOUBT, Status.RESTING) and identity.name not in self._bearers:
            self._renew(identity, refused=False)
        elif identity.status in IN_DOUBT and identity not in self._verifying:
            if self._is_due(identity, time.time()):
                self._renew(identity, refused=False)
                if self._credentials[identity.name].is_over(time.time()):
                    return  # Nobody would know whose it is.
            self._begin_to_verify(identity)

    def look_again(self, identity: Identity) -> None:
        """A request was refused, and its identity serves on: find out meanwhile whether the token is dead."""
        if identity.kind.is_renewable:
            self._renew(identity, refused=True)
        elif identity not in self._verifying and identity not in self._looked_at_later:
            self._looked_at_later.add(identity)
            self._tasks.spawn(self._look(identity)).add_done_callback(
                lambda _: self._looked_at_later.discard(identity)
            )

    async def _look(self, identity: Identity) -> None:
        """Ask about a token that serves, as soon as whoami's last word on it is no longer good."""
        vouched_at = identity.vouched_at
        await asyncio.sleep(min(vouched_at + LOOKED_AT - time.time(), LOOKED_AT))
        is_answered = identity.vouched_at != vouched_at or identity.status is not Status.READY
        if not is_answered and identity not in self._verifying:
            self._begin_to_verify(identity)

    def tend(self, now: float) -> None:
        """Have the tokens renewed whose time has come."""
        for identity in self._pool.identities.values():
            if identity.status is Status.READY and self._is_due(identity, now):
                self._renew(identity, refused=False)

    def doubt(self, identity: Identity) -> None:
        """Have it asked once more whose an identity's token is, before it serves."""
        self._distrusted.add(identity.fingerprint)
        if not identity.paused:
            self._learn(identity, Condition(Status.UNVERIFIED, time.time()))

    # -- another token

    def _is_due(self, identity: Identity, now: float) -> bool:
        credential = self._credentials.get(identity.name)
        due_at = credential.due_at() if credential is not None else None
        return due_at is not None and due_at <= now

    def _renew(self, identity: Identity, refused: bool) -> None:
        if identity.name in self._credentials:
            self._renewals.begin(identity, refused)

    def _present(self, identity: Identity) -> tuple[Credential, Bearer | None] | None:
        """See `codexpool.upkeep.renewals.Present`."""
        credential = self._credentials.get(identity.name)
        if credential is None or self._spec(identity) is None:
            return None
        return credential, self._bearers.get(identity.name)

    async def _came(self, identity: Identity, renewal: Renewal) -> None:
        """Another token is there: whose is it? Raises NoTokenNowError where that cannot be found out yet."""
        spec, credential = self._spec(identity), self._credentials.get(identity.name)
        if spec is None or credential is None:
            return
        answer = of_its_login(await self._verification.owner(renewal.bearer, credential, spec), renewal, spec)
        answer = self._of_its_owner(identity, spec, answer)
        if answer.word is Word.OTHER_ACCOUNT:
            self._is_not_its_own(identity, renewal, answer)
        elif answer.metadata is None:
            raise NoTokenNowError(f"it has another token, but {answer.evidence}")
        elif self._spec(identity) is not None:
            self._use(identity, renewal, answer)

    def _is_not_its_own(self, identity: Identity, renewal: Renewal, answer: Whoami) -> None:
        """Another token is there, and it is of somebody else."""
        if renewal.previous_owner != NOBODY and self._config is not None and identity.name not in self._owners:
            self._owners[identity.name] = renewal.previous_owner
            self._memory.belongs(self._config.path, identity, renewal.previous_owner)
        self._learn(identity, Condition(Status.CONFLICT, answer.evidence.at, evidence=answer.evidence))

    def _use(self, identity: Identity, renewal: Renewal, answer: Whoami) -> None:
        stale, fresh = identity.fingerprint, renewal.bearer
        self._bearers[identity.name] = fresh
        self._pool.states.renewed(identity.name, stale, fresh.fingerprint, answer.evidence.at, renewal.issued)
        self._memory.forget(stale)
        if identity.status in (Status.LIMITED, Status.PAUSED):  # That is the account's, whatever its token.
            self._memory.became(identity.fingerprint, identity.condition)
        self._remember(identity, answer)
        if stale and fresh.fingerprint != stale:
            logger.info("%s has a new token: %s", identity.name, described(identity))
        self.look_after(identity)

    # -- whose a token is

    def _begin_to_verify(self, identity: Identity) -> None:
        self._verifying.add(identity)
        self._tasks.spawn(self._verify(identity)).add_done_callback(lambda _: self._verified(identity))

    async def _verify(self, identity: Identity) -> None:
        """Ask whose a token is until that is known."""
        pauses, said = Pauses(self.waiting), ""
        while self._spec(identity) is not None and identity.status in (*IN_DOUBT, Status.READY):
            pauses.begins()
            answer = await self._word(identity)
            if answer is None:
                return None
            if answer.evidence.fingerprint != identity.fingerprint:
                continue  # It has another token by now.
            if answer.word is Word.REFUSED and identity.kind.is_renewable:
                return self._renew(identity, refused=True)
            self._pool.states.whoami_said(identity.name, answer.word, answer.evidence, answer.metadata)
            self._remember(identity, answer)
            if identity.status not in IN_DOUBT and answer.word is not Word.UNREACHABLE:
                return None
            why = f"{identity.status}: {answer.evidence}"
            if answer.word is not Word.HEALTHY and why != said:
                logger.warning("%s stays %s", identity.name, why)
                self._memory.became(identity.fingerprint, identity.condition)
                said = why
            await pauses.pause()
        return None

    def _verified(self, identity: Identity) -> None:
        """The asking has ended. Was its token refused meanwhile?"""
        self._verifying.discard(identity)
        if self._spec(identity) is not None and identity.status is Status.SUSPECT:
            self.look_after(identity)

    async def _word(self, identity: Identity) -> Whoami | None:
        """The word on an identity's token; None where there is no token, or nobody to ask for."""
        spec, credential = self._spec(identity), self._credentials.get(identity.name)
        bearer = self._bearers.get(identity.name)
        if spec is None or credential is None or bearer is None:
            return None
        answer = self._of_its_owner(identity, spec, await self._verification.owner(bearer, credential, spec))
        if identity.status is Status.SUSPECT and identity.metadata is not None and answer.metadata is not None:
            return answer._replace(metadata=identity.metadata)  # Asked about the token only, and waited for.
        by_other_means = identity.kind is Kind.PAT or identity.issued_at > 0
        return await self._verification.place(answer, bearer, by_other_means, before=identity.metadata)

    def _of_its_owner(self, identity: Identity, spec: IdentitySpec, answer: Whoami) -> Whoami:
        """The word on a token, or that it is not whose this identity is.

        A PAT is another identity if a person puts in another one. A login or a command changes its token by itself,
        and has to stay whose it was, unless pool.toml says whose it is.
        """
        if identity.metadata is not None:
            answer = expected(answer, identity.metadata.key)
        if identity.kind.is_renewable and not (spec.account_id and spec.user_id):
            answer = expected(answer, self._owners.get(identity.name, NOBODY))
        return answer

    # -- beyond this process

    async def _recall(self, identity: Identity) -> None:
        """Wait for what an earlier run has found out, and look after the identity then.

        A state that cannot be opened holds nobody up: the identity is looked after without it, and compared with it
        once it is open.
        """
        is_late = not await self._memory.is_open_within(PATIENCE)
        if is_late:
            self._known_of.add(identity)
            self.look_after(identity)
        known = await self._memory.known()
        if self._config is not None:
            record = known.records.get(record_name(self._config.path, identity.name))
            if record is not None and is_late and identity.kind.is_renewable:
                self._was(identity, record)
            elif record is not None:
                self._owners.setdefault(identity.name, record.key)
        self._known_of.add(identity)
        if self._spec(identity) is not None:
            if identity.status is Status.UNVERIFIED:
                self._serve_on(identity, known)
            self.look_after(identity)

    def _was(self, identity: Identity, record: Record) -> None:
        """An earlier run's word on whose an identity is has come late: the present token has to be of the same."""
        spec = self._spec(identity)
        if spec is None or self._owners.setdefault(identity.name, record.key) == record.key:
            return
        self._owners[identity.name] = record.key
        if not (spec.account_id and spec.user_id) and self._config is not None:
            self._memory.belongs(self._config.path, identity, record.key)
            self.doubt(identity)

    def _serve_on(self, identity: Identity, known: Snapshot) -> None:
        """Have an identity serve on what an earlier run found out about the same token."""
        metadata = known.metadata.get(identity.fingerprint)
        condition = known.conditions.get(identity.fingerprint)
        if identity.fingerprint in self._distrusted or not identity.fingerprint:
            return
        if condition is not None and condition.status is Status.NEEDS_LOGIN:
            self._learn(identity, condition)  # Whose it is does not matter: this refresh token is worth nothing.
        if metadata is None:
            return
        if condition is None or condition.status in (Status.READY, *HELD_OVER) or is_of_workspace(condition):
            self._pool.states.recall(identity.name, identity.fingerprint, metadata, time.time())
        if condition is not None and _holds(condition, time.time()):
            self._learn(identity, condition)

    def _remember(self, identity: Identity, answer: Whoami) -> None:
        """Whose a token is, is remembered; but not of those that are gone with the process."""
        if answer.metadata is None or identity.metadata is None or self._config is None:
            return
        self._owners[identity.name] = identity.metadata.key
        if identity.kind is not Kind.COMMAND:
            self._memory.learned(identity.fingerprint, identity.metadata, answer.evidence.at)
        self._memory.met(self._config.path, identity)

    def _learn(self, identity: Identity, condition: Condition) -> None:
        self._pool.states.condition_learned(identity.name, identity.fingerprint, condition)

    def _spec(self, identity: Identity) -> IdentitySpec | None:
        """Its table in pool.toml; None where it has left the pool, or another one has its name."""
        if self._config is None or self._pool.identities.get(identity.name) is not identity:
            return None
        return self._config.identity(identity.name)


def _holds(condition: Condition, now: float) -> bool:
    """Whether a condition of an earlier run is still to be waited for."""
    if condition.status is Status.NEEDS_LOGIN or is_of_workspace(condition):
        return True
    return condition.status in HELD_OVER and condition.since <= now < (condition.until or 0)
