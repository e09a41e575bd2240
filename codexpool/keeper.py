"""Keeps the pool true: asks whoami, follows pool.toml, writes flags and state, and says what changed.

All side effects of the pool are here, and none of them is on the path of a request: files and the HTTP client's
set-up are for threads, whoami for tasks. `codexpool.pool` decides; this module carries out.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from codexpool import backend
from codexpool.config import (
    ConfigError,
    Flag,
    IdentitySpec,
    PoolConfig,
    Problem,
    Watcher,
    load,
    resolve,
)
from codexpool.credentials import Credential
from codexpool.credentials.pat import Pat
from codexpool.credentials.route import Route
from codexpool.credentials.secret import Bearer
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Kind, Metadata, Status, Word, clock
from codexpool.pool.pool import Identity, Pool
from codexpool.state import MemoryState, Snapshot, State, StateError
from codexpool.wire.routes import host_of

if TYPE_CHECKING:
    from codexpool.credentials.authapi import AuthApi, Whoami

logger = logging.getLogger("codexpool")

POLL = 1.0
"""Seconds between two looks at pool.toml, its token files, and what other proxies wrote into the state."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two askings of whoami while it gives no word: doubled each time, and jittered."""

REWRITTEN_AFTER = 3600.0
"""Seconds after which a session in use is written again, so that it does not look forgotten."""

BOUND_KEPT = 10_000
"""Sessions of which it is remembered that they were written."""

IN_DOUBT = frozenset({Status.UNVERIFIED, Status.SUSPECT})
"""What whoami is asked about until it gives its word."""

