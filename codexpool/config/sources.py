"""Credentials fetched from where pool.toml says they are. One that cannot be had leaves out its identity only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from codexpool.common.private_files import UnusableError, read_private
from codexpool.config.keyrings import PendingError, read_keyring
from codexpool.config.model import (
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    IdentitySpec,
    Inline,
    PoolConfig,
    Problem,
)
from codexpool.config.programs import environ_of_programs, secret_variables
from codexpool.credentials import Credential, auth_json
from codexpool.credentials.command import Command
from codexpool.credentials.oauth import OAuth
from codexpool.credentials.pat import PREFIX, Pat
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.tokens import member_key
from codexpool.tokens.bearer import Bearer

Keyring = Callable[[str, str], str]
"""Service and user in, secret out. Raises UnusableError, and PendingError where it is not known yet."""


class Resolved(NamedTuple):
    """The credentials by the names of their identities, what is wrong, and whose are still to come.

    A problem may leave its identity out, or only want to be known.
    """

    credentials: dict[str, Credential]
    problems: tuple[Problem, ...] = ()
    pending: frozenset[str] = frozenset()


class Sources(NamedTuple):
    """Where credentials are fetched from, besides pool.toml and files.

    Commands get ``environ`` without the ``secret`` variables, in which the tokens of other identities are.
    """

    environ: Mapping[str, str]
    endpoint: TokenEndpoint
    keyring: Keyring = read_keyring
    secret: frozenset[str] = frozenset()


def resolve(config: PoolConfig, sources: Sources) -> Resolved:
    """The credential of each identity; one that cannot be had leaves out its identity only.

    Reads files and the keyring, runs nothing, raises nothing. If two identities have the same token, the first one
    keeps it.
    """
    pending: set[str] = set()
    credentials: dict[str, Credential] = {}
    owners: dict[Bearer, str] = {}
    problems: list[Problem] = []
    sources = sources._replace(secret=secret_variables(config))
    for number, identity in enumerate(config.identities, 1):
        try:
            credential = credential_of(identity, sources)
            bearer = credential.bearer()
            if bearer is not None and (owner := owners.setdefault(bearer, identity.name)) != identity.name:
                raise UnusableError(
                    f'is the token of identity "{owner}" too', "give each identity a token of its own"
                )
        except PendingError:
            pending.add(identity.name)
        except UnusableError as error:
            key = "auth_json" if isinstance(identity.source, FromAuthJson) else "token"
            what = f'{error.what}; identity "{identity.name}" is left out'
            problems.append(Problem(config.path, identity.line, f"identity[{number}].{key}", what, error.remedy))
        else:
            credentials[identity.name] = credential
            if isinstance(credential, OAuth) and (owner := other_owner(credential.path, sources.environ)):
                what = f"{credential.path} is the login of {owner} too: two owners of one refresh token burn it"
                remedy = f"give the pool a login of its own: codexpool login {identity.name}"
                problems.append(Problem(config.path, identity.line, f"identity[{number}].auth_json", what, remedy))
    return Resolved(credentials, tuple(problems), frozenset(pending))


def credential_of(identity: IdentitySpec, sources: Sources) -> Credential:
    """What an identity speaks with. Raises UnusableError where it cannot be had, and PendingError."""
    match identity.source:
        case Inline(token):
            return _pat(token, "the token")
        case FromEnv(variable):
            token = sources.environ.get(variable, "")
            if not token:
                state = "empty" if variable in sources.environ else "not set"
                raise UnusableError(
                    f"environment variable {variable} is {state}", "set it where the proxy is started"
                )
            return _pat(token, f"the token in environment variable {variable}")
        case FromFile(path):
            return _pat(_only_line(path), f"the token in file {path}")
        case FromKeyring(service):
            return _pat(sources.keyring(service, identity.name), f"the token in the keyring ({service})")
        case FromCommand(line):
            return Command(line, environ_of_programs(sources.environ, sources.secret))
        case FromAuthJson(path):
            return _from_auth_json(path, sources.endpoint)


def other_owner(path: Path, environ: Mapping[str, str]) -> str:
    """Which Codex client has its login in this very file, as far as the folder tells; empty if none."""
    folder = path.resolve().parent
    home = environ.get("CODEX_HOME", "")
    if home and folder == Path(home).expanduser().resolve():
        return "the Codex client of CODEX_HOME"
    if folder == (Path(environ["HOME"]) if environ.get("HOME") else Path.home()).joinpath(".codex").resolve():
        return "your Codex client"
    if (folder / "sessions").is_dir() or (folder / "history.jsonl").is_file():
        return f"a Codex client that has sessions in {folder}"
    return ""


def _only_line(path: Path) -> str:
    try:
        text = read_private(path).strip()
    except UnusableError as error:
        raise UnusableError(f"token file {path}: {error.what}", error.remedy) from None
    if not text:
        raise UnusableError(f"token file {path} is empty", "write the token into it")
    if len(text.splitlines()) > 1:
        raise UnusableError(f"token file {path} has more than one line", "leave nothing but the token in it")
    return text


def _from_auth_json(path: Path, endpoint: TokenEndpoint) -> Credential:
    try:
        login = auth_json.parse(read_private(path))
    except UnusableError as error:
        raise UnusableError(f"{path} {error.what}", error.remedy) from None
    token = login if isinstance(login, Bearer) else login.access
    _refuse_member_key(token.token, f"the token in {path}")
    return Pat(login) if isinstance(login, Bearer) else OAuth(path, login, endpoint)


def _pat(token: str, what: str) -> Pat:
    if not token.startswith(PREFIX):
        raise UnusableError(f"{what} does not start with {PREFIX}", "use a personal access token, whole and as it is")
    if any(character.isspace() for character in token):
        raise UnusableError(f"{what} has white space in it", "use the token as it is, without spaces or line ends")
    if token == PREFIX or not (token.isascii() and token.isprintable()):
        raise UnusableError(f"{what} is not a whole token", "copy it again; it is ASCII letters, digits and signs")
    _refuse_member_key(token, what)
    return Pat(Bearer.of(token))


def _refuse_member_key(token: str, what: str) -> None:
    """What opens this pool, or another one, is never sent to a backend."""
    if token.startswith(member_key.PREFIX):
        remedy = "a client sets it as CODEX_ACCESS_TOKEN; give the identity a token of its own account"
        raise UnusableError(f"{what} is the key of a member of a pool", remedy)
