"""Random faults for identities of all kinds: no valid identity is flagged, and every dead one is found.

Real: keeper, pool, recovery, credentials, files and the reading of answers. Simulated: the backend, gateways
and the clock. CODEXPOOL_LIVES is the number of simulated pools.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from codexpool.config.files import Watcher
from codexpool.config.read import load
from codexpool.credentials import NoTokenNowError, command, token_endpoint
from codexpool.credentials.account_api import UnreadError, usage_of
from codexpool.credentials.authapi import UndiscoveredError, Whoami, place_in, whoami_of
from codexpool.credentials.http_client import Route
from codexpool.credentials.shared_login import opened
from codexpool.credentials.token_endpoint import tokens_of
from codexpool.pool.confirmation import LASTS
from codexpool.pool.identity import Asked, Evidence, IdentityKey, Kind, Metadata, Status, Word
from codexpool.pool.recovery import Look, LookUp, Pause, Renew, Try, Wait, attempts
from codexpool.pool.states import CONDEMNED
from codexpool.pool.verdict import Finding
from codexpool.protocol.errors import document_of, error_in
from codexpool.protocol.usage_report import UsageReport
from codexpool.proxy import judge
from codexpool.proxy.exchange import Attempt
from codexpool.proxy.judge import BackendAnswer
from codexpool.state import logins
from codexpool.tokens.bearer import Bearer, fingerprint
from codexpool.tokens.state_keys import new_key, state_keys
from codexpool.upkeep import keeper as keeper_module
from codexpool.upkeep.keeper import Keeper
from tests.standin import CLOUDFLARE_PAGE, error_body
from tests.standin.endpoints import discovery
from tests.standin.logins import access_token, auth_json
from tests.standin.tokens import Token
from tests.state.memory import MemoryState
from tests.timetravel import time_travel
from tests.upkeep.keepers import Unheard

BEGIN = 1_800_000_000.0
PATH = "/backend-api/codex/responses"
NAMES = {
    "pat": Kind.PAT,
    "file": Kind.PAT,
    "login": Kind.OAUTH,
    "other": Kind.OAUTH,
    "shared": Kind.OAUTH,
    "sso": Kind.COMMAND,
}
NAME = st.sampled_from(sorted(NAMES))
LOGIN = st.sampled_from(["login", "other", "shared"])
SHARED = IdentityKey("acc-shared", "user-shared")
ENVIRON = {"CODEXPOOL_STATE_KEY": new_key()}


LIVES = int(os.environ.get("CODEXPOOL_LIVES", "12"))
"""Number of simulated pools. 10 000 take 15 minutes."""

WELL_WITHIN = 35.0
"""Seconds after a gateway fault within which all valid identities serve again: 30, plus the requests."""


@dataclass
class Known:
    """A token in the backend."""

    name: str
    expires_at: float = float("inf")
    alive: bool = True

    @property
    def is_good(self) -> bool:
        return self.alive and time.time() < self.expires_at


def _elsewhere(**more: str) -> dict[str, Any]:
    document = discovery(Token("", "acc-elsewhere", "user-elsewhere"))
    entry = {**document["accounts"][0], **more}
    return {**document, "accounts": [entry]}


PAGE = {"content-type": "text/html"}
MITIGATED = {"cf-mitigated": "challenge"}
CLOUDFLARE = {"cloudflare_error": True, "error_code": 1020, "title": "Error 1020: Access denied"}

GATEWAY: dict[str, tuple[int, dict[str, str], Any]] = {
    "1020": (403, {}, CLOUDFLARE),
    "challenge": (403, MITIGATED, CLOUDFLARE),
    "401 challenge": (401, MITIGATED, error_body("unauthorized", "no")),
    "page": (403, PAGE, CLOUDFLARE_PAGE),
    "401 page": (401, PAGE, CLOUDFLARE_PAGE),
    "200 page": (200, PAGE, CLOUDFLARE_PAGE),
    "proxy": (401, {}, error_body("proxy_unauthorized", "sign in to the proxy")),
    "unauthorized": (401, {}, {"detail": "Unauthorized"}),
    "no body": (401, {}, b""),
    "address": (403, {}, error_body("ip_not_authorized", "not from here")),
    "country": (403, {}, error_body("unsupported_country_region_territory", "not from here")),
    "bad request": (400, {}, error_body("invalid_request", "no")),
    "busy": (503, {}, error_body("server_error", "later")),
    "empty": (200, {}, {}),
    "a list": (200, {}, [1, 2]),
    "garbage": (200, {}, b"\x00\xff{"),
    "unsendable token": (200, {}, {"access_token": "to ken\u00e9\n"}),
    "other accounts": (200, {}, _elsewhere()),
    "no https": (200, {}, _elsewhere(workspace_backend_origin="http://chatgpt.com")),
}
"""Answers of a gateway in front of the backend. None has a code that only the backend uses."""

HANGS = "hangs"
"""The gateway does not answer."""


class Gateway:
    """A gateway in front of the backend, which answers some requests itself."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}
        self._name = ""

    def answer(self, service: str, how: str, name: str) -> None:
        """Answer instead of a service from now on, for one identity or (if ``name`` is empty) for all."""
        self._answers[service], self._name = how, name

    def pass_on(self) -> None:
        """Pass on all requests from now on."""
        self._answers.clear()

    def instead_of(self, service: str, name: str) -> httpx.Response | None:
        """Return the gateway's answer, or None if it passes the request on. Raise TimeoutError if it hangs."""
        how = self._answers.get(service)
        if how is None or self._name not in ("", name):
            return None
        if how == HANGS:
            raise TimeoutError
        status, headers, body = GATEWAY[how]
        if isinstance(body, bytes | str):
            return httpx.Response(status, headers=headers, content=body)
        return httpx.Response(status, headers=headers, json=body)


