"""Keeps the pool current: reloads pool.toml, renews tokens, writes flags, and announces changes.

All side effects of the pool start here, and none is on the path of a request: files and the set-up of the HTTP client
run in threads, requests to the backend in tasks. `codexpool.pool` decides; this module carries out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from codexpool.common import tasks
from codexpool.common.clock_skew import Clock
from codexpool.common.tasks import Tasks
from codexpool.config.files import Watcher
from codexpool.config.model import PoolConfig, renamed
from codexpool.config.sources import Resolved, Sources
from codexpool.credentials.account_api import AccountApi
from codexpool.credentials.agent_api import AgentApi
from codexpool.credentials.authapi import AuthApi
from codexpool.credentials.http_client import Route
from codexpool.credentials.shared_login import StoredLogin
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.members.ledger import Ledger
from codexpool.members.turn_queue import TurnQueue
from codexpool.pool.identity import Asked, Condition, Identity, IdentityKey, Status
from codexpool.pool.pool import Pool
from codexpool.pool.sessions import Session
from codexpool.pool.states import SERVING_OR_SOON, PoolListener
from codexpool.protocol import endpoints
from codexpool.protocol.routes import host_of
from codexpool.state import Snapshot, State
from codexpool.state.location import agents_folder
from codexpool.state.notes import BREAKER, FAMILIES, NOT_FOR, USAGE
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.announcer import Announcer
from codexpool.upkeep.flags import FlagWriter
from codexpool.upkeep.heartbeat import Heartbeat
from codexpool.upkeep.leasing import Leasing
from codexpool.upkeep.lookups import LookUps, Stored
from codexpool.upkeep.model_lists import ModelLists
from codexpool.upkeep.news import apply
from codexpool.upkeep.persistence import Persistence
from codexpool.upkeep.polling import Poller
from codexpool.upkeep.shared_logins import SharedLogins
from codexpool.upkeep.vault import Vault
from codexpool.upkeep.watching import PoolFile, Reloader

logger = logging.getLogger("codexpool")

TICK = 1.0  # Seconds between two checks for tokens that expire soon.


class Listener(Protocol):
    """Learns what changes in a keeper's pool."""

    def changed(self, keeper: Keeper) -> None:
        """Follow a change of the identities or the members."""

    def status_changed(self, identity: Identity, before: Condition) -> None:
        """Follow an identity to another status; ``before`` is the condition it left."""

    def identities_renamed(self, names: Mapping[str, str]) -> None:
        """Follow identities to other names, by their old ones."""

    def breaker_changed(self, is_open: bool, text: str) -> None:
        """Follow the breaker; ``text`` explains it to a person."""

    def session_count(self) -> int:
        """Return how many sessions the proxy has served in this run."""

    def sessions_moved(self, moved: Mapping[str, IdentityKey]) -> None:
        """Follow sessions that other proxies moved; the keys are of their identities until now."""


