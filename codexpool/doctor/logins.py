"""Has a client what is the pool's: a login that two renew is burnt, and a token of the pool is not for clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from codexpool.common.private_files import UnusableError
from codexpool.config import FromAuthJson, PoolConfig
from codexpool.config.sources import other_owner
from codexpool.credentials import Credential, auth_json
from codexpool.credentials.auth_json import Login
from codexpool.credentials.oauth import OAuth
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.tokens.bearer import Bearer

ABOUT: Final = "logins"

AUTH_JSON: Final = "auth.json"


def findings(
    config: PoolConfig, credentials: Mapping[str, Credential], client: ClientEnvironment, text: str
) -> Iterator[Finding]:
    """``text`` is that of the client's auth.json, empty if it has none; ``credentials`` are the pool's, by name."""
    path = client.home / AUTH_JSON
    given = _login(text)
    looked_at = (_shared(name, owned, given, path) for name, owned in credentials.items())
    shared = [finding for finding in looked_at if finding is not None]
    variable = client.variables.get("CODEX_ACCESS_TOKEN", "").strip()
    for name, owned in credentials.items():
        if variable and owned.bearer() == Bearer.of(variable):
            shared.append(_of_the_pool(name, "CODEX_ACCESS_TOKEN"))
    yield from shared
    # The same file in two hands is found where pool.toml is looked at (`codexpool.config.resolve`).
    files = [one.source.path for one in config.identities if isinstance(one.source, FromAuthJson)]
    if not shared and not any(other_owner(file, client.variables) for file in files):
        yield ok(ABOUT, "no login or token of the pool is a client's too")


def _shared(name: str, owned: Credential, given: Login | Bearer | None, path: Path) -> Finding | None:
    """What is to be said where the client's login is that of an identity."""
    if isinstance(given, Login):
        is_copy = isinstance(owned, OAuth) and owned.login.refresh_token == given.refresh_token
        if not is_copy or _is_same_file(owned, path):
            return None
        return wrong(
            ABOUT,
            f"{path} is a copy of the login of {name}: whoever renews it first burns the other's refresh token",
            f"give the pool one of its own: codexpool login {name}",
        )
    return _of_the_pool(name, str(path)) if given is not None and owned.bearer() == given else None


def _of_the_pool(name: str, where: str) -> Finding:
    return note(
        ABOUT,
        f"{where} has the token of {name} itself: such a client works without the proxy too, as {name}",
        "give clients a key of their own: codexpool member add NAME",
    )


def _is_same_file(owned: Credential, path: Path) -> bool:
    return isinstance(owned, OAuth) and owned.path.resolve() == path.resolve()


def _login(text: str) -> Login | Bearer | None:
    try:
        return auth_json.parse(text) if text else None
    except UnusableError:
        return None
