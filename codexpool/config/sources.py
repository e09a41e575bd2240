"""Fetches the credentials of the identities from where pool.toml says they are: files, variables, the keyring."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from codexpool.common.private_files import UnusableError, read_private
from codexpool.config import model
from codexpool.config.model import FromEnv, IdentitySpec, PoolConfig, Problem
from codexpool.credentials import Credential, Pat, agent_identity, auth_json
from codexpool.credentials.agent import Agent
from codexpool.credentials.agent_api import AgentApi
from codexpool.credentials.agent_identity import AgentIdentity
from codexpool.credentials.command import Command
from codexpool.credentials.file_login import FileLogin
from codexpool.credentials.shared_login import Logins, shared_login
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.credentials.token_forms import MEMBER_KEY, mistake
from codexpool.redaction import redact_tokens
from codexpool.tokens.agent_key import AgentKey
from codexpool.tokens.bearer import Bearer

PREFIX_OF_OURS: Final = "CODEXPOOL_"  # Some of these variables have tokens, keys and proxy passwords in them.
HARMLESS: Final = frozenset({"CODEXPOOL_CONFIG", "CODEXPOOL_STATE"})  # Needed to run codexpool; a URL may be secret.

MAY_BE_SECRET: Final = re.compile(r"://|:[^/\\]*@|password\s*=")  # The address of a database may have a password.


class PendingError(Exception):
    """A secret that has not been read yet; the keyring may be waiting for a person to unlock it."""


def read_keyring(service: str, name: str) -> str:
    """Return the secret of a service and user. Waits as long as the keyring does. Raises UnusableError."""
    secret = in_keyring(service, name)
    if not secret:
        raise UnusableError(
            f'the keyring has nothing for service "{service}" and user "{name}"',
            f"store it: keyring set {service} {name}",
        )
    return secret


def in_keyring(service: str, name: str) -> str | None:
    """Return the secret of a service and user; None if there is none. Raises UnusableError."""
    with _library() as keyring:
        secret: str | None = keyring.get_password(service, name)
    return secret or None


def write_keyring(service: str, name: str, secret: str | None) -> None:
    """Set the secret of a service and user; delete it if that is None. Raises UnusableError."""
    with _library() as keyring:
        if secret is not None:
            keyring.set_password(service, name, secret)
        elif keyring.get_password(service, name) is not None:
            keyring.delete_password(service, name)


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    try:
        import keyring
    except ImportError:
        raise UnusableError(
            "the library `keyring` is not installed",
            "install it: uv tool install '.[keyring]' in the checkout, or --with keyring beside mitmproxy",
        ) from None
    try:
        yield keyring
    except Exception as error:  # The backends of many vendors raise whatever they like.
        what = f"the keyring does not answer: {redact_tokens(str(error)) or type(error).__name__}"
        raise UnusableError(what, "unlock it, or keep the token elsewhere") from None


Keyring = Callable[[str, str], str]  # `read_keyring`, or a cache that raises PendingError for what was not read yet


class Resolved(NamedTuple):
    """Credentials by the names of their identities, problems (not all of which leave an identity out), and the
    names whose credentials have not been read yet."""

    credentials: dict[str, Credential]
    problems: tuple[Problem, ...] = ()
    pending: frozenset[str] = frozenset()


class Sources(NamedTuple):
    """Where credentials are fetched from, besides pool.toml and files.

    Commands get ``environ`` without the ``secret`` variables, which hold the tokens of other identities.
    """

    environ: Mapping[str, str]
    endpoint: TokenEndpoint
    agents: AgentApi
    logins: Logins
    keyring: Keyring = read_keyring
    secret: frozenset[str] = frozenset()


def resolve(config: PoolConfig, sources: Sources) -> Resolved:
    """Return the credential of each identity. One that is not available leaves out its identity only.

    Reads files and the keyring, runs nothing, raises nothing. If two identities have the same token, the first one
    keeps it.
    """
    pending: set[str] = set()
    credentials: dict[str, Credential] = {}
    owners: dict[Bearer | AgentKey, str] = {}
    problems: list[Problem] = []
    sources = sources._replace(secret=secret_variables(config))
    for number, identity in enumerate(config.identities, 1):
        key = f"identity[{number}].{identity.source_key}"
        try:
            credential = credential_of(identity, sources)
            proof = proof_of(credential)
            if proof is not None and (owner := owners.setdefault(proof, identity.name)) != identity.name:
                raise UnusableError(f'is also the token of "{owner}"', "give each identity a token of its own")
        except PendingError:
            pending.add(identity.name)
        except UnusableError as error:
            what = f'{error.what}; identity "{identity.name}" is left out'
            problems.append(Problem(config.path, identity.line, key, what, error.remedy))
        else:
            credentials[identity.name] = credential
            if isinstance(credential, FileLogin) and (owner := other_owner(credential.path, sources.environ)):
                what = f"{credential.path} is also the login of {owner}: two programs that renew one login break it"
                remedy = f"give the pool a login of its own: codexpool login {identity.name}"
                problems.append(Problem(config.path, identity.line, key, what, remedy))
    return Resolved(credentials, tuple(problems), frozenset(pending))


def proof_of(credential: Credential) -> Bearer | AgentKey | None:
    """Return what no two identities may have in common; None if that is not known without running a command."""
    return credential.identity.key if isinstance(credential, Agent) else credential.bearer()


def credential_of(identity: IdentitySpec, sources: Sources) -> Credential:
    """Return the credential of an identity. Raises UnusableError, or PendingError if it has not been read yet."""
    match identity.source:
        case model.Inline(token):
            return _given(token, "the token", sources.agents)
        case model.FromEnv(variable):
            token = sources.environ.get(variable, "")
            if not token:
                what = f"environment variable {variable} is {'empty' if variable in sources.environ else 'not set'}"
                raise UnusableError(what, "set it where the proxy is started")
            return _given(token, f"the token in environment variable {variable}", sources.agents)
        case model.FromFile(path):
            return _given(_only_line(path), f"the token in file {path}", sources.agents)
        case model.FromKeyring(service):
            token = sources.keyring(service, identity.name)
            return _given(token, f"the token in the keyring ({service})", sources.agents)
        case model.FromCommand(line):
            return Command(line, environ_of_programs(sources.environ, sources.secret))
        case model.FromAuthJson(path):
            return _from_auth_json(path, sources)
        case model.FromState():
            return shared_login(identity.owner, sources.logins, sources.endpoint)


class CachedKeyring:
    """The secrets of the keyring as last read, for an event loop, which must not wait for it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str | UnusableError] = {}

    def __call__(self, service: str, name: str) -> str:
        """Return a secret as `read_keyring` does. Raises PendingError for one that has not been read yet."""
        known = self._known.get((service, name))
        if known is None:
            raise PendingError
        if isinstance(known, UnusableError):
            raise known
        return known

    def read(self, wanted: Sequence[tuple[str, str]]) -> bool:
        """Read these secrets again, and return whether any has changed. Waits: for a thread."""
        before = {pair: repr(known) for pair, known in self._known.items()}
        self._known = {pair: _read(*pair) for pair in wanted}
        return before != {pair: repr(known) for pair, known in self._known.items()}