class Keeper(PoolListener):
    """Carries out what a pool decides. All methods are for the thread of the event loop.

    ``open_state`` opens the state and may read files; ``environ`` has the tokens given as ``{ env = … }``;
    ``route`` is how our own requests reach the backend; ``scope`` returns the key in the state of what belongs to a
    file or folder.
    """

    def __init__(
        self,
        config: PoolConfig,
        open_state: Callable[[], State],
        environ: Mapping[str, str],
        route: Route,
        listener: Listener,
        scope: Callable[[Path], str] = str,
    ) -> None:
        self.pool = Pool(self)
        self.config = config
        self.hosts = frozenset({endpoints.HOST})  # The default, and all that serve or served an identity.
        self.clock = Clock()  # The offset of this machine's clock from the backend's.
        self._changed = asyncio.Event()
        self._learning: Snapshot | None = None  # What is being learned from the state, which is not told to it again.
        self._listener = listener
        self._tasks = Tasks()
        self._persistence = Persistence(open_state, self._tasks, scope(config.path))
        self.heartbeat = Heartbeat(self._persistence, listener.session_count)
        self._look_ups = LookUps(self._persistence.look_up, self._sessions_found, self._tasks)
        self.pool.sessions.can_be_looked_up = lambda: self._persistence.is_connected
        self.ledger = Ledger(self._persistence.put_spent)  # What each member has used.
        self.ledger.pool = self._persistence.scope
        self.queue = TurnQueue(config.turns_at_once)
        self.leasing = Leasing(
            self.queue, self.ledger, self._persistence.exchange_leases, lambda: self._persistence.is_connected
        )
        accounts = AccountApi(route)
        self.models = ModelLists(self.pool, accounts, self._tasks, self._bearer)
        self._poller = Poller(
            self.pool, self._tasks, accounts, self._bearer, self._usage_read, self.models.read, self._persistence
        )
        api = AuthApi(route, environ, self.clock)
        self._vault = Vault(config, self.pool, self._tasks, self._persistence, api, self._poller.first)
        agents = AgentApi(route, environ, self.clock, partial(agents_folder, environ))
        self._logins = SharedLogins(self._persistence.transact, environ)
        sources = Sources(environ, TokenEndpoint(route, environ), agents, self._logins)
        self._reloader = Reloader(config, sources, self.follow)
        self._flags = FlagWriter(config, self.pool, self._vault, self._tasks)
        self._announcer = Announcer(config, self.pool, self._tasks, self._persistence.claim, scope, route, environ)

    @property
    def file(self) -> PoolFile:
        return self._reloader.file

    def bearer(self, name: str) -> Bearer:
        """Return the token to send for an identity. Raise KeyError if it has none or has left the pool."""
        bearer = self._vault.bearer(name)
        if bearer is None:
            raise KeyError(name)
        return bearer

    def _bearer(self, name: str) -> Bearer | None:
        return self._vault.bearer(name)

    def tokens(self) -> list[str]:
        """Return the tokens of all identities. Safe from another thread."""
        bearers = (self._vault.bearer(name) for name in list(self.pool.identities))
        return [bearer.token for bearer in bearers if bearer is not None]

    async def change(self, seconds: float) -> None:
        """Wait until an identity changes, ``seconds`` at most."""
        now = time.time()
        returns_at = self.pool.next_return(now)
        soonest = returns_at - now if returns_at is not None else seconds
        with self._vault.waiting.one_more(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.01, min(seconds, soonest))):
                await self._changed.wait()

    async def renewal(self, identity: Identity, seconds: float) -> None:
        """Wait for the attempt to renew an identity's token, if one is under way; ``seconds`` at most."""
        await self._vault.renewal(identity, seconds)

    async def look(self, identities: Sequence[Identity], asked: Asked, seconds: float) -> None:
        """Ask about limited identities until one of them can serve a request, or all have answered."""
        await self._poller.look(identities, lambda: self.pool.can_serve(asked, time.time()), seconds)

    def served(self, name: str, asked: Asked, sent_at: float) -> None:
        """Record, in the pool and the state, that a request sent at ``sent_at`` was served."""
        if self.pool.succeeded(name, sent_at, asked.is_turn):
            self._watch_breaker()
            self._wake()
        identity = self.pool.identities.get(name)
        if identity is None or identity.metadata is None or asked.is_usage:
            return
        self._persistence.identity_served(identity)
        self._poller.used(identity.metadata.key)
        if asked.session is not None and (session := self.pool.sessions.get(asked.session)) is not None:
            self._persistence.session_bound(asked.session, session)

    def look_up(self, sessions: Sequence[str], seconds: float) -> asyncio.Task[None]:
        """Begin to find out which identities serve sessions that are unknown here; ends after ``seconds`` at most."""
        return self._tasks.spawn(self._look_ups.look_up(sessions, seconds))

    def session_bound(self, name: str, session: Session) -> None:
        self._persistence.session_bound(name, session)

    def learn_family(self, model: str, family: str) -> None:
        """Record the family that a model's limit belongs to."""
        if self.pool.learn_family(model, family):
            self._persistence.put_note(FAMILIES, "", dict(self.pool.families))

    def saw_usage(self, key: IdentityKey) -> None:
        """Record that an answer reported an account's usage."""
        self.pool.saw_usage(key)
        self._persistence.usage_seen(key, self.pool.states.usage(key))

    def _usage_read(self, key: IdentityKey) -> None:
        """Record a reading of an account's usage, also one that failed: sessions may wait for it."""
        self._persistence.usage_seen(key, self.pool.states.usage(key))
        self._wake()

    async def hosts_known(self, seconds: float) -> None:
        """Wait until ``hosts`` has those of earlier runs, ``seconds`` at most, unless the state opens late."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._persistence.opens_in_time(), seconds)

    def start(self, watcher: Watcher) -> None:
        """Load the pool and follow its files. ``watcher`` must have watched pool.toml before it was read."""
        self._tasks.spawn(self._persistence.run(self._apply))  # First: before an identity can serve a session.
        self._tasks.spawn(self.heartbeat.run())
        self._tasks.spawn(self._lease())
        watcher.watch(self.config.files)
        self._reloader.load_now()
        self._tasks.spawn(self._reloader.watch_files(watcher))
        self._tasks.spawn(self._reloader.watch_keyring())
        self._tasks.spawn(self._tend())
        self._tasks.spawn(self._poller.run())

    def follow(self, config: PoolConfig, resolved: Resolved) -> None:
        """Make the pool match the configuration: verify new tokens, keep the state of the others."""
        now = time.time()
        if names := renamed(self.config, config):
            self._rename(names)
        kept = self._vault.kept(config, resolved.credentials)
        for problem in resolved.problems:
            stays = any(spec.line == problem.line for spec in kept)
            logger.warning("%s%s", problem, "; its previous token stays in use" if stays else "")
        before, self.config = self.config, config
        self.queue.limit(config.turns_at_once)
        self._flags.config = self._announcer.config = config
        known = self._vault.take_over(config, resolved.credentials) | resolved.pending
        specs = [spec for spec in config.identities if spec.name in known]
        self.pool.states.breaker.most = config.breaker
        self.pool.lists_none = not config.identities
        self.pool.replace_identities((self._vault.identity(spec, now) for spec in specs), config.selection, now)
        for spec in specs:
            self._flags.apply(spec, before.identity(spec.name))
            self._vault.look_after(self.pool.identities[spec.name])
        self._poller.keep()
        self._announcer.remind(now)
        self._wake()

    def _rename(self, names: Mapping[str, str]) -> None:
        """Have identities go on under other names, by their old ones."""
        self.config = self.config.with_names(names)
        self._vault.rename(names)
        self.pool.rename(names)
        self.ledger.identities_renamed(names)
        self._listener.identities_renamed(names)
        for before, name in names.items():
            logger.info("%s is called %s now", before, name)
            if (identity := self.pool.identities.get(name)) is not None:
                self._persistence.identity_renamed(before, identity)

    def stop(self) -> None:
        """End all tasks and write what is pending, at the end of the process or of the addon."""
        self._flags.close()
        self._tasks.stop()
        self.heartbeat.close()
        self._persistence.close()
        self._wake()

    async def _lease(self) -> None:
        await self.heartbeat.begun()
        await self.leasing.run()

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                now = time.time()
                self._vault.renew_due(now)
                self._announcer.remind(now)
            except Exception:  # A bug of ours must not end the renewal of all tokens.
                logger.exception("cannot check for tokens that expire soon; retrying in %.0f s", TICK)

    def _apply(self, news: Snapshot) -> None:
        self.hosts |= {host_of(metadata.origin) for metadata in news.metadata.values()}
        self.ledger.merge(news.spent)
        self._sessions_moved(self.pool.sessions.follow(news.stored_sessions))
        self._learning = news
        try:
            read, ahead, doubted = apply(self.pool, news, self._persistence.scope)
            for identity in doubted:
                self._vault.verify_contested(identity)
            self._watch_breaker()
        finally:
            self._learning = None
        for key in read:
            self._persistence.usage_learned(key, self.pool.states.usage(key))
        for key in ahead:
            self._persistence.put_note(USAGE, json.dumps(key), self.pool.states.usage(key).document())
        self._logins_found(news.logins)
        self._wake()

    def _logins_found(self, found: Mapping[IdentityKey, StoredLogin]) -> None:
        is_first = not self._logins.are_known
        newer = self.config.shared_logins.intersection(self._logins.learn(found))
        if not self.config.shared_logins or not (newer or is_first):
            return
        in_use = [key for key in newer if self._vault.login_stored(key)]
        if is_first or len(in_use) < len(newer):
            self._tasks.spawn(self._reloader.reload())
        self._tasks.spawn(tasks.in_thread(self._logins.seal_again))

    def _sessions_found(self, found: Stored) -> None:
        self._sessions_moved(self.pool.sessions.found(found))

    def _sessions_moved(self, moved: Mapping[str, IdentityKey]) -> None:
        if moved:
            self._listener.sessions_moved(moved)

    def limits_reset(self, identity: Identity) -> None:
        self._poller.read_soon(identity)
        self._wake()

    def exclusions_changed(self, subject: str) -> None:
        if self._learning is None:
            self._persistence.put_note(NOT_FOR, subject, dict(self.pool.exclusions.document(subject)))
        self._wake()

    def _watch_breaker(self) -> None:
        text = self._announcer.breaker()
        if text:
            self._listener.breaker_changed(self.pool.states.breaker.opened_at is not None, text)
            name, document = self._persistence.scope, self.pool.states.breaker.document()
            if self._learning is None or (BREAKER, name) not in self._learning.notes:
                self._persistence.put_note(BREAKER, name, {**document, "at": time.time()})

    def token_doubted(self, identity: Identity) -> None:
        self._vault.verify_later(identity)

    def status_changed(self, identity: Identity, before: Condition) -> None:
        status = identity.status
        self._watch_breaker()
        if status is not before.status:
            self._listener.status_changed(identity, before)
        if self._learning is None:
            self._persistence.put_condition(identity.fingerprint, identity.condition)
        else:
            self._persistence.condition_learned(identity.fingerprint)
        self._announcer.status(identity, before)
        self._poller.follow(identity, before)
        if status in SERVING_OR_SOON:  # Limited from the start, perhaps: clients are shown its models all the same.
            self.models.can_be_asked(identity)
        if status is Status.NEEDS_REPLACEMENT:
            self._flags.flag(identity)
        elif status is Status.READY:
            self._flags.unflag(identity)
        elif status in (Status.UNVERIFIED, Status.SUSPECT):
            self._vault.look_after(identity)
        self._wake()

    def _wake(self) -> None:
        origins = {i.metadata.origin for i in self.pool.identities.values() if i.metadata is not None}
        self.hosts |= frozenset(map(host_of, origins))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._listener.changed(self)
