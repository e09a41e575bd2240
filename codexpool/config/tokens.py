"""Tokens fetched from where pool.toml says they are. One that cannot be had leaves out its identity only."""

from __future__ import annotations

from collections.abc import Mapping

from codexpool.config.model import FromEnv, FromFile, Inline, PoolConfig, Problem, Source
from codexpool.config.private import UnusableError, read_private
from codexpool.credentials.pat import PREFIX
from codexpool.credentials.secret import Bearer


def resolve(config: PoolConfig, environ: Mapping[str, str]) -> tuple[dict[str, Bearer], tuple[Problem, ...]]:
    """The bearer of each identity by its name, and what is wrong with those that are left out.

    Reads token files; raises nothing. If two identities have the same token, the first one keeps it.
    """
    bearers: dict[str, Bearer] = {}
    owners: dict[str, str] = {}
    problems: list[Problem] = []
    for number, identity in enumerate(config.identities, 1):
        try:
            token = _token(identity.source, environ)
            if owner := owners.get(token):
                raise UnusableError(
                    f'is the token of identity "{owner}" too', "give each identity a token of its own"
                )
        except UnusableError as error:
            what = f'{error.what}; identity "{identity.name}" is left out'
            problems.append(Problem(config.path, identity.line, f"identity[{number}].token", what, error.remedy))
        else:
            owners[token] = identity.name
            bearers[identity.name] = Bearer.of(token)
    return bearers, tuple(problems)


def _token(source: Source, environ: Mapping[str, str]) -> str:
    match source:
        case Inline(token):
            return _checked(token, "the token")
        case FromEnv(variable):
            if not environ.get(variable):
                state = "empty" if variable in environ else "not set"
                raise UnusableError(
                    f"environment variable {variable} is {state}", "set it where the proxy is started"
                )
            return _checked(environ[variable], f"the token in environment variable {variable}")
        case FromFile(path):
            try:
                text = read_private(path).strip()
            except UnusableError as error:
                raise UnusableError(f"token file {path}: {error.what}", error.remedy) from None
            if not text:
                raise UnusableError(f"token file {path} is empty", "write the token into it")
            if len(text.splitlines()) > 1:
                raise UnusableError(f"token file {path} has more than one line", "leave nothing but the token in it")
            return _checked(text, f"the token in file {path}")


def _checked(token: str, what: str) -> str:
    if not token.startswith(PREFIX):
        raise UnusableError(f"{what} does not start with {PREFIX}", "use a personal access token, whole and as it is")
    if any(character.isspace() for character in token):
        raise UnusableError(f"{what} has white space in it", "use the token as it is, without spaces or line ends")
    if token == PREFIX or not (token.isascii() and token.isprintable()):
        raise UnusableError(f"{what} is not a whole token", "copy it again; it is ASCII letters, digits and signs")
    return token