HELD_OVER = frozenset({Status.LIMITED, Status.RESTING})
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
        self._environ = environ
        self._credentials: dict[str, Credential] = {}
        self._askings: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._distrusted: set[str] = set()
        """Fingerprints of tokens that do not serve on what an earlier run knew."""
        self._changed = asyncio.Event()
        self._bound: OrderedDict[str, tuple[IdentityKey, float]] = OrderedDict()
        self._state: asyncio.Task[tuple[State, Snapshot]] = self._spawn(asyncio.to_thread(_opened, open_state))
        self._api: asyncio.Task[AuthApi] = self._spawn(asyncio.to_thread(_api, route, environ))

    # -- for the requests

    def bearer(self, name: str) -> Bearer:
        """The token an identity is sent with now. Raises KeyError where the identity has left the pool."""
        return self._credentials[name].bearer()

    async def change(self, seconds: float) -> None:
        """Wait until something about an identity changes, ``seconds`` at most."""
        resting = [i.condition.until for i in self.pool.identities.values() if i.status is Status.RESTING]
        soonest = min((until - time.time() for until in resting if until is not None), default=seconds)
        try:
            async with asyncio.timeout(max(0.01, min(seconds, soonest))):
                await self._changed.wait()
        except TimeoutError:
            pass

    def bind(self, session: str, name: str) -> None:
        """Remember, beyond this process, which identity a session is served by."""
        identity = self.pool.identities.get(name)
        if identity is None or identity.metadata is None or (state := self._state_now()) is None:
            return
        key, now = identity.metadata.key, time.time()
        written, at = self._bound.get(session, (None, 0.0))
        if written != key or now - at > REWRITTEN_AFTER:
            state.put_session(session, key, now)
            self._bound[session] = (key, now)
            if len(self._bound) > BOUND_KEPT:
                self._bound.popitem(last=False)

    # -- pool.toml

    def start(self, config: PoolConfig) -> None:
        """Take over a configuration, and follow its file from now on."""
        self._spawn(self._share_sessions())  # first: a session is known before an identity is ready to serve it
        self.follow(config, *resolve(config, self._environ))
        self._spawn(self._watch(Watcher(config.files)))

    def follow(self, config: PoolConfig, bearers: Mapping[str, Bearer], problems: tuple[Problem, ...]) -> None:
        """Make the pool what the configuration says: new tokens are verified, the others keep their state."""
        now = time.time()
        for problem in problems:
            logger.warning("%s", problem)
        before = self.config
        self.config = config
        specs = {spec.name: spec for spec in config.identities if spec.name in bearers}
        self._credentials = {name: Pat(bearers[name]) for name in specs}
        self.pool.replace_identities(
            (
                Identity(name, Kind.PAT, bearers[name].fingerprint, Condition(Status.UNVERIFIED, now))
                for name in specs
            ),
            config.selection,
            now,
        )
        for spec in specs.values():
            self._apply_flag(spec, bearers[spec.name], _flag_of(before, spec.name))
            self._ask(spec.name)
        self._notify()

    def stop(self) -> None:
        """End all tasks, and write what is still to be written. For the end of the process or of the addon."""
        for task in self._tasks:
            task.cancel()
        if (state := self._state_now()) is not None:
            state.close()

    def _apply_flag(self, spec: IdentitySpec, bearer: Bearer, flag_before: Flag | None) -> None:
        identity = self.pool.identities[spec.name]
        if spec.flag is None:
            if flag_before is not None and identity.status is Status.NEEDS_REPLACEMENT:
                # A person took the flag away and left the token: whoami is asked once more before it serves.
                self._distrusted.add(bearer.fingerprint)
                self._learn(identity, Condition(Status.UNVERIFIED, time.time()))
        elif spec.flag.applies_to(bearer):
            if identity.status is not Status.NEEDS_REPLACEMENT:
                evidence = Evidence(
                    spec.flag.since.timestamp(), fingerprint=bearer.fingerprint, note=spec.flag.reason
                )
                self._learn(identity, Condition(Status.NEEDS_REPLACEMENT, evidence.at, evidence=evidence))
        else:
            self._spawn(self._edit_flag(spec.name, None))

    def _learn(self, identity: Identity, condition: Condition) -> None:
        self.pool.condition_learned(identity.name, identity.fingerprint, condition)

    async def _watch(self, watcher: Watcher) -> None:
        while True:
            await asyncio.sleep(POLL)
            if self.config is None or not await asyncio.to_thread(watcher.changed):
                continue
            try:
                config = await asyncio.to_thread(load, self.config.path)
                bearers, problems = await asyncio.to_thread(resolve, config, self._environ)
            except ConfigError as error:
                for problem in error.problems:
                    logger.error("%s", problem)
                logger.error("%s does not hold: what it said before stays in force", self.config.path)
                continue
            if _without_flags(config) != _without_flags(self.config):
                logger.info("%s has changed and is in force", config.path)
            watcher.watch(config.files)
            self.follow(config, bearers, problems)

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

    # -- whoami

    def _ask(self, name: str) -> None:
        """Have whoami asked about an identity's token, unless it is being asked or there is no need."""
        identity = self.pool.identities[name]
        asking = (name, identity.fingerprint)
        if asking not in self._askings and identity.status in IN_DOUBT:
            task = self._spawn(self._ask_until_known(identity, self.bearer(name)))
            self._askings[asking] = task
            task.add_done_callback(lambda _: self._asked(asking))

    def _asked(self, asking: tuple[str, str]) -> None:
        del self._askings[asking]
        identity = self.pool.identities.get(asking[0])
        if identity is not None and identity.status is Status.SUSPECT:
            self._ask(identity.name)

    async def _ask_until_known(self, identity: Identity, bearer: Bearer) -> None:
        state, known = await asyncio.shield(self._state)
        if identity.status is Status.UNVERIFIED:
            self._remember(identity, known)
        pause = FIRST_PAUSE
        while self.pool.identities.get(identity.name) is identity:
            answer = await self._whoami(identity, bearer)
            self.pool.whoami_said(identity.name, answer.word, answer.evidence, answer.metadata)
            if answer.metadata is not None:
                state.put_metadata(bearer.fingerprint, answer.metadata, answer.evidence.at)
            if identity.status not in IN_DOUBT:
                return
            if answer.word is Word.UNREACHABLE:
                logger.warning("%s stays %s: %s", identity.name, identity.status, answer.evidence)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _remember(self, identity: Identity, known: Snapshot) -> None:
        """Have an identity serve on what an earlier run found out about the same token."""
        metadata = known.metadata.get(identity.fingerprint)
        condition = known.conditions.get(identity.fingerprint)
        if metadata is None or identity.fingerprint in self._distrusted:
            return
        if condition is None or condition.status in HELD_OVER:
            self.pool.recall(identity.name, identity.fingerprint, metadata, time.time())
        if condition is not None and condition.status in HELD_OVER and (condition.until or 0) > time.time():
            self._learn(identity, condition)

    async def _whoami(self, identity: Identity, bearer: Bearer) -> Whoami:
        """Whoami's word; for a token it knows, with where its workspace is served from."""
        api = await asyncio.shield(self._api)
        answer = await api.whoami(bearer)
        if answer.metadata is None:
            return answer
        if identity.metadata is not None and identity.metadata.key != answer.metadata.key:
            return answer._replace(word=Word.OTHER_ACCOUNT, metadata=None)
        if identity.status is Status.SUSPECT and identity.metadata is not None:
            return answer._replace(metadata=identity.metadata)  # Asked about the token only, and waited for.
        return await self._with_routing(answer, api, bearer, answer.metadata)

    async def _with_routing(self, answer: Whoami, api: AuthApi, bearer: Bearer, metadata: Metadata) -> Whoami:
        from codexpool.credentials.authapi import UndiscoveredError

        try:
            return answer._replace(metadata=await api.routing(bearer, metadata))
        except UndiscoveredError as error:
            evidence = replace(answer.evidence, note=str(error))
            return answer._replace(word=Word.UNREACHABLE, evidence=evidence, metadata=None)

    # -- what follows from a change

    def _on_change(self, identity: Identity, before: Condition) -> None:
        condition = identity.condition
        if (state := self._state_now()) is not None:
            if condition.status is Status.READY:
                state.drop_condition(identity.fingerprint)
            else:
                state.put_condition(identity.fingerprint, condition)
        match condition.status:
            case Status.READY:
                if before.status is not Status.RESTING:
                    logger.info("%s is ready: %s", identity.name, _described(identity))
            case Status.SUSPECT:
                self._ask(identity.name)
            case Status.NEEDS_REPLACEMENT:
                self._flag(identity)
            case Status.PAUSED | Status.CONFLICT:
                logger.warning("%s is %s: %s", identity.name, condition.status, condition.evidence)
            case Status.RESTING:
                logger.info("%s rests until %s: %s", identity.name, _time(condition.until), condition.evidence)
            case _:
                pass
        self._notify()

    def _flag(self, identity: Identity) -> None:
        evidence = identity.condition.evidence
        spec = self._spec(identity.name)
        if spec is None or evidence is None:
            return
        where = f"{self.config.path}:{spec.line}" if self.config is not None else "pool.toml"
        logger.warning("%s needs_replacement: %s. Put a new token at %s", identity.name, evidence, where)
        token = f"sha256:{identity.fingerprint}"
        if spec.flag is None or spec.flag.token != token:
            since = datetime.fromtimestamp(int(identity.condition.since), UTC)
            self._spawn(self._edit_flag(identity.name, Flag(since, str(evidence), token)))

    def _spec(self, name: str) -> IdentitySpec | None:
        specs = self.config.identities if self.config is not None else ()
        return next((spec for spec in specs if spec.name == name), None)

    def _notify(self) -> None:
        origins = {i.metadata.origin for i in self.pool.identities.values() if i.metadata is not None}
        self.hosts = frozenset({backend.HOST, *map(host_of, origins)})
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- state

    async def _share_sessions(self) -> None:
        """Take over the sessions of an earlier run, and follow what other proxies on this machine write."""
        state, known = await asyncio.shield(self._state)
        self.pool.restore_sessions(known.sessions)
        while True:
            await asyncio.sleep(POLL)
            news = await asyncio.to_thread(state.changes)
            self.pool.restore_sessions(news.sessions)

    def _state_now(self) -> State | None:
        """The state, if it is open by now: nobody waits for a disk."""
        if self._state.done() and not self._state.cancelled() and self._state.exception() is None:
            return self._state.result()[0]
        return None

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_complain)
        return task


