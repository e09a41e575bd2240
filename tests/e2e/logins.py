"""Worlds with OAuth logins and commands, whose files and programs a test can look at."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.world import E2EProxy, World
from tests.running import CLIENT, pool_toml
from tests.standin import StandIn, Token

DAY = 86_400.0
TOKEN_ENDPOINT = "/oauth/token"

FOREIGN = {"x_of_another_program": {"keep": ["me"]}, "agent_note": None}
"""What no version of Codex writes today."""


def write_private(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


@dataclass
class Login:
    """An ``auth.json`` of the pool's own."""

    path: Path
    first: dict[str, Any]
    """What it held at the beginning."""

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.path.read_text())
        return document

    def is_whole(self) -> bool:
        """The file is private, and has a login and everything that was in it besides."""
        document = self.document
        rest = {key: value for key, value in self.first.items() if key not in ("tokens", "last_refresh")}
        return (
            stat.S_IMODE(self.path.stat().st_mode) == 0o600
            and {**document, **rest} == document
            and set(document["tokens"]) == set(self.first["tokens"])
        )

    @property
    def was_renewed(self) -> bool:
        was, now = self.first["tokens"], self.document["tokens"]
        return all(was[key] != now[key] for key in ("access_token", "refresh_token"))


def owner(name: str, **more: Any) -> Token:
    """Whose a login is; the stand-in makes its tokens."""
    return Token("", f"acc-{name}", f"user-{name}", name=name, **more)


def login_of(standin: StandIn, folder: Path, who: Token, lifetime: float = 10 * DAY) -> Login:
    """Create a login whose access token is valid for so many seconds."""
    document = {**standin.login(who, lifetime=lifetime), **FOREIGN}
    path = write_private(folder / f"login-{who.name}" / "auth.json", json.dumps(document, indent=2))
    return Login(path, document)


class LoginWorld(World):
    """A `World` whose first identities are logins."""

    def __init__(self, standin: StandIn, proxy: E2EProxy, tokens: tuple[Token, ...], logins: list[Login]) -> None:
        super().__init__(standin, proxy, tokens)
        self.logins = logins

    @property
    def login(self) -> Login:
        return self.logins[0]

    @property
    def renewals(self) -> int:
        return len(self.standin.requests(TOKEN_ENDPOINT))


def auth_entry(name: str, path: Path, more: str = "") -> str:
    return f'\n[[identity]]\nname = "{name}"\nauth_json = "{path}"\n{more}'


@contextmanager
def a_login_world(
    folder: Path, *owners: tuple[Token, float], others: tuple[Token, ...] = (), ready: int | None = None, **more: Any
) -> Iterator[LoginWorld]:
    """A world with these logins (whose, and for how many seconds), and after them these PATs."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        options = {name: more.pop(name) for name in ("pace", "websockets") if name in more}
        plan = more.pop("plan", ())
        standin = stack.enter_context(StandIn(others, clients=[CLIENT], folder=folder, **options))
        logins = [login_of(standin, folder, who, lifetime) for who, lifetime in owners]
        entries = [auth_entry(who.name, login.path) for (who, _), login in zip(owners, logins, strict=True)]
        pool_toml(folder, *others, head=more.pop("head", "") + "".join(entries))
        for answer in plan:
            standin.plan(answer)
        started = more.pop("started", True)
        ready = (len(owners) + len(others) if started else 0) if ready is None else ready
        proxy = E2EProxy(standin, folder, ready=ready, **more)
        stack.callback(proxy.end)
        if started:
            proxy.start()
        yield LoginWorld(standin, proxy, others, logins)