def _read(service: str, name: str) -> str | UnusableError:
    try:
        return read_keyring(service, name)
    except UnusableError as error:
        return error


def secret_variables(config: PoolConfig) -> frozenset[str]:
    """Return the variables that hold the tokens of a pool."""
    sources = (identity.source for identity in config.identities)
    return frozenset(source.variable for source in sources if isinstance(source, FromEnv))


def environ_of_programs(environ: Mapping[str, str], secret: frozenset[str]) -> dict[str, str]:
    """Return the environment for a program: ``environ`` without the ``secret`` variables and codexpool's own."""
    if "://" in environ.get("CODEXPOOL_STATE", ""):
        secret |= {"PGPASSWORD"}  # Of the state's database. Without one, it is for something else.
    return {
        name: value
        for name, value in environ.items()
        if name not in secret
        and (not name.startswith(PREFIX_OF_OURS) or (name in HARMLESS and not MAY_BE_SECRET.search(value)))
    }


def other_owner(path: Path, environ: Mapping[str, str]) -> str:
    """Return which Codex client seems to have its login in this file, judging by the folder; empty if none."""
    folder = path.resolve().parent
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if environ.get("CODEX_HOME") and folder == Path(environ["CODEX_HOME"]).expanduser().resolve():
        return "the Codex client of CODEX_HOME"
    if folder == (home / ".codex").resolve():
        return "your Codex client"
    has_sessions = (folder / "sessions").is_dir() or (folder / "history.jsonl").is_file()
    return f"a Codex client that has sessions in {folder}" if has_sessions else ""


def _only_line(path: Path) -> str:
    try:
        text = read_private(path).strip()
    except UnusableError as error:
        raise UnusableError(f"token file {path}: {error.what}", error.remedy) from None
    if len(text.splitlines()) != 1:
        what = f"token file {path} {'has more than one line' if text else 'is empty'}"
        raise UnusableError(what, "write the token into it, and nothing else")
    return text


def _from_auth_json(path: Path, sources: Sources) -> Credential:
    try:
        login = auth_json.parse(read_private(path))
    except UnusableError as error:
        raise UnusableError(f"{path}: {error.what}", error.remedy) from None
    if isinstance(login, AgentIdentity):
        return Agent(login, sources.agents)
    token = login if isinstance(login, Bearer) else login.access
    _refuse_member_key(token.token, f"the token in {path}")
    return Pat(login) if isinstance(login, Bearer) else FileLogin(path, login, sources.endpoint)


def _given(token: str, what: str, agents: AgentApi) -> Credential:
    """Return the credential that a token is: an agent identity by its claims, else a personal access token."""
    if not agent_identity.is_agent_jwt(token):
        return _pat(token, what)
    try:
        return Agent(agent_identity.of_jwt(token), agents)
    except UnusableError as error:
        raise UnusableError(f"{what} {error.what}", error.remedy) from None


def _pat(token: str, what: str) -> Pat:
    if (form := mistake(token)) is not None:
        raise UnusableError(f"{what} {form.what}", form.remedy)
    return Pat(Bearer.of(token))


def _refuse_member_key(token: str, what: str) -> None:
    """Never send to a backend what opens a pool."""
    if MEMBER_KEY.is_it(token):
        raise UnusableError(f"{what} {MEMBER_KEY.what}", MEMBER_KEY.remedy)