REVOKED = httpx.Response(401, json=error_body("token_revoked", "Your authentication token has been revoked."))


class Backend:
    """Whoami, routing discovery, the token endpoint, token commands and the model."""

    def __init__(self) -> None:
        self.tokens: dict[str, Known] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.used: dict[str, str] = {}
        self.printed: dict[str, str] = {}
        self.gateway = Gateway()
        self.is_silent = False
        self.renewals = 0
        self.numbers = count()

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

    def accepts(self, token: str) -> bool:
        return token in self.tokens and self.tokens[token].is_good

    def name_of(self, token: str) -> str:
        return self.tokens[token].name if token in self.tokens else ""

    # -- replaces the network clients

    async def whoami(self, bearer: Bearer) -> Whoami:
        at = time.time()
        await asyncio.sleep(0.1)
        name = self.name_of(bearer.token)
        try:
            answer = self.gateway.instead_of("whoami", name)
        except TimeoutError:
            await asyncio.sleep(10)
            return Whoami(Word.UNREACHABLE, Evidence(at, fingerprint=bearer.fingerprint, note="whoami hangs"))
        if answer is None and self.is_silent:
            return Whoami(Word.UNREACHABLE, Evidence(at, fingerprint=bearer.fingerprint, note="whoami is silent"))
        if answer is None and self.accepts(bearer.token):
            answer = httpx.Response(
                200,
                json={
                    "chatgpt_account_id": f"acc-{name}",
                    "chatgpt_user_id": f"user-{name}",
                    "chatgpt_plan_type": "business",
                    "chatgpt_account_is_fedramp": False,
                },
            )
        return whoami_of(answer or REVOKED, bearer, at)

    async def routing(self, bearer: Bearer, metadata: Metadata) -> Metadata:
        await asyncio.sleep(0.1)
        try:
            answer = self.gateway.instead_of("discovery", self.name_of(bearer.token))
        except TimeoutError:
            await asyncio.sleep(10)
            raise UndiscoveredError("routing discovery hangs") from None
        if answer is None and self.is_silent:
            raise UndiscoveredError("routing discovery is silent")
        if answer is None and self.accepts(bearer.token):
            answer = httpx.Response(200, json=discovery(Token("", metadata.account_id, metadata.user_id)))
        return place_in(answer or REVOKED, metadata)

    async def usage(self, bearer: Bearer, metadata: Metadata) -> UsageReport:
        at = time.time()
        await asyncio.sleep(0.1)
        try:
            answer = self.gateway.instead_of("usage", self.name_of(bearer.token))
        except TimeoutError:
            await asyncio.sleep(10)
            raise UnreadError("wham/usage hangs") from None
        if answer is None and self.is_silent:
            raise UnreadError("wham/usage is silent")
        if answer is None and self.accepts(bearer.token):
            limit = {"allowed": True, "limit_reached": False, "primary_window": None, "secondary_window": None}
            answer = httpx.Response(200, json={"plan_type": "business", "rate_limit": limit})
        return usage_of(answer or REVOKED, at)

    async def models(self, *_: object) -> None:
        raise UnreadError("codex/models answers 500")

    def renew(self, refresh_token: str, refused: bool) -> dict[str, Any]:
        self.renewals += 1
        name = self.refresh_tokens.get(refresh_token) or self.used.get(refresh_token, "")
        try:
            answer = self.gateway.instead_of("token endpoint", name)
        except TimeoutError:
            raise NoTokenNowError("the token endpoint hangs") from None
        if answer is None and self.is_silent:
            raise NoTokenNowError("the token endpoint is silent")
        if answer is None:
            answer = self._renewal(refresh_token)
        return tokens_of(answer, refresh_token)

    def _renewal(self, refresh_token: str) -> httpx.Response:
        if refresh_token in self.used:
            return httpx.Response(401, json=error_body("refresh_token_reused", "used already"))
        if refresh_token not in self.refresh_tokens:
            return httpx.Response(401, json=error_body("refresh_token_invalidated", "revoked"))
        self.used[refresh_token] = name = self.refresh_tokens.pop(refresh_token)
        return httpx.Response(200, json=self.login(name)["tokens"])

    def model(self, token: str) -> BackendAnswer:
        """Return the answer to a model request."""
        answer = self.gateway.instead_of("model", self.name_of(token))
        if answer is None:
            answer = httpx.Response(200) if self.accepts(token) else REVOKED
        code, message = error_in(answer.headers, document_of(answer.content))
        values = {name.lower().encode(): value.encode() for name, value in answer.headers.items()}
        html = "html" in answer.headers.get("content-type", "")
        return BackendAnswer(answer.status_code, values, code, message, {}, html)

    async def output(self, line: command.CommandLine, *_: object) -> str:
        await asyncio.sleep(0.05)
        if self.is_silent:
            raise NoTokenNowError("the program fails")
        return self.printed["sso"]


