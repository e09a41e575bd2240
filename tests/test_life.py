"""Identities of all kinds through whatever may happen to them: nobody healthy is condemned, and the dead are found.

The real keeper, pool, recovery and credentials, on files; the backend and the clock are made up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from codexpool import keeper as keeper_module
from codexpool.config import Watcher, load
from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, command, token_endpoint
from codexpool.credentials.route import Route
from codexpool.credentials.secret import Bearer, fingerprint
from codexpool.credentials.whoami import RefusedError, UndiscoveredError, Whoami
from codexpool.keeper import Keeper
from codexpool.pool.conditions import CONDEMNED
from codexpool.pool.identity import Asked, Evidence, Kind, Metadata, Status, Word
from codexpool.pool.recovery import Pause, Renew, Try, Wait, attempts
from codexpool.pool.verdict import Answer, Finding, classify
from codexpool.standin.logins import access_token, auth_json
from codexpool.standin.tokens import Token
from codexpool.state import MemoryState
from tests.timetravel import time_travel

BEGIN = 1_800_000_000.0
PATH = "/backend-api/codex/responses"
NAMES = {"pat": Kind.PAT, "file": Kind.PAT, "login": Kind.OAUTH, "other": Kind.OAUTH, "sso": Kind.COMMAND}
NAME = st.sampled_from(sorted(NAMES))
LOGIN = st.sampled_from(["login", "other"])


@dataclass
class Known:
    """What the backend knows of a token."""

    name: str
    expires_at: float = float("inf")
    alive: bool = True

    @property
    def is_good(self) -> bool:
        return self.alive and time.time() < self.expires_at


class Backend:
    """Whoami, routing discovery, the token endpoint, the commands, and who may speak to the model."""

    def __init__(self) -> None:
        self.tokens: dict[str, Known] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.used: set[str] = set()
        self.printed: dict[str, str] = {}
        self.is_silent = False
        self.renewals = 0
        self.numbers = count()

    def metadata(self, name: str) -> Metadata:
        return Metadata(f"acc-{name}", f"user-{name}", "business")

    def pat(self, name: str) -> str:
        token = f"at-test-{name}-{next(self.numbers)}-0123456789"
        self.tokens[token] = Known(name)
        return token

    def login(self, name: str, lifetime: float = 1800.0) -> dict[str, Any]:
        owner = Token("", f"acc-{name}", f"user-{name}")
        token = access_token(owner, lifetime=lifetime)
        self.tokens[token] = Known(name, time.time() + lifetime)
        refresh_token = f"rt_test-{next(self.numbers)}"
        self.refresh_tokens[refresh_token] = name
        return auth_json(replace(owner, token=token), refresh_token)

    def says_ok(self, token: str) -> bool:
        return token in self.tokens and self.tokens[token].is_good

    # -- in place of the modules that ask

    async def whoami(self, bearer: Bearer) -> Whoami:
        evidence = Evidence(time.time(), "GET", "whoami", fingerprint=bearer.fingerprint)
        await asyncio.sleep(0.1)
        if self.is_silent:
            return Whoami(Word.UNREACHABLE, replace(evidence, note="whoami is silent"))
        if not self.says_ok(bearer.token):
            return Whoami(Word.REFUSED, replace(evidence, status=401, code="token_revoked"))
        return Whoami(Word.HEALTHY, replace(evidence, status=200), self.metadata(self.tokens[bearer.token].name))

    async def routing(self, bearer: Bearer, metadata: Metadata) -> Metadata:
        await asyncio.sleep(0.1)
        if self.is_silent:
            raise UndiscoveredError("routing discovery is silent")
        if not self.says_ok(bearer.token):
            raise RefusedError("routing discovery answers 401")
        return metadata

    def renew(self, refresh_token: str, refused: bool) -> dict[str, Any]:
        self.renewals += 1
        if self.is_silent:
            raise NoTokenNowError("the token endpoint is silent")
        if refresh_token in self.used:
            raise NoTokenAnyMoreError("refresh_token_reused", "used already")
        if refresh_token not in self.refresh_tokens:
            raise NoTokenAnyMoreError("refresh_token_invalidated", "revoked")
        self.used.add(refresh_token)
        tokens: dict[str, Any] = self.login(self.refresh_tokens.pop(refresh_token))["tokens"]
        return tokens

    async def output(self, line: command.CommandLine, *_: object) -> str:
        await asyncio.sleep(0.05)
        if self.is_silent:
            raise NoTokenNowError("the program fails")
        return self.printed["sso"]


class Endpoint:
    """In place of the token endpoint."""

    backend: Backend

    def __init__(self, route: Route, environ: object) -> None:
        pass

    def renew(self, refresh_token: str, refused: bool) -> dict[str, Any]:
        return self.backend.renew(refresh_token, refused)


class Life(RuleBasedStateMachine):
    """A pool, its files, and a day's work on both."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(time_travel(BEGIN))
        self.backend = Backend()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = type("BoundEndpoint", (Endpoint,), {"backend": self.backend})
        for patch in (
            mock.patch.object(keeper_module, "_api", mock.Mock(return_value=self.backend)),
            mock.patch.object(keeper_module, "TokenEndpoint", endpoint),
            mock.patch.object(token_endpoint, "TokenEndpoint", endpoint),
            mock.patch.object(command, "output", self.backend.output),
        ):
            self.stack.enter_context(patch)
        self.errors: list[str] = []
        self.stack.enter_context(mock.patch.object(logging.getLogger("codexpool"), "error", self._error))
        self.state = MemoryState()
        self.keeper: Keeper | None = None
        self.sessions = count()
        self.dead: set[str] = set()
        """Identities that nobody but a person can bring back."""

    def _error(self, message: str, *arguments: object, **_: object) -> None:
        self.errors.append(message % arguments)

    def teardown(self) -> None:
        if self.keeper is not None:
            self.do(self.stopped())
        self.stack.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    # -- files

    def private(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)

    def write_pool(self, **more: str) -> None:
        entries = {
            "pat": f'token = "{self.printed_pat}"',
            "file": 'token = { file = "token" }',
            "login": 'auth_json = "login.json"',
            "other": 'auth_json = "other.json"',
            "sso": 'token = { command = ["sso"] }\naccount_id = "acc-sso"\nuser_id = "user-sso"',
        }
        lines = [f'[[identity]]\nname = "{name}"\n{entry}\n{more.get(name, "")}\n' for name, entry in entries.items()]
        self.private("pool.toml", "\n".join(lines))

    def new_token(self, name: str) -> None:
        """A person brings a credential of the same account and user."""
        match name:
            case "pat":
                self.printed_pat = self.backend.pat(name)
                self.write_pool()
            case "file":
                self.private("token", self.backend.pat(name))
            case "sso":
                token = f"corp-token-{next(self.backend.numbers)}-0123456789"
                self.backend.tokens[token] = Known(name)
                self.backend.printed[name] = token
            case _:
                self.private(f"{name}.json", json.dumps(self.backend.login(name)))
        self.dead.discard(name)

    # -- the keeper's life

    @initialize()
    def begin(self) -> None:
        self.printed_pat = ""
        for name in NAMES:
            self.new_token(name)
        self.do(self.started())

    async def started(self) -> None:
        watcher = Watcher([self.folder / "pool.toml"])
        self.keeper = Keeper(lambda: self.state, {}, Route())
        self.keeper.start(load(self.folder / "pool.toml"), watcher)
        await asyncio.sleep(3)

    async def stopped(self) -> None:
        assert self.keeper is not None
        self.keeper.stop()
        await asyncio.sleep(0)

    # -- what happens

    @rule()
    def restart(self) -> None:
        self.do(self.stopped())
        self.do(self.started())

    @rule(seconds=st.sampled_from([1.0, 10.0, 120.0, 900.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule(name=NAME)
    def a_token_dies(self, name: str) -> None:
        """All tokens of an identity; a login has a refresh token still, and a command prints another one."""
        for known in self.backend.tokens.values():
            known.alive &= known.name != name
        if NAMES[name] is Kind.PAT:
            self.dead.add(name)
        elif name == "sso":
            self.new_token(name)

    @rule(name=LOGIN)
    def a_refresh_token_is_used_by_somebody_else(self, name: str) -> None:
        mine = json.loads((self.folder / f"{name}.json").read_text())["tokens"]["refresh_token"]
        self.backend.used.add(mine)
        self.dead.add(name)

    @rule(name=LOGIN)
    def somebody_else_renews_a_login_in_the_file(self, name: str) -> None:
        if name not in self.dead:
            document = json.loads((self.folder / f"{name}.json").read_text())
            self.backend.refresh_tokens.pop(document["tokens"]["refresh_token"], None)
            self.backend.used.add(document["tokens"]["refresh_token"])
            self.private(f"{name}.json", json.dumps(self.backend.login(name)))

    @rule(name=NAME)
    def a_person_brings_a_new_one(self, name: str) -> None:
        self.new_token(name)

    @rule(name=NAME, seconds=st.sampled_from([0.0, 5.0]))
    def an_identity_is_paused_and_resumed(self, name: str, seconds: float) -> None:
        text = (self.folder / "pool.toml").read_text()
        self.private("pool.toml", text.replace(f'name = "{name}"\n', f'name = "{name}"\npaused = true\n'))
        self.do(asyncio.sleep(seconds))
        self.private("pool.toml", (self.folder / "pool.toml").read_text().replace("paused = true\n", ""))

    @rule(seconds=st.sampled_from([1.0, 30.0]))
    def nobody_can_be_asked_for_a_while(self, seconds: float) -> None:
        self.backend.is_silent = True
        self.turns(3)
        self.do(asyncio.sleep(seconds))
        self.backend.is_silent = False

    @rule(number=st.integers(1, 6), spurious=st.booleans())
    def requests_are_made(self, number: int, spurious: bool) -> None:
        self.turns(number, spurious)

    def turns(self, number: int, spurious: bool = False) -> None:
        async def several() -> None:
            await asyncio.gather(*(self.request(spurious) for _ in range(number)))

        self.do(several())

    async def each_is_tried(self) -> None:
        """A request of a session of each identity's own."""
        assert self.keeper is not None
        for identity in list(self.keeper.pool.identities.values()):
            if identity.metadata is not None:
                session = f"own-{next(self.sessions)}"
                self.keeper.pool.sessions.bind(session, identity.metadata.key)
                await self.request(session=session)

    async def request(self, spurious: bool = False, session: str | None = None) -> None:
        """One request, as `codexpool.exchanges` makes it, of a new session; a spurious one is refused at first."""
        assert self.keeper is not None
        keeper = self.keeper
        steps = attempts(keeper.pool, Asked(session or f"s-{next(self.sessions)}", PATH), time.time, time.time)
        verdict = None
        while True:
            try:
                step = steps.send(verdict)
            except StopIteration:
                return
            verdict = None
            match step:
                case Wait(seconds):
                    await keeper.change(seconds)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Renew(identity, seconds):
                    await keeper.renewal(identity, seconds)
                case Try(identity):
                    bearer, sent_at = keeper.bearer(identity.name), time.time()
                    assert identity.status is Status.READY
                    await asyncio.sleep(0.2)
                    good = self.backend.says_ok(bearer.token) and not spurious
                    spurious = False
                    current = keeper.pool.identities.get(identity.name)
                    answer = Answer(
                        200 if good else 401,
                        current=current is None or current.fingerprint == bearer.fingerprint,
                        kind=identity.kind,
                    )
                    verdict = classify(answer)
                    if verdict.finding is Finding.OK:
                        keeper.served(identity.name, Asked(None, PATH), sent_at)
                    elif verdict.finding is Finding.REFUSED:
                        evidence = Evidence(time.time(), "POST", PATH, 401, fingerprint=bearer.fingerprint)
                        keeper.pool.refused(identity.name, evidence, sent_at, time.time())

    # -- what must hold

    @invariant()
    def nothing_broke(self) -> None:
        assert self.errors == []

    @rule()
    def when_all_is_quiet_nobody_healthy_is_condemned_and_the_dead_are_found(self) -> None:
        assert self.keeper is not None
        self.do(asyncio.sleep(150))
        for _ in range(3):
            self.turns(len(NAMES))
            self.do(self.each_is_tried())
            self.do(asyncio.sleep(150))
        standing = dict(self.keeper.pool.identities)
        note(str({name: (str(i.status), str(i.condition.evidence or "")) for name, i in standing.items()}))
        assert set(standing) == set(NAMES)
        for name, identity in standing.items():
            if name not in self.dead:
                assert identity.status in (Status.READY, Status.RESTING), name
            elif NAMES[name] is Kind.PAT:
                assert identity.status is Status.NEEDS_REPLACEMENT, name
            elif not self.has_a_good_token(name):
                assert identity.status is Status.NEEDS_LOGIN, name
        flags = {spec.name for spec in load(self.folder / "pool.toml").identities if spec.flag is not None}
        assert flags == {name for name in self.dead if NAMES[name] is Kind.PAT}

    def has_a_good_token(self, name: str) -> bool:
        """A login whose refresh token is lost serves until its access token ends."""
        document = json.loads((self.folder / f"{name}.json").read_text())
        return self.backend.says_ok(document["tokens"]["access_token"])

    @invariant()
    def nobody_who_serves_needs_a_person(self) -> None:
        if self.keeper is not None:
            for name, identity in self.keeper.pool.identities.items():
                assert identity.status in set(Status), name
                if name not in self.dead:
                    assert identity.status not in CONDEMNED or self.is_about_to_be_noticed(name), name

    def is_about_to_be_noticed(self, name: str) -> bool:
        """A person has brought another token than the one that is condemned, and that was not seen yet."""
        assert self.keeper is not None
        present = {
            "pat": lambda: self.printed_pat,
            "file": lambda: (self.folder / "token").read_text(),
            "sso": lambda: self.backend.printed["sso"],
        }.get(name)
        token = (
            present()
            if present is not None
            else json.loads((self.folder / f"{name}.json").read_text())["tokens"]["access_token"]
        )
        return fingerprint(token) != self.keeper.pool.identities[name].fingerprint


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # A day is read faster than it is made shorter.
)
