"""Keeps the pool true: follows pool.toml, has tokens verified and renewed, writes flags, and says what changed.

All side effects of the pool begin here, and none of them is on the path of a request: files and the HTTP client's
set-up are for threads, what asks the backend for tasks. `codexpool.pool` decides; this module carries out.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from codexpool import backend
from codexpool.config import Flag, IdentitySpec, PoolConfig, Resolved, Watcher
from codexpool.credentials import Credential, NoTokenNowError, Renewal
from codexpool.credentials.route import Route
from codexpool.credentials.secret import Bearer
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.credentials.whoami import Whoami
from codexpool.following import Following
from codexpool.memory import Memory
from codexpool.notices import Notices
from codexpool.pool.identity import Condition, Evidence, Identity, IdentityKey, Kind, Status, Word, clock
from codexpool.pool.needs import described, expiry, remedy
from codexpool.pool.pool import IN_DOUBT, Pool
from codexpool.renewals import FIRST_PAUSE, LONGEST_PAUSE, Renewals
from codexpool.state import Snapshot, State, record_name
from codexpool.tasks import Tasks
from codexpool.verification import Verification, expected
from codexpool.wire.routes import host_of

if TYPE_CHECKING:
    from codexpool.credentials.authapi import AuthApi

logger = logging.getLogger("codexpool")

TICK = 1.0
"""Seconds between two looks at whose token is about to end."""

REMINDED_AFTER = 86_400.0
"""Seconds after which it is said again that a token is expected to end soon."""

HELD_OVER = frozenset({Status.LIMITED, Status.RESTING, Status.NEEDS_LOGIN})
"""Conditions of an earlier run that hold until their time; whatever else there was is found out anew."""


class Keeper:
    """The hands and eyes of a pool. Every method belongs to the thread of the event loop.

    ``open_state`` opens what outlives the process, and may read files; ``environ`` holds the tokens given as
    ``{ env = … }``; ``route`` is how requests of our own reach the backend.
    """

    def __init__(self, open_state: Callable[[], State], environ: Mapping[str, str], route: Route) -> None:
        self.pool = Pool(self._on_change)
        self.config: PoolConfig | None = None
        self.hosts = frozenset({backend.HOST})
        """The hosts that the pool's identities are served from, and the one every client asks first."""
        self._tasks = Tasks()
        self._credentials: dict[str, Credential] = {}
        self._bearers: dict[str, Bearer] = {}
        """The tokens that may be sent: those whose owner is known, or about to be."""
        self._verifying: set[Identity] = set()
        self._distrusted: set[str] = set()
        """Fingerprints of tokens that do not serve on what an earlier run knew."""
        self._reminded: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._memory = Memory(open_state, self._tasks)
        self._verification = Verification(self._tasks.spawn(asyncio.to_thread(_api, route, environ)))
        self._renewals = Renewals(self.pool, self._tasks, self._came)
        self._following = Following(environ, TokenEndpoint(route, environ), self.follow)
        self._notices = Notices(route, self._tasks, self._memory.claim)

    # -- for the requests

    def bearer(self, name: str) -> Bearer:
        """The token an identity is sent with now. Raises KeyError where it has none, or has left the pool."""
        return self._bearers[name]

    async def change(self, seconds: float) -> None:
        """Wait until something about an identity changes, ``seconds`` at most."""
        resting = [i.condition.until for i in self.pool.identities.values() if i.status is Status.RESTING]
        soonest = min((until - time.time() for until in resting if until is not None), default=seconds)
        try:
            async with asyncio.timeout(max(0.01, min(seconds, soonest))):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def renewal(self, identity: Identity) -> None:
        """Wait until the renewal of an identity's token that is under way has come to something, or to nothing."""
        await self._renewals.attempted(identity)

    def served(self, name: str, session: str | None) -> None:
        """A request was served: remember it, beyond this process too."""
        identity = self.pool.identities.get(name)
        if identity is None or identity.metadata is None or self.config is None:
            return
        self._memory.used(self.config.path, identity)
        if session is not None:
            self._memory.bind(session, identity.metadata.key)

    # -- pool.toml

    def start(self, config: PoolConfig, watcher: Watcher) -> None:
        """Take over a configuration, and follow its files. ``watcher`` watched pool.toml before that was read."""
        self._tasks.spawn(self._memory.share_sessions(self.pool))  # first: before an identity is ready to serve one
        watcher.watch(config.files)
        self.follow(config, self._following.at_once(config))
        self._tasks.spawn(self._following.files(watcher, lambda: self.config))
        self._tasks.spawn(self._following.keyring(lambda: self.config))
        self._tasks.spawn(self._tend())

    def follow(self, config: PoolConfig, resolved: Resolved) -> None:
        """Make the pool what the configuration says: new tokens are verified, the others keep their state."""
        now = time.time()
        for problem in resolved.problems:
            logger.warning("%s", problem)
        before, self.config = self.config, config
        had = {i.name: i.metadata.key for i in self.pool.identities.values() if i.metadata is not None}
        self._credentials = {
            name: new.after(self._credentials.get(name)) for name, new in resolved.credentials.items()
        }
        self._bearers = {
            name: bearer for name, held in self._credentials.items() if (bearer := held.bearer()) is not None
        }
        specs = [s for s in config.identities if s.name in self._credentials or s.name in resolved.pending]
        self.pool.replace_identities((self._identity(spec, now) for spec in specs), config.selection, now)
        for spec in specs:
            self._apply_flag(spec, before.identity(spec.name) if before is not None else None)
            self._look_after(self.pool.identities[spec.name], had.get(spec.name))
        self._remind(now)
        self._tell_waiters()

    def stop(self) -> None:
        """End all tasks, and write what is still to be written. For the end of the process or of the addon."""
        self._tasks.stop()
        self._memory.close()

    def _identity(self, spec: IdentitySpec, now: float) -> Identity:
        """An identity as pool.toml has it. Its credential may still be on its way, from a keyring."""
        credential, bearer = self._credentials.get(spec.name), self._bearers.get(spec.name)
        return Identity(
            spec.name,
            credential.kind if credential is not None else Kind.PAT,
            bearer.fingerprint if bearer is not None else "",
            Condition(Status.UNVERIFIED, now),
            expires_at=spec.expires_at,
            paused=spec.paused,
            unsendable=bearer is None,
        )

    def _apply_flag(self, spec: IdentitySpec, before: IdentitySpec | None) -> None:
        identity, bearer = self.pool.identities[spec.name], self._bearers.get(spec.name)
        if bearer is None:
            return
        whose = (spec.account_id, spec.user_id)
        if before is not None and (before.account_id, before.user_id) != whose:
            self._doubt(identity)
        if spec.flag is None:
            if before is not None and before.flag is not None and identity.status is Status.NEEDS_REPLACEMENT:
                self._doubt(identity)  # A person took the flag away, and left the token.
        elif not spec.flag.applies_to(bearer):
            self._tasks.spawn(self._edit_flag(spec.name, None))
        elif identity.status is not Status.NEEDS_REPLACEMENT:
            evidence = Evidence(spec.flag.since.timestamp(), fingerprint=bearer.fingerprint, note=spec.flag.reason)
            self._learn(identity, Condition(Status.NEEDS_REPLACEMENT, evidence.at, evidence=evidence))

    def _doubt(self, identity: Identity) -> None:
        """It is asked once more whose its token is, before it serves."""
        self._distrusted.add(identity.fingerprint)
        if not identity.paused:
            self._learn(identity, Condition(Status.UNVERIFIED, time.time()))

    def _learn(self, identity: Identity, condition: Condition) -> None:
        self.pool.condition_learned(identity.name, identity.fingerprint, condition)

    async def _edit_flag(self, name: str, flag: Flag | None) -> None:
        """Write an identity's flag into pool.toml, or take it out."""
        assert self.config is not None
        path = self.config.path

        def edit() -> None:
            from codexpool.config import editing  # Not at start-up: it is rarely needed, and takes its time.

            try:
                editing.unflag(path, name) if flag is None else editing.flag(path, name, flag)
            except editing.EditError as error:
                logger.error("%s", error)

        await asyncio.to_thread(edit)

    # -- tokens

    async def _tend(self) -> None:
        """Have tokens renewed in time, and remind of those that a person has to replace."""
        while True:
            await asyncio.sleep(TICK)
            now = time.time()
            for identity in list(self.pool.identities.values()):
                if identity.status is Status.READY and self._is_due(identity, now):
                    self._renew(identity, refused=False)
            self._remind(now)

    def _look_after(self, identity: Identity, had: IdentityKey | None = None) -> None:
        """Have done what an identity needs before it serves, unless that is under way or it needs a person."""
        if identity.status is Status.SUSPECT and identity.kind.is_renewable:
            self._renew(identity, refused=True)
        elif identity.status in (*IN_DOUBT, Status.RESTING) and identity.name not in self._bearers:
            self._renew(identity, refused=False)
        elif identity.status in IN_DOUBT and identity not in self._verifying:
            if self._is_due(identity, time.time()):
                self._renew(identity, refused=False)
                if self._credentials[identity.name].is_over(time.time()):
                    return  # Nobody would know whose it is.
            self._verifying.add(identity)
            self._tasks.spawn(self._verify(identity, had)).add_done_callback(lambda _: self._verified(identity))

    def _is_due(self, identity: Identity, now: float) -> bool:
        credential = self._credentials.get(identity.name)
        due_at = credential.due_at() if credential is not None else None
        return due_at is not None and due_at <= now

    def _renew(self, identity: Identity, refused: bool) -> None:
        if (credential := self._credentials.get(identity.name)) is not None:
            self._renewals.begin(identity, credential, self._bearers.get(identity.name), refused)

    async def _came(self, identity: Identity, renewal: Renewal) -> None:
        """Another token is there: whose is it? Raises NoTokenNowError where that cannot be found out yet."""
        spec, credential = self._spec(identity.name), self._credentials.get(identity.name)
        if spec is None or credential is None or self.pool.identities.get(identity.name) is not identity:
            return
        answer = await self._verification.owner(renewal.bearer, credential, spec)
        if identity.metadata is not None:
            answer = expected(answer, identity.metadata.key)
        stale = identity.fingerprint
        if answer.word is Word.OTHER_ACCOUNT:
            self._learn(identity, Condition(Status.CONFLICT, answer.evidence.at, evidence=answer.evidence))
        elif answer.metadata is None:
            raise NoTokenNowError(f"it has another token, but {answer.evidence}")
        elif self.pool.identities.get(identity.name) is identity:
            self._bearers[identity.name] = renewal.bearer
            self.pool.renewed(identity.name, stale, renewal.bearer.fingerprint, answer.evidence.at, renewal.issued)
            self._memory.forget(stale)
            self._known(identity, answer)
            if stale and renewal.bearer.fingerprint != stale:
                logger.info("%s has a new token: %s", identity.name, described(identity))
            self._look_after(identity)

    async def _verify(self, identity: Identity, had: IdentityKey | None) -> None:
        """Ask whose a token is until that is known."""
        known = await self._memory.known()
        if identity.status is Status.UNVERIFIED:
            self._remember(identity, known)
        if had is None and self.config is not None and identity.kind is Kind.OAUTH:
            record = known.records.get(record_name(self.config.path, identity.name))
            had = record.key if record is not None else None
        pause = FIRST_PAUSE
        while self.pool.identities.get(identity.name) is identity and identity.status in (*IN_DOUBT, Status.READY):
            answer = await self._word(identity, had)
            if answer is None:
                return None
            if answer.evidence.fingerprint != identity.fingerprint:
                continue  # It has another token by now.
            if answer.word is Word.REFUSED and identity.kind.is_renewable:
                return self._renew(identity, refused=True)
            self.pool.whoami_said(identity.name, answer.word, answer.evidence, answer.metadata)
            self._known(identity, answer)
            if identity.status not in IN_DOUBT:
                return None
            if answer.word is Word.UNREACHABLE:
                logger.warning("%s stays %s: %s", identity.name, identity.status, answer.evidence)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LONGEST_PAUSE)
        return None

    def _verified(self, identity: Identity) -> None:
        """The asking has ended. Was its token refused meanwhile, or is it another one?"""
        self._verifying.discard(identity)
        if self.pool.identities.get(identity.name) is identity and identity.status is Status.SUSPECT:
            self._look_after(identity)

    async def _word(self, identity: Identity, had: IdentityKey | None) -> Whoami | None:
        """The word on an identity's token; None where there is no token, or nobody to ask for."""
        spec, credential = self._spec(identity.name), self._credentials.get(identity.name)
        bearer = self._bearers.get(identity.name)
        if spec is None or credential is None or bearer is None:
            return None
        answer = await self._verification.owner(bearer, credential, spec)
        if identity.metadata is not None:
            answer = expected(answer, identity.metadata.key)
        elif had is not None and identity.kind is Kind.OAUTH and not (spec.account_id and spec.user_id):
            answer = expected(answer, had)
        if identity.status is Status.SUSPECT and identity.metadata is not None and answer.metadata is not None:
            return answer._replace(metadata=identity.metadata)  # Asked about the token only, and waited for.
        by_whoami = identity.kind is Kind.PAT or identity.issued_at > 0
        return await self._verification.place(answer, bearer, by_whoami)

    def _known(self, identity: Identity, answer: Whoami) -> None:
        """Whose a token is, is remembered beyond this process; but not of those that are gone with it."""
        metadata = identity.metadata
        if answer.metadata is None or metadata is None or self.config is None:
            return
        if identity.kind is not Kind.COMMAND:
            self._memory.learned(identity.fingerprint, metadata, answer.evidence.at)
        self._memory.met(self.config.path, identity)

    def _remember(self, identity: Identity, known: Snapshot) -> None:
        """Have an identity serve on what an earlier run found out about the same token."""
        metadata = known.metadata.get(identity.fingerprint)
        condition = known.conditions.get(identity.fingerprint)
        if metadata is None or identity.fingerprint in self._distrusted:
            return
        if condition is None or condition.status in (Status.READY, *HELD_OVER):
            self.pool.recall(identity.name, identity.fingerprint, metadata, time.time())
        if condition is not None and (condition.status is Status.NEEDS_LOGIN or _holds(condition)):
            self._learn(identity, condition)

    # -- what follows from a change

    def _on_change(self, identity: Identity, before: Condition) -> None:
        condition = identity.condition
        self._memory.became(identity.fingerprint, condition)
        match condition.status:
            case Status.READY:
                if before.status is not Status.RESTING:
                    logger.info("%s is ready: %s", identity.name, described(identity))
            case Status.UNVERIFIED | Status.SUSPECT:
                self._look_after(identity)
            case Status.NEEDS_REPLACEMENT | Status.NEEDS_LOGIN | Status.CONFLICT:
                self._needs_a_person(identity)
            case Status.PAUSED:
                logger.warning("%s is paused: %s", identity.name, condition.evidence)
            case Status.RESTING:
                until = "further notice" if condition.until is None else clock(condition.until)
                logger.info("%s rests until %s: %s", identity.name, until, condition.evidence)
            case _:
                pass
        self._tell_waiters()

    def _needs_a_person(self, identity: Identity) -> None:
        evidence, spec = identity.condition.evidence, self._spec(identity.name)
        if spec is None or self.config is None or evidence is None:
            return
        path = self.config.path
        what = remedy(identity, f"{path}:{spec.line}")
        logger.warning("%s %s: %s. %s", identity.name, _is(identity.status), evidence, what)
        token = f"sha256:{identity.fingerprint}"
        if identity.status is Status.NEEDS_REPLACEMENT and (spec.flag is None or spec.flag.token != token):
            since = datetime.fromtimestamp(int(identity.condition.since), UTC)
            self._tasks.spawn(self._edit_flag(identity.name, Flag(since, str(evidence), token)))
        self._notices.give(identity, self.config.notify, path.parent)

    def _spec(self, name: str) -> IdentitySpec | None:
        return self.config.identity(name) if self.config is not None else None

    def _remind(self, now: float) -> None:
        """Say, once a day, which token a person should replace before it ends."""
        for identity in self.pool.identities.values():
            said = expiry(identity.expires_at, now)
            if said and abs(now - self._reminded.get(identity.name, 0.0)) > REMINDED_AFTER:
                self._reminded[identity.name] = now
                logger.warning("%s: %s. codexpool replace %s", identity.name, said, identity.name)

    def _tell_waiters(self) -> None:
        origins = {i.metadata.origin for i in self.pool.identities.values() if i.metadata is not None}
        self.hosts = frozenset({backend.HOST, *map(host_of, origins)})
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _api(route: Route, environ: Mapping[str, str]) -> AuthApi:
    # Importing an HTTP client takes longer than all the rest of the addon: it is done in this thread, not at start.
    from codexpool.credentials.authapi import AuthApi

    return AuthApi(route, environ)


def _holds(condition: Condition) -> bool:
    return condition.status in HELD_OVER and (condition.until or 0) > time.time()


def _is(status: Status) -> str:
    return f"is in {status}" if status is Status.CONFLICT else str(status)
