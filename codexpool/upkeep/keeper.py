"""Keeps the pool true: follows pool.toml, looks after tokens, writes flags, and says what changed.

All side effects of the pool begin here, and none of them is on the path of a request: files and the HTTP client's
set-up are for threads, what asks the backend for tasks. `codexpool.pool` decides; this module carries out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from codexpool.common import tasks
from codexpool.common.clock_skew import Clock
from codexpool.common.tasks import Tasks
from codexpool.config import Flag, IdentitySpec, PoolConfig, Resolved, Watcher
from codexpool.config.programs import environ_of_programs, secret_variables
from codexpool.credentials.route import Route
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.members.ledger import Ledger
from codexpool.pool.identity import RETURNING, Asked, Condition, Evidence, Identity, IdentityKey, Status, clock
from codexpool.pool.needs import described, expiry, reasons_of, remedy
from codexpool.pool.pool import Pool
from codexpool.protocol import endpoints
from codexpool.protocol.routes import host_of
from codexpool.state import Snapshot, State
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep import sync
from codexpool.upkeep.flags import PendingFlags
from codexpool.upkeep.notify import Notices
from codexpool.upkeep.persistence import PATIENCE, Memory
from codexpool.upkeep.vault import Custody
from codexpool.upkeep.watching import Following

if TYPE_CHECKING:
    from codexpool.credentials.authapi import AuthApi

logger = logging.getLogger("codexpool")

TICK = 1.0
"""Seconds between two looks at whose token is about to end."""

REMINDED_AFTER = 86_400.0
"""Seconds after which it is said again that a token is expected to end soon."""


class Keeper:
    """The hands and eyes of a pool. Every method belongs to the thread of the event loop.

    ``open_state`` opens what outlives the process, and may read files; ``environ`` holds the tokens given as
    ``{ env = … }``; ``route`` is how requests of our own reach the backend.
    """

    def __init__(self, open_state: Callable[[], State], environ: Mapping[str, str], route: Route) -> None:
        self.pool = Pool(self._on_change)
        self.config: PoolConfig | None = None
        self.hosts = frozenset({endpoints.HOST})
        """The hosts that identities are or were served from, and the one every client asks first."""
        self._hosts_known = asyncio.Event()
        """Set once ``hosts`` has those of earlier runs."""
        self.clock = Clock()
        """How far this machine's clock is from the backend's."""
        self._tasks = Tasks()
        self._memory = Memory(open_state, self._tasks)
        self.ledger = Ledger(self._memory.spent)
        """Who has used what."""
        self._custody = Custody(
            self.pool,
            self._tasks,
            self._memory,
            self._tasks.spawn(tasks.in_thread(_api, route, environ, self.clock)),
        )
        self.pool.states.on_doubt = self._custody.look_again
        self.pool.on_exclusion = self._excluded
        self._following = Following(environ, TokenEndpoint(route, environ), self.follow)
        self._environ = environ
        self._flags = PendingFlags(self._tasks, self._is_flag_wanted)
        self._notices = Notices(route, self._tasks, self._memory.claim)
        self._reminded: dict[str, float] = {}
        self._changed = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called after something about the identities has changed."""
        self.on_status: Callable[[Identity, Condition], None] = lambda identity, before: None
        """Called with an identity whose status has changed, and what it was in before."""
        self.on_breaker: Callable[[bool, str], None] = lambda is_open, text: None
        """Called with what there is to be said when rotation stops, or goes on."""
        self._breaker: float | None = None
        """Until when it was last said to be open."""

    # -- for the requests

    def bearer(self, name: str) -> Bearer:
        """The token an identity is sent with now. Raises KeyError where it has none, or has left the pool."""
        bearer = self._custody.bearer(name)
        if bearer is None:
            raise KeyError(name)
        return bearer

    def tokens(self) -> list[str]:
        """All tokens that identities are sent with now. (For another thread, too.)"""
        bearers = (self._custody.bearer(name) for name in list(self.pool.identities))
        return [bearer.token for bearer in bearers if bearer is not None]

    async def change(self, seconds: float) -> None:
        """Wait until something about an identity changes, ``seconds`` at most."""
        now = time.time()
        returns_at = self.pool.next_return(now)
        soonest = returns_at - now if returns_at is not None else seconds
        try:
            with self._custody.waiting.one_more():
                async with asyncio.timeout(max(0.01, min(seconds, soonest))):
                    await self._changed.wait()
        except TimeoutError:
            pass

    async def renewal(self, identity: Identity, seconds: float) -> None:
        """Wait until the renewal of an identity's token that is under way has come to something, or to nothing."""
        await self._custody.renewal(identity, seconds)

    def served(self, name: str, asked: Asked, sent_at: float) -> None:
        """A request that was sent then was served: remember it, beyond this process too."""
        if self.pool.succeeded(name, sent_at, asked.is_turn):
            self._watch_breaker()
            self._tell_waiters()
        identity = self.pool.identities.get(name)
        if identity is None or identity.metadata is None or self.config is None:
            return
        self._memory.used(self.config.path, identity)
        if asked.session is not None and (known := self.pool.sessions.get(asked.session)) is not None:
            self._memory.bind(asked.session, known)

    def learn_family(self, model: str, family: str) -> None:
        """An answer has said which family's limit counts for a model."""
        if self.pool.learn_family(model, family):
            self._memory.families_are(self.pool.families)

    def saw_usage(self, key: IdentityKey) -> None:
        """An answer has said how much of its limits an account has used."""
        self.pool.saw_usage(key)
        self._memory.saw_usage(key, self.pool.states.usage(key))

    # -- pool.toml

    def start(self, config: PoolConfig, watcher: Watcher) -> None:
        """Take over a configuration, and follow its files. ``watcher`` watched pool.toml before that was read."""
        self.ledger.pool = str(config.path)
        self._tasks.spawn(self._memory.share(self._take))  # first: before an identity is ready to serve a session
        watcher.watch(config.files)
        self.follow(config, self._following.at_once(config))
        self._tasks.spawn(self._know_hosts())
        self._tasks.spawn(self._following.files(watcher, lambda: self.config))
        self._tasks.spawn(self._following.keyring(lambda: self.config))
        self._tasks.spawn(self._tend())

    def follow(self, config: PoolConfig, resolved: Resolved) -> None:
        """Make the pool what the configuration says: new tokens are verified, the others keep their state."""
        now = time.time()
        kept = self._custody.kept(config, resolved.credentials)
        for problem in resolved.problems:
            stays = any(spec.line == problem.line for spec in kept)
            logger.warning("%s%s", problem, " (not yet: the token it has had stays in use)" if stays else "")
        before, self.config = self.config, config
        known = self._custody.take_over(config, resolved.credentials) | resolved.pending
        specs = [spec for spec in config.identities if spec.name in known]
        self.pool.states.breaker.most = config.breaker
        self.pool.replace_identities((self._custody.identity(spec, now) for spec in specs), config.selection, now)
        for spec in specs:
            self._apply_flag(spec, before.identity(spec.name) if before is not None else None)
            self._custody.look_after(self.pool.identities[spec.name])
        self._remind(now)
        self._tell_waiters()

    def stop(self) -> None:
        """End all tasks, and write what is still to be written. For the end of the process or of the addon."""
        self._flags.close()
        self._tasks.stop()
        self._memory.close()
        self._tell_waiters()

    def _apply_flag(self, spec: IdentitySpec, before: IdentitySpec | None) -> None:
        """What a person, or an earlier run, has said of a token in pool.toml."""
        identity, bearer = self.pool.identities[spec.name], self._custody.bearer(spec.name)
        if bearer is None:
            return
        if before is not None and (before.account_id, before.user_id) != (spec.account_id, spec.user_id):
            self._custody.doubt(identity)
        if spec.flag is None:
            if identity.status is not Status.NEEDS_REPLACEMENT:
                return
            if before is not None and before.flag is not None:
                self._custody.doubt(identity)  # A person took the flag away, and left the token.
            else:
                self._flag(identity)  # An editor saved what it had from before.
        elif not spec.flag.applies_to(bearer):
            self._put_flag(spec.name, None)
        elif identity.status is not Status.NEEDS_REPLACEMENT:
            evidence = Evidence(spec.flag.since.timestamp(), fingerprint=bearer.fingerprint, note=spec.flag.reason)
            condition = Condition(Status.NEEDS_REPLACEMENT, evidence.at, evidence=evidence)
            self.pool.states.condition_learned(identity.name, identity.fingerprint, condition)

    def _put_flag(self, name: str, flag: Flag | None) -> None:
        """Have an identity's flag written into pool.toml, or taken out."""
        assert self.config is not None
        self._flags.put(self.config.path, name, flag)

    def _is_flag_wanted(self, name: str, flag: Flag | None) -> bool:
        """Whether a flag that could not be written yet (None: not be taken out) is still to be."""
        identity, spec = self.pool.identities.get(name), self._spec(name)
        if identity is None or spec is None:
            return False
        if flag is None:
            return spec.flag is not None and not _is_flagged(spec, identity)
        return identity.status is Status.NEEDS_REPLACEMENT and flag.token == f"sha256:{identity.fingerprint}"

    async def _tend(self) -> None:
        """Have tokens renewed in time, and remind of those that a person has to replace."""
        while True:
            await asyncio.sleep(TICK)
            try:
                now = time.time()
                self._custody.tend(now)
                self._remind(now)
            except Exception:  # A bug of ours; the next second is another one.
                logger.exception("the tokens could not be looked after")

    # -- what follows from a change

    def _take(self, news: Snapshot) -> None:
        self.ledger.take(news.spent)
        sync.take(self.pool, news, self.config.path if self.config is not None else None)
        self._watch_breaker()
        self._tell_waiters()

    def _excluded(self, subject: str) -> None:
        self._memory.excludes(subject, self.pool.exclusions.document(subject))
        self._tell_waiters()

    def _watch_breaker(self) -> None:
        """Say, here and to a person with `codexpool breaker`, when rotation stops and goes on."""
        breaker = self.pool.states.breaker
        if self._breaker == breaker.until or (self._breaker is None and breaker.opened_at is None):
            return
        if breaker.opened_at is not None:
            why = reasons_of(self.pool, breaker.names)
            text = (
                f"the breaker is open until {clock(breaker.until)} UTC, sessions are not moved: refused for good "
                f"within a minute: {', '.join(breaker.names)}{why}. Then one request finds out. To end it now: "
                "codexpool breaker --close"
            )
        else:
            text = "the breaker is closed: sessions are moved again"
        logger.warning("%s", text)
        self.on_breaker(breaker.opened_at is not None, text)
        self._breaker = breaker.until if breaker.opened_at is not None else None
        if self.config is not None:
            self._memory.breaker_is(self.config.path, breaker)

    def _on_change(self, identity: Identity, before: Condition) -> None:
        condition = identity.condition
        self._watch_breaker()
        if condition.status is not before.status:
            self.on_status(identity, before)
        self._memory.became(identity.fingerprint, condition)
        match condition.status:
            case Status.READY:
                if before.status not in RETURNING:
                    logger.info("%s is ready: %s", identity.name, described(identity))
            case Status.UNVERIFIED | Status.SUSPECT:
                self._custody.look_after(identity)
            case Status.NEEDS_REPLACEMENT | Status.NEEDS_LOGIN | Status.CONFLICT:
                self._needs_a_person(identity)
            case Status.PAUSED:
                logger.warning("%s is paused: %s", identity.name, condition.evidence)
            case Status.RESTING | Status.LIMITED:
                until = "further notice" if condition.until is None else clock(condition.until, condition.since)
                doing = "rests" if condition.status is Status.RESTING else "is limited"
                logger.info("%s %s until %s UTC: %s", identity.name, doing, until, condition.evidence)
        self._tell_waiters()

    def _needs_a_person(self, identity: Identity) -> None:
        evidence, spec = identity.condition.evidence, self._spec(identity.name)
        if spec is None or self.config is None or evidence is None:
            return
        path = self.config.path
        what = remedy(identity, f"{path}:{spec.line}")
        logger.warning("%s %s: %s. %s", identity.name, _is(identity.status), evidence, what)
        if identity.status is Status.NEEDS_REPLACEMENT and not _is_flagged(spec, identity):
            self._flag(identity)
        environ = environ_of_programs(self._environ, secret_variables(self.config))
        self._notices.give(identity, self.config.notify, path.parent, environ)

    def _flag(self, identity: Identity) -> None:
        condition = identity.condition
        since = datetime.fromtimestamp(int(condition.since), UTC)
        flag = Flag(since, str(condition.evidence or ""), f"sha256:{identity.fingerprint}")
        self._put_flag(identity.name, flag)

    def _spec(self, name: str) -> IdentitySpec | None:
        return self.config.identity(name) if self.config is not None else None

    def _remind(self, now: float) -> None:
        """Say, once a day, which token a person should replace before it ends."""
        for identity in self.pool.identities.values():
            said = expiry(identity.expires_at, now)
            if said and abs(now - self._reminded.get(identity.name, 0.0)) > REMINDED_AFTER:
                self._reminded[identity.name] = now
                logger.warning("%s: %s. codexpool replace %s", identity.name, said, identity.name)

    async def _know_hosts(self) -> None:
        """Clients go on asking the hosts that an earlier run has sent them to, before anybody is verified."""
        try:
            await self._memory.is_open_within(PATIENCE)
        finally:
            self._hosts_known.set()  # No connection waits for a state that cannot be opened.
        known = await self._memory.known()
        self.hosts |= {host_of(metadata.origin) for metadata in known.metadata.values()}

    async def hosts_known(self, seconds: float) -> None:
        """Wait until ``hosts`` has those of earlier runs, a moment after the start; ``seconds`` at most."""
        if not self._hosts_known.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hosts_known.wait(), seconds)

    def _tell_waiters(self) -> None:
        origins = {i.metadata.origin for i in self.pool.identities.values() if i.metadata is not None}
        self.hosts |= frozenset(map(host_of, origins))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self.on_change()


def _api(route: Route, environ: Mapping[str, str], seen_by: Clock) -> AuthApi:
    # Importing an HTTP client takes longer than all the rest of the addon: it is done in this thread, not at start.
    from codexpool.credentials.authapi import AuthApi

    return AuthApi(route, environ, seen_by)


def _is_flagged(spec: IdentitySpec, identity: Identity) -> bool:
    return spec.flag is not None and spec.flag.token == f"sha256:{identity.fingerprint}"


def _is(status: Status) -> str:
    return f"is in {status}" if status is Status.CONFLICT else str(status)