class Endpoint:
    """Replaces `TokenEndpoint`."""

    backend: Backend

    def __init__(self, route: Route, environ: object) -> None:
        pass

    def renew(self, refresh_token: str, refused: bool) -> dict[str, Any]:
        return self.backend.renew(refresh_token, refused)


class Life(RuleBasedStateMachine):
    """A pool and its files, with random events."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(time_travel(BEGIN))
        self.backend = Backend()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = type("BoundEndpoint", (Endpoint,), {"backend": self.backend})
        for patch in (
            mock.patch.object(keeper_module, "AuthApi", mock.Mock(return_value=self.backend)),
            mock.patch.object(keeper_module, "AccountApi", mock.Mock(return_value=self.backend)),
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
        """Identities that need a person."""

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
            "shared": 'login = "state"\naccount_id = "acc-shared"\nuser_id = "user-shared"',
            "sso": 'token = { command = ["sso"] }\naccount_id = "acc-sso"\nuser_id = "user-sso"',
        }
        lines = [f'[[identity]]\nname = "{name}"\n{entry}\n{more.get(name, "")}\n' for name, entry in entries.items()]
        self.private("pool.toml", "\n".join(lines))

    def new_token(self, name: str) -> None:
        """Enter a new credential of the same account and user."""
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
                self.put_login(name, self.backend.login(name))
        self.dead.discard(name)

    def put_login(self, name: str, document: dict[str, Any]) -> None:
        """Put a login to where its identity has it: in a file, or in the state."""
        text = json.dumps(document)
        if name == "shared":
            sealed = state_keys(ENVIRON).seal(text, SHARED)
            self.state.transact(lambda connection: logins.log_in(connection, SHARED, sealed))
        else:
            self.private(f"{name}.json", text)

    def tokens_of(self, name: str) -> dict[str, str]:
        """Return the tokens of a login, from where its identity has it."""
        if name == "shared":
            stored = self.state.transact(lambda connection: logins.login_rows(connection, -1))[SHARED]
            tokens: dict[str, str] = opened(SHARED, stored, state_keys(ENVIRON)).document["tokens"]
        else:
            tokens = json.loads((self.folder / f"{name}.json").read_text())["tokens"]
        return tokens

    # -- start and stop

    @initialize()
    def begin(self) -> None:
        self.printed_pat = ""
        for name in NAMES:
            self.new_token(name)
        self.do(self.started())

    async def started(self) -> None:
        watcher = Watcher([self.folder / "pool.toml"])
        self.keeper = Keeper(load(self.folder / "pool.toml"), lambda: self.state, ENVIRON, Route(), Unheard())
        self.keeper.start(watcher)
        await asyncio.sleep(3)

    async def stopped(self) -> None:
        assert self.keeper is not None
        self.keeper.stop()
        await asyncio.sleep(0)

    # -- events

    @rule()
    def restart(self) -> None:
        self.do(self.stopped())
        self.do(self.started())

    @rule(seconds=st.sampled_from([1.0, 10.0, 120.0, 900.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule(name=NAME)
    def a_token_dies(self, name: str) -> None:
        """All tokens of an identity die. A login keeps its refresh token; a command prints a new token."""
        for known in self.backend.tokens.values():
            known.alive &= known.name != name
        if NAMES[name] is Kind.PAT:
            self.dead.add(name)
        elif name == "sso":
            self.new_token(name)

    @rule(name=LOGIN)
    def another_program_uses_a_refresh_token(self, name: str) -> None:
        mine = self.tokens_of(name)["refresh_token"]
        self.backend.used[mine] = name
        self.dead.add(name)

    @rule(name=LOGIN)
    def another_program_renews_a_login(self, name: str) -> None:
        if name not in self.dead:
            mine = self.tokens_of(name)["refresh_token"]
            self.backend.refresh_tokens.pop(mine, None)
            self.backend.used[mine] = name
            self.put_login(name, self.backend.login(name))

    @rule(name=NAME)
    def a_person_enters_a_new_token(self, name: str) -> None:
        self.new_token(name)

    @rule(name=NAME, seconds=st.sampled_from([0.0, 5.0]))
    def an_identity_is_paused_and_resumed(self, name: str, seconds: float) -> None:
        text = (self.folder / "pool.toml").read_text()
        self.private("pool.toml", text.replace(f'name = "{name}"\n', f'name = "{name}"\npaused = true\n'))
        self.do(asyncio.sleep(seconds))
        self.private("pool.toml", (self.folder / "pool.toml").read_text().replace("paused = true\n", ""))

    @rule(name=NAME)
    def an_identity_is_renamed_and_back(self, name: str) -> None:
        """It is the same one under its other name: what is known of it stays, and nothing is asked again."""
        assert self.keeper is not None
        self.do(asyncio.sleep(3))  # What changed in its files just now makes it another one.
        before = self.keeper.pool.identities[name]
        for old, new in ((name, "another"), ("another", name)):
            text = (self.folder / "pool.toml").read_text()
            self.private("pool.toml", text.replace(f'name = "{old}"\n', f'name = "{new}"\n'))
            self.do(asyncio.sleep(3))
            assert self.keeper.pool.identities[new] is before
            assert old not in self.keeper.pool.identities
            self.turns(2)

    @rule(seconds=st.sampled_from([1.0, 30.0]))
    def the_backend_is_silent_for_a_while(self, seconds: float) -> None:
        self.backend.is_silent = True
        self.turns(3)
        self.do(asyncio.sleep(seconds))
        self.backend.is_silent = False

    @rule(
        services=st.sets(st.sampled_from(["whoami", "discovery", "token endpoint", "model", "usage"]), min_size=1),
        how=st.sampled_from([*GATEWAY, HANGS]),
        name=st.sampled_from(["", "", *sorted(NAMES)]),
        starts=st.booleans(),
        seconds=st.sampled_from([0.0, 5.0, 100.0, 400.0]),
    )
    def a_gateway_answers(self, services: set[str], how: str, name: str, starts: bool, seconds: float) -> None:
        """Instead of some services, for one identity or all, during requests and perhaps a start."""
        for service in services:
            self.backend.gateway.answer(service, how, name)
        if starts:
            self.restart()
        self.turns(3)
        self.do(asyncio.sleep(seconds))
        self.turns(3)
        self.backend.gateway.pass_on()
        self.do(asyncio.sleep(WELL_WITHIN))
        self.check_that_none_is_in_doubt()

    def check_that_none_is_in_doubt(self) -> None:
        assert self.keeper is not None
        for name, identity in self.keeper.pool.identities.items():
            if name not in self.dead and not self.is_about_to_be_noticed(name):
                note(f"{name}: {identity.status} {identity.condition.evidence}")
                assert identity.status not in (Status.UNVERIFIED, Status.SUSPECT), name

    @rule(number=st.integers(1, 6), spurious=st.booleans())
    def clients_send_requests(self, number: int, spurious: bool) -> None:
        self.turns(number, spurious)

    def turns(self, number: int, spurious: bool = False) -> None:
        async def several() -> None:
            await asyncio.gather(*(self.request(spurious) for _ in range(number)))

        self.do(several())

    async def try_each(self) -> None:
        """Make a request in a session of each identity."""
        assert self.keeper is not None
        for identity in list(self.keeper.pool.identities.values()):
            if identity.metadata is not None:
                session = f"own-{next(self.sessions)}"
                self.keeper.pool.sessions.bind(session, identity.metadata.key)
                await self.request(session=session)

    async def request(self, spurious: bool = False, session: str | None = None) -> None:
        """Make a request as `codexpool.proxy.requests` does. A ``spurious`` one first gets a 401."""
        assert self.keeper is not None
        keeper = self.keeper
        asked = Asked(session or f"s-{next(self.sessions)}", PATH)
        steps = attempts(keeper.pool, asked, time.time, time.time)
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
                case Look(identities, seconds):
                    await keeper.look(identities, asked, seconds)
                case LookUp(sessions, seconds):
                    await keeper.look_up(sessions, seconds)
                case Try(identity):
                    assert identity.status is Status.READY
                    assert identity.metadata is not None
                    bearer = keeper.bearer(identity.name)
                    attempt = Attempt(identity, bearer, identity.metadata, time.time(), mock.Mock())
                    await asyncio.sleep(0.2)
                    said = judge.LOST
                    with suppress(TimeoutError):
                        said = BackendAnswer(401) if spurious else self.backend.model(bearer.token)
                    spurious = False
                    verdict, evidence = judge.judge(
                        keeper.pool, asked, attempt, "POST", said, repeatable=False, lightens=False
                    )
                    judge.learn(keeper, asked, attempt, said, verdict, evidence)
                    if verdict.finding is Finding.OK:
                        keeper.served(identity.name, asked, attempt.at)

    # -- promises

    @invariant()
    def no_error_is_logged(self) -> None:
        assert self.errors == []

    @rule()
    def in_the_end_exactly_the_dead_are_flagged(self) -> None:
        assert self.keeper is not None
        self.do(asyncio.sleep(LASTS + 60))  # if whoami refuses several at once, they are flagged after this time
        for _ in range(3):
            self.turns(len(NAMES))
            self.do(self.try_each())
            self.do(asyncio.sleep(150))
        identities = dict(self.keeper.pool.identities)
        note(str({name: (str(i.status), str(i.condition.evidence or "")) for name, i in identities.items()}))
        assert set(identities) == set(NAMES)
        for name, identity in identities.items():
            if name not in self.dead:
                assert identity.status in (Status.READY, Status.RESTING), name
            elif NAMES[name] is Kind.PAT:
                assert identity.status is Status.NEEDS_REPLACEMENT, name
            elif not self.has_a_good_token(name):
                assert identity.status is Status.NEEDS_LOGIN, name
        flags = {spec.name for spec in load(self.folder / "pool.toml").identities if spec.flag is not None}
        assert flags == {name for name in self.dead if NAMES[name] is Kind.PAT}

    def has_a_good_token(self, name: str) -> bool:
        """Tell whether a login's access token is still valid."""
        return self.backend.accepts(self.tokens_of(name)["access_token"])

    @invariant()
    def no_valid_identity_needs_a_person(self) -> None:
        if self.keeper is not None:
            for name, identity in self.keeper.pool.identities.items():
                assert identity.status in set(Status), name
                if name not in self.dead:
                    assert identity.status not in CONDEMNED or self.is_about_to_be_noticed(name), name

    def is_about_to_be_noticed(self, name: str) -> bool:
        """Tell whether there is a new token that the proxy has not read yet."""
        assert self.keeper is not None
        present = {
            "pat": lambda: self.printed_pat,
            "file": lambda: (self.folder / "token").read_text(),
            "sso": lambda: self.backend.printed["sso"],
        }.get(name)
        token = present() if present is not None else self.tokens_of(name)["access_token"]
        return fingerprint(token) != self.keeper.pool.identities[name].fingerprint


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=LIVES,
    stateful_step_count=25,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes too long
)