def _opened(open_state: Callable[[], State]) -> tuple[State, Snapshot]:
    try:
        state = open_state()
    except StateError as error:
        logger.error("%s. Until then sessions and metadata are kept in memory only", error)
        state = MemoryState()
    return state, state.load()


def _api(route: Route, environ: Mapping[str, str]) -> AuthApi:
    # Importing an HTTP client takes longer than all the rest of the addon: it is done in this thread, not at start.
    from codexpool.credentials.authapi import AuthApi

    return AuthApi(route, environ)


def _complain(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("codexpool: %s", error, exc_info=error)


def _without_flags(config: PoolConfig) -> PoolConfig:
    """What a person has said: a flag that we have written ourselves is no news."""
    return replace(config, identities=tuple(replace(spec, flag=None) for spec in config.identities))


def _flag_of(config: PoolConfig | None, name: str) -> Flag | None:
    specs = config.identities if config is not None else ()
    return next((spec.flag for spec in specs if spec.name == name), None)


def _described(identity: Identity) -> str:
    metadata = identity.metadata
    assert metadata is not None
    words = [
        f"{identity.kind.upper()} sha256:{identity.fingerprint}",
        f"account {metadata.account_id}",
        metadata.plan,
    ]
    if metadata.fedramp:
        words.append("FedRAMP")
    words.append(metadata.origin)
    return ", ".join(words)


def _time(at: float | None) -> str:
    return "further notice" if at is None else clock(at)
