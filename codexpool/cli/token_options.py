"""The options of `add` and `replace` that say where a token is, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from codexpool.cli.check_token import examined
from codexpool.cli.common import Failure, secret_from_input, shortened, sources, verification
from codexpool.common.private_files import UnusableError
from codexpool.config import FromAuthJson, FromCommand, FromEnv, FromFile, FromKeyring, IdentitySpec, Inline, Source
from codexpool.config.identities import VARIABLE
from codexpool.config.sources import credential_of
from codexpool.config.tables import Value
from codexpool.credentials import Credential
from codexpool.credentials.authapi import Whoami
from codexpool.credentials.command import CommandLine
from codexpool.pool.identity import Metadata, Word

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option("--token-stdin", is_flag=True, help="Read the personal access token from standard input."),
    click.option("--env", "variable", metavar="VAR", help="The environment variable that holds the token."),
    click.option("--file", "file", metavar="PATH", type=click.Path(path_type=Path), help="The file with the token."),
    click.option("--keyring", "service", metavar="SERVICE", help="The keyring's entry of this service and NAME."),
    click.option(
        "--auth-json",
        "auth_json",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="The auth.json of a login that is the pool's own.",
    ),
    click.option("--command", "is_command", is_flag=True, help="ARGV, behind --, prints the token."),
    click.argument("argv", metavar="[-- ARGV...]", nargs=-1, type=click.UNPROCESSED),
)


def offer_options(command: F) -> F:
    """Where the token is: one of these, or a prompt."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Offer:
    """A token somebody offers: its source, and the keys of pool.toml that say so."""

    source: Source
    keys: Mapping[str, Value]
    is_typed: bool
    """It was typed or piped in, and not only pointed at."""


def offer(
    name: str,
    folder: Path,
    *,
    token_stdin: bool,
    variable: str | None,
    file: Path | None,
    service: str | None,
    auth_json: Path | None,
    is_command: bool,
    argv: tuple[str, ...],
) -> Offer:
    """What the options say; asks for the token if they say nothing. Raises click.UsageError."""
    said = {
        "--token-stdin": token_stdin,
        "--env": variable is not None,
        "--file": file is not None,
        "--keyring": service is not None,
        "--auth-json": auth_json is not None,
        "--command": is_command,
    }
    given = [option for option, is_given in said.items() if is_given]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)}: say one of them, the place where the token is")
    if argv and not is_command:
        raise click.UsageError("a token is never an argument: it would be seen by everybody. Say --token-stdin")
    if variable is not None:
        if not VARIABLE.fullmatch(variable):
            raise click.UsageError("--env: that is not the name of an environment variable")
        return Offer(FromEnv(variable), {"token": {"env": variable}}, False)
    if file is not None:
        return Offer(FromFile(file.expanduser().absolute()), {"token": {"file": shortened(file)}}, False)
    if service is not None:
        return Offer(FromKeyring(service), {"token": {"keyring": service}}, False)
    if auth_json is not None:
        return Offer(FromAuthJson(auth_json.expanduser().absolute()), {"auth_json": shortened(auth_json)}, False)
    if is_command:
        if not argv:
            raise click.UsageError("--command: say the program and its arguments behind --")
        return Offer(FromCommand(CommandLine(argv, folder)), {"token": {"command": list(argv)}}, False)
    token = secret_from_input(f"Personal access token of {name}", token_stdin)
    return Offer(Inline(token), {"token": token}, True)


@dataclass(frozen=True, slots=True)
class Examined:
    """An offer that holds: the credential, and whose it is."""

    credential: Credential
    answer: Whoami
    metadata: Metadata

    @property
    def owner(self) -> Mapping[str, Value]:
        """The keys of pool.toml that say whose token it has to be from now on."""
        pins = {"account_id": self.metadata.account_id, "user_id": self.metadata.user_id}
        return {key: value for key, value in pins.items() if value and not value.startswith("command:")}


def examine(spec: IdentitySpec, may_renew: bool = True) -> Examined:
    """Ask whose token an identity would have. Raises Failure where it would not serve, or nobody says."""
    try:
        credential = credential_of(spec, sources())
    except UnusableError as error:
        raise Failure(f"{error.what}; {error.remedy}. Nothing was changed") from None

    async def ask() -> Whoami:
        return await examined(spec, credential, await verification(), may_renew)

    answer = asyncio.run(ask())
    if answer.metadata is None or answer.word is not Word.HEALTHY:
        why = {
            Word.REFUSED: "the backend does not take this token",
            Word.UNREACHABLE: "it could not be found out whose token this is; try again",
        }
        reason = why.get(answer.word, "this token is not of the account that it should be of")
        raise Failure(f"{reason}: {answer.evidence}. Nothing was changed")
    return Examined(credential, answer, answer.metadata)
