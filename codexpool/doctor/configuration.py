"""Checks pool.toml and its tokens, and that no client has a login or token of the pool.

A login that two programs renew becomes invalid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from codexpool.common.private_files import UnusableError
from codexpool.config.files import Places
from codexpool.config.model import ConfigError, FromAuthJson, FromEnv, FromState, PoolConfig, Problem
from codexpool.config.read import load
from codexpool.config.sources import Resolved, other_owner
from codexpool.credentials import Credential, agent_identity, auth_json
from codexpool.credentials.agent import Agent
from codexpool.credentials.agent_identity import AgentIdentity
from codexpool.credentials.auth_json import Login
from codexpool.credentials.file_login import FileLogin
from codexpool.credentials.oauth import OAuth
from codexpool.doctor.environment import ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.state_keys import names_keys

POOL: Final = "pool"
LOGINS: Final = "logins"
AUTH_JSON: Final = "auth.json"


def missing(places: Places) -> Finding:
    """Report that there is no pool.toml; a member's machine needs none."""
    if places.named_by:
        remedy = f"codexpool add NAME creates it, or correct {places.named_by}"
        return note(POOL, f"{places} does not exist yet", remedy)
    text = "no pool.toml on this machine: fine for a member, whose proxy runs elsewhere"
    return note(POOL, text, "for a pool of your own: codexpool add NAME, or codexpool login NAME")


def read(path: Path) -> tuple[PoolConfig | None, list[Finding]]:
    """Return the configuration in a file; or None, and what is wrong with it."""
    try:
        return load(path), []
    except ConfigError as error:
        return None, [_finding(problem) for problem in error.problems]


def check_config(config: PoolConfig, resolved: Resolved, environ: Mapping[str, str]) -> Iterator[Finding]:
    total = len(config.identities)
    if not total:
        yield wrong(POOL, f"{config.path} has no identity", "codexpool add NAME, or codexpool login NAME")
        return
    flags = "; it cannot be written here: the state keeps the flags of dead tokens" if config.is_read_only else ""
    yield ok(POOL, f"{config.path} is valid: {total} {'identity' if total == 1 else 'identities'}{flags}")
    in_environ = (FromEnv,) if names_keys(environ) else (FromEnv, FromState)
    from_env = {
        f"identity[{number}].{spec.source_key}"
        for number, spec in enumerate(config.identities, 1)
        if isinstance(spec.source, in_environ)
    }
    for problem in resolved.problems:
        found = _finding(problem)
        if problem.key in from_env:  # The proxy's environment may have what this shell's does not.
            found = note(POOL, f"{found.text} (in this shell)", found.remedy)
        yield found


def _finding(problem: Problem) -> Finding:
    place = str(problem.file) if problem.line is None else f"{problem.file}:{problem.line}"
    return wrong(POOL, ": ".join(part for part in (place, problem.key, problem.what) if part), problem.remedy)


def check_logins(
    config: PoolConfig, credentials: Mapping[str, Credential], client: ClientEnvironment, text: str
) -> Iterator[Finding]:
    """Compare the pool's credentials, by name, with the client's auth.json (``text``; empty if there is none)."""
    path = client.home / AUTH_JSON
    stored: Login | Bearer | AgentIdentity | None = None
    with contextlib.suppress(UnusableError):
        stored = auth_json.parse(text) if text else None
    variable = client.variables.get("CODEX_ACCESS_TOKEN", "").strip()
    found: list[Finding] = []
    for name, credential in credentials.items():
        if isinstance(stored, Login) and isinstance(credential, OAuth):
            is_copied = credential.login.refresh_token == stored.refresh_token
            is_that_file = isinstance(credential, FileLogin) and credential.path.resolve() == path.resolve()
            if is_copied and not is_that_file:
                text = f"{path} is a copy of the login of {name}: the first to renew it invalidates the other's"
                found.append(wrong(LOGINS, text, f"give the pool a login of its own: codexpool login {name}"))
        elif stored is not None and _is_the_same(credential, stored):
            found.append(_shared_token(name, str(path)))
        if variable and _is_the_same(credential, _of_variable(variable)):
            found.append(_shared_token(name, "CODEX_ACCESS_TOKEN"))
    yield from found
    # `codexpool.config.sources.resolve` reports a file that both the pool and a client use.
    files = [spec.source.path for spec in config.identities if isinstance(spec.source, FromAuthJson)]
    if not found and not any(other_owner(file, client.variables) for file in files):
        yield ok(LOGINS, "no client uses a login or token of the pool")


def _of_variable(text: str) -> Bearer | AgentIdentity:
    with contextlib.suppress(UnusableError):
        return agent_identity.of_jwt(text)
    return Bearer.of(text)


def _is_the_same(credential: Credential, stored: Login | Bearer | AgentIdentity) -> bool:
    if isinstance(credential, Agent) and isinstance(stored, AgentIdentity):
        return credential.identity.key == stored.key
    return credential.bearer() == stored


def _shared_token(name: str, where: str) -> Finding:
    text = f"{where} has the token of {name} itself: this client works as {name} even without the proxy"
    return note(LOGINS, text, "give clients keys of their own: codexpool member add NAME")
