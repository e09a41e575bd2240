"""Fixtures for tests with the real client: a stand-in, a proxy and the client, connected."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.running import CLIENT, Codex, Proxy, pool_toml
from tests.standin import RESPONSES, WHOAMI, Answer, Seen, StandIn, Token


class World:
    """A stand-in, a proxy and a client, connected."""

    def __init__(self, standin: StandIn, proxy: Proxy, client: Codex, tokens: tuple[Token, ...]) -> None:
        self.standin, self.proxy, self.client, self.tokens = standin, proxy, client, tokens

    @property
    def pool(self) -> str:
        return self.proxy.pool.read_text()

    def model_calls(self, status: int, name: str | None = None) -> list[Seen]:
        return [seen for seen in self.standin.requests(RESPONSES, name) if seen.status == status]

    def confirmations(self, name: str) -> list[Seen]:
        return [seen for seen in self.standin.requests(WHOAMI, name) if seen.status == 401]

    def check(self) -> None:
        """Check that the stand-in refused nothing, and that no token went where it does not belong."""
        assert self.standin.refusals == []
        assert self.standin.leaks == []


Make = Callable[..., World]


@pytest.fixture(params=["websocket", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:

        def world(
            *tokens: Token,
            transport: str = "websocket",
            login: Callable[[Path], str] | None = None,
            wait: bool = True,
            plan: tuple[Answer, ...] = (),
            arguments: tuple[str, ...] = (),
            head: str = "",
            drained: tuple[str, ...] = (),
            has_pool: bool = True,
            **more: object,
        ) -> World:
            standin = stack.enter_context(
                StandIn(tokens, clients=[CLIENT], folder=tmp_path, websockets=transport == "websocket", **more)  # type: ignore[arg-type]
            )
            for answer in plan:
                standin.plan(answer)
            for token in tokens:
                if token.name in drained:
                    standin.limit(token.token, time.time() + 86400)
            if has_pool:
                pool_toml(tmp_path, *tokens, head=head)
            proxy = stack.enter_context(Proxy(standin, tmp_path, *arguments))
            client = Codex(proxy, tmp_path, {} if login else None)
            if login:
                token = Token(login(client.home), "acc-own", "user-made-up", name="oauth")
                standin.backend.clients[token.token] = token
            if wait:
                for token in tokens:
                    if token.alive:
                        proxy.says(f"{token.name} is {'limited' if token.name in drained else 'ready'}")
            return World(standin, proxy, client, tokens)

        yield world
