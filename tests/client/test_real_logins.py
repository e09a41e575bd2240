"""The real client with a pool of logins and token commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.logins import DAY, TOKEN_ENDPOINT, Login, auth_entry, login_of, owner, write_private
from tests.running import CLIENT, Codex, Proxy, answered, pat, pool_toml
from tests.standin import RESPONSES, Answer, StandIn, Token

pytestmark = pytest.mark.real_client

DRAIN_FIRST = '[pool]\nselection = "drain-first"\n'


class LoginWorld:
    """A stand-in, a proxy, and a login that the pool tries before its PATs."""

    def __init__(self, standin: StandIn, proxy: Proxy, login: Login, folder: Path) -> None:
        self.standin, self.proxy, self.login, self.folder = standin, proxy, login, folder

    def client(self, number: int = 0) -> Codex:
        folder = self.folder / f"client-{number}"
        folder.mkdir(exist_ok=True)
        return Codex(self.proxy, folder)

    @property
    def renewals(self) -> int:
        return len(self.standin.requests(TOKEN_ENDPOINT))

    def check(self) -> None:
        assert self.standin.refusals == []
        assert self.standin.leaks == []
        assert not re.search(r"rt_test|eyJ|at-test", self.proxy.log)


Make = Callable[..., LoginWorld]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:

        def world(lifetime: float, *others: Token, transport: str = "websocket") -> LoginWorld:
            websockets = transport == "websocket"
            standin = stack.enter_context(
                StandIn(others, clients=[CLIENT], folder=tmp_path / "standin", websockets=websockets)
            )
            login = login_of(standin, tmp_path, owner("spare"), lifetime)
            pool_toml(tmp_path, *others, head=DRAIN_FIRST + auth_entry("spare", login.path))
            proxy = stack.enter_context(Proxy(standin, tmp_path))
            return LoginWorld(standin, proxy, login, tmp_path)

        yield world


@pytest.fixture(params=["websocket", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_six_clients_under_one_expired_login_cost_one_renewal(make: Make, transport: str) -> None:
    world = make(-60.0, transport=transport)

    with ThreadPoolExecutor(6) as threads:
        runs = list(threads.map(lambda n: world.client(n).exec(f"say hi echo:word{n}", seconds=90), range(6)))

    assert [answered(run, f"word{number}") for number, run in enumerate(runs)] == ["spare"] * 6
    assert world.renewals == 1
    assert world.login.was_renewed
    assert world.login.is_whole()  # mode 0600, unknown fields kept
    world.check()


def test_a_refused_login_is_renewed_unseen(make: Make, transport: str) -> None:
    world = make(10 * DAY, pat("work"), transport=transport)
    client = world.client()
    assert answered(client.exec("say hi echo:banana"), "banana") == "spare"
    world.standin.kill(world.login.first["tokens"]["access_token"])

    assert answered(client.exec("resume", "--last", "and now echo:apple"), "apple") == "spare"

    assert world.renewals == 1
    assert world.login.was_renewed
    world.check()


def test_a_used_refresh_token_moves_the_session_unseen(make: Make, transport: str) -> None:
    world = make(10 * DAY, pat("work"), transport=transport)
    client = world.client()
    assert answered(client.exec("say hi echo:banana"), "banana") == "spare"
    tokens = world.login.first["tokens"]
    world.standin.backend.refresh_tokens.renew(tokens["refresh_token"])
    world.standin.kill(tokens["access_token"])

    assert answered(client.exec("resume", "--last", "and now echo:apple"), "apple") == "work"

    assert world.renewals == 1
    world.proxy.says("spare needs_login")
    world.check()


def test_a_login_renewed_as_another_account_is_not_used(make: Make) -> None:
    world = make(10 * DAY, pat("work"))
    client = world.client()
    assert answered(client.exec("say hi echo:banana"), "banana") == "spare"
    tokens = world.login.first["tokens"]
    world.standin.backend.refresh_tokens.hand_over(tokens["refresh_token"], owner("stranger"))
    world.standin.kill(tokens["access_token"])

    assert answered(client.exec("resume", "--last", "and now echo:apple"), "apple") == "work"

    world.proxy.says("spare is in conflict")
    assert world.standin.requests(RESPONSES, "stranger") == []
    world.check()


def test_a_pat_never_causes_a_renewal(make: Make) -> None:
    work, third = pat("work"), pat("third")
    world = make(10 * DAY, work, third)
    world.standin.plan(
        Answer(path=RESPONSES, token=world.login.first["tokens"]["access_token"], times=None, status=500)
    )
    for token in (work, third):
        world.standin.kill(token.token)
    pool_toml(world.folder, work, third)
    world.proxy.says("work stays unverified: 401 token_revoked on whoami")

    run = world.client().exec("say hi")

    assert run.returncode == 1
    assert "work: not verified yet" in run.stderr
    assert world.renewals == 0


def test_a_refused_command_token_is_replaced_by_the_next(make: Make, transport: str) -> None:
    world = make(10 * DAY, pat("work"), transport=transport)
    first, second = "corp-token-first-0123456789abcdef", "corp-token-second-0123456789abcdef"
    for token in (first, second):
        world.standin.add(Token(token, "acc-sso", "user-sso", name="sso"))
    output = write_private(world.folder / "output", first)
    entry = f'\n[[identity]]\nname = "sso"\naccount_id = "acc-sso"\ntoken = {{ command = ["cat", "{output}"] }}\n'
    pool_toml(world.folder, pat("work"), head=DRAIN_FIRST + entry)
    world.proxy.says("sso is ready")
    client = world.client()
    assert answered(client.exec("say hi echo:banana"), "banana") == "sso"
    world.standin.kill(first)
    output.write_text(second)

    assert answered(client.exec("resume", "--last", "and now echo:apple"), "apple") == "sso"
    world.check()
