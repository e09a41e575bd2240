"""The tokens of the identities: verified before they serve, and renewed in time or after a refusal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from weakref import WeakKeyDictionary

from codexpool.common.recent import Recent
from codexpool.common.tasks import Tasks
from codexpool.config.model import FromState, IdentitySpec, PoolConfig
from codexpool.credentials import Credential, NoTokenNowError, Renewal
from codexpool.credentials.authapi import AuthApi, Whoami
from codexpool.credentials.shared_login import SharedLogin
from codexpool.pool.identity import Condition, Evidence, Identity, IdentityKey, Kind, Metadata, Status, Word
from codexpool.pool.needs import described, is_of_workspace
from codexpool.pool.pool import Pool
from codexpool.pool.states import HELD_OVER, IN_DOUBT
from codexpool.state import Record, Snapshot, record_name
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.persistence import Persistence
from codexpool.upkeep.renewals import Pauses, Renewals, Waiting
from codexpool.upkeep.verification import Verification, expected, of_its_login

logger = logging.getLogger("codexpool")

VERIFIED_FOR = 5.0  # Seconds for which whoami's answer counts, however many requests are refused.
ANOTHER_ANSWERS = 2.0  # Seconds that another proxy gets to find out about a token.
CONTESTED_EVERY = 600.0  # Seconds until a token that serves is verified again because other proxies call it dead.
CONTESTED_KEPT = 1_000  # Such tokens that are remembered.
STATE_NOT_OPEN = "its login is in the state, which could not be opened yet"
NO_OWNER = IdentityKey("", "")  # Of a token that may belong to any account and user.


class Vault:
    """Holds the credential and token of each identity, independently of all others. `Pool` says what they need.

    ``read_usage`` reads what an account has left, before its identity serves. It raises nothing and is quick.
    """

    def __init__(
        self,
        config: PoolConfig,
        pool: Pool,
        tasks: Tasks,
        persistence: Persistence,
        api: AuthApi,
        read_usage: Callable[[str, Bearer, Metadata], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._persistence = persistence
        self._config = config
        self._credentials: dict[str, Credential] = {}
        self._bearers: dict[str, Bearer] = {}  # Owners are known, or being asked for.
        self._verifying: set[Identity] = set()
        self._verified_later: set[Identity] = set()
        self._contested: Recent[str, float] = Recent(CONTESTED_KEPT)  # When such a token was last verified.
        self._distrusted: set[str] = set()  # Fingerprints of tokens for which earlier runs' knowledge does not count.
        # Identities for which the knowledge of earlier runs was requested, and whether it has arrived.
        self._recalled: WeakKeyDictionary[Identity, bool] = WeakKeyDictionary()
        self._owners: dict[str, IdentityKey] = {}  # By name: an identity's tokens may change, its owner may not.
        self.waiting = Waiting()  # The requests that wait for an identity: they make attempts more frequent.
        self._verification = Verification(api)
        self._read_usage = read_usage
        self._renewals = Renewals(pool, tasks, self.waiting, self._present, self._renewed)

    def rename(self, names: Mapping[str, str]) -> None:
        """Follow identities to other names, by their old ones: each keeps its credential and its owner."""
        self._config = self._config.with_names(names)
        self._credentials = {names.get(name, name): one for name, one in self._credentials.items()}
        self._bearers = {names.get(name, name): bearer for name, bearer in self._bearers.items()}
        self._owners = {names.get(name, name): owner for name, owner in self._owners.items()}

    def kept(self, config: PoolConfig, credentials: Mapping[str, Credential]) -> list[IdentitySpec]:
        """Return the identities that keep their credential because their source, unchanged, is unreadable now.

        A file may be half written, or a keyring locked: that must not take away a healthy token.
        """
        return [
            spec
            for spec in config.identities
            if spec.name in self._credentials.keys() - credentials.keys()
            and (was := self._config.identity(spec.name)) is not None
            and was.source == spec.source
        ]

    def take_over(self, config: PoolConfig, credentials: Mapping[str, Credential]) -> set[str]:
        """Use these credentials from now on; unchanged ones keep their tokens. Return the names with a credential."""
        held = {name: new.after(self._credentials.get(name)) for name, new in credentials.items()}
        held |= {spec.name: self._credentials[spec.name] for spec in self.kept(config, credentials)}
        changed = [name for name, credential in held.items() if credential is not self._credentials.get(name)]
        for gone in {spec.name for spec in self._config.identities} - {spec.name for spec in config.identities}:
            self._owners.pop(gone, None)
            if not config.is_missing:  # A file that is gone may be restored.
                self._persistence.drop_identity(gone)
        self._config = config
        self._credentials = held
        self._bearers = {name: bearer for name, one in held.items() if (bearer := one.bearer()) is not None}
        for name in changed:
            if (identity := self._pool.identities.get(name)) is not None:
                self._renewals.hurry(identity)
        return set(held)

    def identity(self, spec: IdentitySpec, now: float) -> Identity:
        """Return a new, unverified identity. It has no credential yet if that is still being read from a keyring."""
        credential, bearer = self._credentials.get(spec.name), self._bearers.get(spec.name)
        waits_for_state = credential is None and isinstance(spec.source, FromState)
        evidence = Evidence(now, note=STATE_NOT_OPEN) if waits_for_state else None
        return Identity(
            spec.name,
            credential.kind if credential is not None else spec.kind,
            bearer.fingerprint if bearer is not None else credential.mark if credential is not None else "",
            Condition(Status.UNVERIFIED, now, evidence=evidence),
            expires_at=spec.expires_at,
            paused=spec.paused,
            priority=spec.priority,
            unsendable=bearer is None,
        )

    def bearer(self, name: str) -> Bearer | None:
        """Return the token to send for an identity; None if it has none or has left the pool."""
        return self._bearers.get(name)

    async def renewal(self, identity: Identity, seconds: float) -> None:
        """Wait for the present attempt to renew an identity's token, if there is one; ``seconds`` at most."""
        with self.waiting.one_more():
            await self._renewals.attempted(identity, seconds)

    def look_after(self, identity: Identity) -> None:
        """Start what an identity needs before it can serve, unless that is under way or needs a person."""
        if self._tasks.are_stopped:
            return
        if identity not in self._recalled:
            self._recalled[identity] = False
            self._tasks.spawn(self._recall(identity))
        elif not self._recalled[identity]:
            pass  # `_recall` looks after it.
        elif identity.is_in_renewal:
            self._renew(identity, refused=True)
        elif identity.status in (*IN_DOUBT, Status.RESTING) and identity.name not in self._bearers:
            self._renew(identity, refused=False)
        elif identity.status in IN_DOUBT and identity not in self._verifying:
            if self._is_due(identity, time.time()):
                self._renew(identity, refused=False)
                if self._credentials[identity.name].is_over(time.time()):
                    return  # The backend would not tell the owner of an expired token.
            self._begin_to_verify(identity)

    def login_stored(self, key: IdentityKey) -> bool:
        """Use another login of a shared identity, which is in the state now.

        Return False if a person has to have put it there, so that its owner must be verified from the beginning.
        """
        for name, credential in self._credentials.items():
            if isinstance(credential, SharedLogin) and credential.key == key:
                identity = self._pool.identities.get(name)
                if identity is not None and identity.status not in (Status.UNVERIFIED, Status.CONFLICT):
                    if credential.has_news:
                        self._renewals.hurry(identity)
                        self._renew(identity, refused=False)
                    return True
        return False

    def verify_later(self, identity: Identity) -> None:
        """Find out whether a token is dead, although its identity goes on serving: a request was refused."""
        if identity.kind.is_renewable:
            self._renew(identity, refused=True)
        elif identity not in self._verifying and identity not in self._verified_later:
            self._verified_later.add(identity)
            task = self._tasks.spawn(self._verify_later(identity))
            task.add_done_callback(lambda _: self._verified_later.discard(identity))

    def verify_contested(self, identity: Identity) -> None:
        """Find out who is right: other proxies call a token good that is dead here, or dead one that serves here.

        The latter only now and then: two proxies that whoami tells different things would ask it in turn for ever.
        """
        now = time.time()
        if identity.status is Status.NEEDS_REPLACEMENT:
            self.doubt(identity)
        elif abs(now - self._contested.get(identity.fingerprint, 0.0)) >= CONTESTED_EVERY:
            self._contested[identity.fingerprint] = now
            self._pool.states.confirmation.request_refused(identity.fingerprint)  # By the others' word.
            self.verify_later(identity)

    async def _verify_later(self, identity: Identity) -> None:
        vouched_at = identity.vouched_at
        await asyncio.sleep(min(vouched_at + VERIFIED_FOR - time.time(), VERIFIED_FOR))
        is_answered = identity.vouched_at != vouched_at or identity.status is not Status.READY
        if not is_answered and identity not in self._verifying:
            self._begin_to_verify(identity)

    def renew_due(self, now: float) -> None:
        """Start the renewals whose time has come."""
        for identity in self._pool.identities.values():
            if identity.status is Status.READY and self._is_due(identity, now):
                self._renew(identity, refused=False)

    def doubt(self, identity: Identity) -> None:
        """Have an identity's token verified again before it serves."""
        self._distrusted.add(identity.fingerprint)
        if not identity.paused:
            self._learn(identity, Condition(Status.UNVERIFIED, time.time()))

    def _is_due(self, identity: Identity, now: float) -> bool:
        credential = self._credentials.get(identity.name)
        due_at = credential.due_at() if credential is not None else None
        return due_at is not None and due_at <= now

    def _renew(self, identity: Identity, refused: bool) -> None:
        if identity.name in self._credentials:
            self._renewals.begin(identity, refused)

    def _present(self, identity: Identity) -> tuple[Credential, Bearer | None] | None:
        credential = self._credentials.get(identity.name)
        if credential is None or self._spec(identity) is None:
            return None
        return credential, self._bearers.get(identity.name)

    async def _renewed(self, identity: Identity, renewal: Renewal) -> None:
        """Verify and use another token. Raises NoTokenNowError if its owner cannot be found out yet."""
        spec, credential = self._spec(identity), self._credentials.get(identity.name)
        if spec is None or credential is None:
            return
        answer = of_its_login(await self._verification.owner(renewal.bearer, credential, spec), renewal, spec)
        answer = self._checked_owner(identity, spec, answer)
        if answer.word is Word.OTHER_ACCOUNT:
            if renewal.previous_owner != NO_OWNER and identity.name not in self._owners:
                self._put_owner(identity, renewal.previous_owner)
            self._learn(identity, Condition(Status.CONFLICT, answer.evidence.at, evidence=answer.evidence))
        elif answer.metadata is None:
            raise NoTokenNowError(f"it has another token, but {answer.evidence}")
        elif self._spec(identity) is not None:
            self._use(identity, renewal, answer)

    def _use(self, identity: Identity, renewal: Renewal, answer: Whoami) -> None:
        stale, fresh = identity.fingerprint, renewal.bearer
        self._bearers[identity.name] = fresh
        self._pool.states.renewed(identity.name, stale, fresh.fingerprint, answer.evidence.at, renewal.issued)
        self._persistence.drop_condition(stale)
        if identity.status in (Status.LIMITED, Status.PAUSED):  # These are the account's, whatever its token.
            self._persistence.put_condition(identity.fingerprint, identity.condition)
        self._remember(identity, answer)
        if stale and fresh.fingerprint != stale:
            what = "task" if identity.kind is Kind.AGENT else "token"
            logger.info("%s has a new %s: %s", identity.name, what, described(identity))
        self.look_after(identity)

    def _begin_to_verify(self, identity: Identity) -> None:
        self._verifying.add(identity)
        self._tasks.spawn(self._verify(identity)).add_done_callback(lambda _: self._verified(identity))

    async def _verify(self, identity: Identity) -> None:
        """Ask for the owner of an identity's token until there is an answer."""
        pauses, logged = Pauses(self.waiting), ""
        await self._leave_to_another(identity)
        while self._spec(identity) is not None and identity.status in (*IN_DOUBT, Status.READY):
            pauses.begin()
            answer = await self._ask(identity)
            if answer is None:
                return None
            if answer.evidence.fingerprint != identity.fingerprint:
                continue  # It has another token now.
            if answer.word is Word.REFUSED and identity.kind.is_renewable:
                return self._renew(identity, refused=True)
            self._pool.states.whoami_said(identity.name, answer.word, answer.evidence, answer.metadata)
            if answer.word is Word.HEALTHY:
                self._persistence.vouched(identity.fingerprint, answer.evidence.at)
            self._remember(identity, answer)
            if identity.status not in IN_DOUBT and answer.word is not Word.UNREACHABLE:
                return None
            why = f"{identity.status}: {answer.evidence}"
            if answer.word is not Word.HEALTHY and why != logged:
                logger.warning("%s stays %s", identity.name, why)
                self._persistence.put_condition(identity.fingerprint, identity.condition)
                logged = why
            await pauses.pause()
        return None

    async def _leave_to_another(self, identity: Identity) -> None:
        """If another proxy asks about a refused token just now, wait for what it learns, a moment at most."""
        if identity.kind is not Kind.PAT or identity.status is Status.UNVERIFIED:
            return
        fingerprint, begun = identity.fingerprint, time.time()
        if await self._persistence.is_to_ask(f"whoami:{fingerprint}"):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANOTHER_ANSWERS):
                while identity.status in (Status.SUSPECT, Status.READY):
                    said = (await self._persistence.news()).conditions.get(fingerprint)
                    if said is not None and said.status not in IN_DOUBT and begun <= said.since:
                        return  # It was healthy; what was refused here may be newer.

    def _verified(self, identity: Identity) -> None:
        self._verifying.discard(identity)
        if self._spec(identity) is not None and identity.status is Status.SUSPECT:
            self.look_after(identity)  # Its token was refused meanwhile.

    async def _ask(self, identity: Identity) -> Whoami | None:
        """Ask the backend about an identity's token; None if the identity has none, or has left the pool."""
        spec, credential = self._spec(identity), self._credentials.get(identity.name)
        bearer = self._bearers.get(identity.name)
        if spec is None or credential is None or bearer is None:
            return None
        answer = self._checked_owner(identity, spec, await self._verification.owner(bearer, credential, spec))
        if identity.status is Status.SUSPECT and identity.metadata is not None and answer.metadata is not None:
            return answer._replace(metadata=identity.metadata)  # Requests wait for this: no discovery now.
        by_other_means = identity.kind is Kind.PAT or identity.issued_at > 0
        placed = self._verification.place(answer, bearer, by_other_means, before=identity.metadata)
        if identity.status is not Status.UNVERIFIED or answer.word is not Word.HEALTHY or answer.metadata is None:
            return await placed
        # At the same time as discovery: a drained identity is limited, and not ready, from the beginning.
        return (await asyncio.gather(placed, self._read_usage(identity.name, bearer, answer.metadata)))[0]

    def _checked_owner(self, identity: Identity, spec: IdentitySpec, answer: Whoami) -> Whoami:
        """Return the answer, or `Word.OTHER_ACCOUNT` if the token is not this identity's.

        A new PAT, put there by a person, may make it another identity. The tokens of a login or a command change by
        themselves, and must keep their owner, unless pool.toml names one.
        """
        if identity.metadata is not None:
            answer = expected(answer, identity.metadata.key)
        if identity.kind.is_renewable and not (spec.account_id and spec.user_id):
            answer = expected(answer, self._owners.get(identity.name, NO_OWNER))
        return answer

    async def _recall(self, identity: Identity) -> None:
        """Wait for the knowledge of earlier runs, apply it to an identity, and look after that.

        If the state does not open in time, the identity is looked after without it, and compared with it later.
        """
        is_late = not await self._persistence.opens_in_time()
        if is_late:
            self._recalled[identity] = True
            self.look_after(identity)
        earlier = await self._persistence.earlier()
        record = earlier.records.get(record_name(self._persistence.scope, identity.name))
        spec = self._spec(identity)
        self._recalled[identity] = True
        if spec is not None:
            owner = self._owners.setdefault(identity.name, record.key) if record is not None else None
            if record is not None and owner != record.key and is_late and identity.kind.is_renewable:
                # Looked after without the state, it has a token of another account and user by now.
                self._owners[identity.name] = record.key
                if not (spec.account_id and spec.user_id):
                    self._put_owner(identity, record.key)
                    self.doubt(identity)
            if identity.status is Status.UNVERIFIED:
                self._resume(identity, earlier)
            self.look_after(identity)

    def _resume(self, identity: Identity, earlier: Snapshot) -> None:
        """Let an identity serve at once if an earlier run verified the same token."""
        metadata = earlier.metadata.get(identity.fingerprint)
        condition = earlier.conditions.get(identity.fingerprint)
        if identity.fingerprint in self._distrusted or not identity.fingerprint:
            return
        if condition is not None and condition.status is Status.NEEDS_REPLACEMENT:
            # If whoami repeats it, that is enough: it was confirmed before, by an earlier run or another proxy.
            self._pool.states.confirmation.request_refused(identity.fingerprint)
        if condition is not None and self._is_flagged(identity, condition):
            self._learn(identity, condition)  # Whatever its owner: this token is dead.
        if metadata is None:
            return
        if condition is None or condition.status in (Status.READY, *HELD_OVER) or is_of_workspace(condition):
            self._pool.states.recall(identity.name, identity.fingerprint, metadata, time.time())
        if condition is not None and _still_applies(condition, time.time()):
            self._learn(identity, condition)

    def _is_flagged(self, identity: Identity, condition: Condition) -> bool:
        """Return whether an earlier run has found a token dead, and pool.toml cannot have the flag that says so."""
        if identity.kind is Kind.PAT:
            return condition.status is Status.NEEDS_REPLACEMENT and self._config.is_read_only
        return condition.status is Status.NEEDS_LOGIN

    def _remember(self, identity: Identity, answer: Whoami) -> None:
        """Store the owner of a token, unless the token is gone with the process."""
        if answer.metadata is None or identity.metadata is None:
            return
        self._owners[identity.name] = identity.metadata.key
        if identity.kind is not Kind.COMMAND:
            self._persistence.put_metadata(identity.fingerprint, identity.metadata, answer.evidence.at)
        self._persistence.put_identity(identity)

    def _put_owner(self, identity: Identity, owner: IdentityKey) -> None:
        """Store the owner that an identity must have, although its present token has another one."""
        self._owners[identity.name] = owner
        name = record_name(self._persistence.scope, identity.name)
        self._persistence.put_record(name, Record(identity.fingerprint, owner))

    def _learn(self, identity: Identity, condition: Condition) -> None:
        self._pool.states.condition_learned(identity.name, identity.fingerprint, condition)

    def _spec(self, identity: Identity) -> IdentitySpec | None:
        """Return the identity's table in pool.toml; None if it has left the pool, or was replaced."""
        if self._pool.identities.get(identity.name) is not identity:
            return None
        return self._config.identity(identity.name)


def _still_applies(condition: Condition, now: float) -> bool:
    if condition.status is Status.NEEDS_LOGIN or is_of_workspace(condition):
        return True
    return condition.status in HELD_OVER and condition.since <= now < (condition.until or 0)
