"""A token in a command: where it is, whether the backend accepts it, and the owner it is remembered for."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from codexpool.cli import completions, via
from codexpool.cli.common import Failure, Unchanged, can_ask, open_the_state, remark, sources, verification
from codexpool.common.private_files import UnusableError
from codexpool.config.model import (
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    IdentitySpec,
    Inline,
    Source,
)
from codexpool.config.read import VARIABLE
from codexpool.config.sources import credential_of, in_keyring
from codexpool.config.tables import Value
from codexpool.credentials import Credential, NoTokenAnyMoreError, NoTokenNowError, Renewal
from codexpool.credentials.agent import Agent
from codexpool.credentials.authapi import Whoami
from codexpool.credentials.command import CommandLine
from codexpool.credentials.token_forms import unwrapped
from codexpool.pool.identity import Condition, Evidence, Kind, Metadata, Status, Word
from codexpool.pool.needs import is_of_the_account
from codexpool.pool.states import CONDEMNED, REFUSED_FOR_GOOD
from codexpool.state import Record, Snapshot, State, record_name
from codexpool.upkeep.verification import Verification, of_its_login

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class NotAccepted(Unchanged):
    """The token itself is at fault: another one may be accepted."""


@dataclass(frozen=True, slots=True)
class GivenToken:
    """Where the token is, and the keys of pool.toml that record it.

    ``keyring`` is the service to store a token under that was given directly. ``is_typed``: a person can be asked
    for another one.
    """

    source: Source
    keys: Mapping[str, Value]
    keyring: str = ""
    is_typed: bool = False


def _from_env(variable: str) -> GivenToken:
    if not VARIABLE.fullmatch(variable):
        raise click.BadParameter("not the name of an environment variable")
    return GivenToken(FromEnv(variable), {"token": {"env": variable}})


def _from_file(file: Path) -> GivenToken:
    return GivenToken(FromFile(file.expanduser().absolute()), {"token": {"file": _with_tilde(file)}})


def _from_auth_json(file: Path) -> GivenToken:
    return GivenToken(FromAuthJson(file.expanduser().absolute()), {"auth_json": _with_tilde(file)})


def _from_keyring(service: str) -> GivenToken:
    return GivenToken(FromKeyring(service), {"token": {"keyring": service}})


def _source(option: str, metavar: str, make: Callable[[Any], GivenToken], help: str) -> Callable[[F], F]:
    kind = click.Path(path_type=Path) if metavar == "PATH" else None

    def given(context: click.Context, parameter: click.Parameter, value: Any) -> GivenToken | None:
        return None if value is None else make(value)

    return click.option(option, metavar=metavar, type=kind, callback=given, help=help)


OPTIONS = (
    click.option("--token-stdin", is_flag=True, help="Read a token, or the JWT of an agent, from standard input."),
    _source("--env", "VAR", _from_env, "Use the token in this environment variable."),
    _source("--file", "PATH", _from_file, "Use the token in this file."),
    _source(
        "--keyring",
        "SERVICE",
        _from_keyring,
        "Use the keyring's entry for this service and NAME. Without an entry, or with --token-stdin, store one.",
    ),
    _source(
        "--auth-json",
        "PATH",
        _from_auth_json,
        "Use the login or agent in this auth.json, made for the pool only.",
    ),
    click.option("--command", is_flag=True, help="Run ARGV, after --, to get the token."),
    click.argument(
        "argv", metavar="[-- ARGV...]", nargs=-1, type=click.UNPROCESSED, shell_complete=completions.files
    ),
)


def token_options(command: F) -> F:
    """Add the options that name a token's source; without any, the command prompts."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given_token(name: str, folder: Path, argv: tuple[str, ...], **options: Any) -> GivenToken:
    """Return the source the options name; without any, prompt for the token. Raises click.UsageError, Unchanged."""
    given = {f"--{option.replace('_', '-')}": value for option, value in options.items() if value}
    if len(given) > 1 and given.keys() != {"--token-stdin", "--keyring"}:
        raise click.UsageError(f"{' and '.join(given)} cannot be combined: a token has one source")
    if argv and "--command" not in given:
        raise click.UsageError("a token cannot be an argument: other users could see it. Use --token-stdin")
    if "--command" in given:
        if not argv:
            raise click.UsageError("--command: put the program and its arguments after --")
        return GivenToken(FromCommand(CommandLine(argv, folder)), {"token": {"command": list(argv)}})
    is_read = "--token-stdin" in given
    source = next((value for value in given.values() if isinstance(value, GivenToken)), None)
    service = source.source.service if source is not None and isinstance(source.source, FromKeyring) else ""
    if source is not None and not (service and (is_read or _can_be_typed_for(service, name))):
        return source
    where = f" (to be stored in the keyring, service {service})" if service else ""
    token = _read_token(f"Personal access token, or JWT of an agent identity, for {name}{where}", is_read)
    keys = source.keys if source is not None else {"token": token}
    return GivenToken(Inline(token), keys, service, is_typed=not is_read)


def until_accepted(ask: Callable[[], GivenToken], use: Callable[[GivenToken], T]) -> T:
    """Use the token that a person gives. One that was typed, and is not accepted, is asked for again."""
    while True:
        given = ask()
        try:
            return use(given)
        except NotAccepted as failure:
            if not given.is_typed:
                raise
            failure.show()
            remark("try again, or press Ctrl-C")


def _can_be_typed_for(service: str, name: str) -> bool:
    """Return whether the keyring has no token yet, and there is a person to ask. Raises Unchanged."""
    try:
        return can_ask() and in_keyring(service, name) is None
    except UnusableError as error:
        raise Unchanged(f"{error.what}; {error.remedy}") from None


def _read_token(prompt: str, from_stdin: bool) -> str:
    if from_stdin:
        text = sys.stdin.read()
    elif can_ask():
        text = str(click.prompt(prompt, hide_input=True, err=True))
    else:
        raise click.UsageError("no token given. Use --token-stdin, or another source (see --help)")
    token, left_out = unwrapped(text)
    if left_out:
        remark(f"took the token without the {' and '.join(left_out)} around it")
    if len(lines := token.splitlines()) != 1 and from_stdin:
        what = "nothing" if not lines else f"{len(lines)} lines"
        raise click.UsageError(f"--token-stdin: got {what} on standard input; write the token only")
    return token


def _with_tilde(path: Path) -> str:
    whole, home = path.expanduser().absolute(), Path.home()
    return f"~/{whole.relative_to(home)}" if whole.is_relative_to(home) else str(whole)


REFUSALS = {
    Word.REFUSED: "the backend refused this token",
    Word.UNREACHABLE: "could not verify the token; try again",
    Word.OTHER_ACCOUNT: "this token belongs to another account than expected",
}


@dataclass(frozen=True, slots=True)
class Verified:
    """A token the backend accepted, and its owner."""

    credential: Credential
    answer: Whoami
    metadata: Metadata

    @property
    def expiry(self) -> Mapping[str, Value]:
        """The key of pool.toml for the day on which an agent's JWT expires, if it has one."""
        at = self.credential.identity.expires_at if isinstance(self.credential, Agent) else None
        return {} if at is None else {"expires": datetime.fromtimestamp(int(at), UTC)}

    @property
    def owner(self) -> Mapping[str, Value]:
        """The keys of pool.toml that pin the identity to this owner."""
        pins = {"account_id": self.metadata.account_id, "user_id": self.metadata.user_id}
        return {key: value for key, value in pins.items() if value and not value.startswith("command:")}


def usable(spec: IdentitySpec) -> Credential:
    """Return the credential an identity would have. Raises NotAccepted if there is none."""
    try:
        return credential_of(spec, sources())
    except UnusableError as error:
        raise NotAccepted(f"{error.what}; {error.remedy}") from None


def verify(spec: IdentitySpec, credential: Credential, may_renew: bool = True) -> Verified:
    """Verify the token an identity would have. Raises NotAccepted if it would not serve."""
    answer = asyncio.run(checked(spec, credential, verification(), may_renew))
    if answer.metadata is None or answer.word is not Word.HEALTHY:
        hint = via.hint(os.environ) if answer.word is Word.UNREACHABLE else ""
        raise NotAccepted(f"{REFUSALS[answer.word]}: {answer.evidence}" + (f". {hint}" if hint else ""))
    return Verified(credential, answer, answer.metadata)


async def checked(
    spec: IdentitySpec, credential: Credential, verification: Verification, may_renew: bool = True
) -> Whoami:
    """Ask the backend about an identity's token.

    As a proxy would, runs a command, and renews a login that has expired, or once if it is refused: under the lock,
    and written before use. Without ``may_renew`` it renews nothing. For an agent, the registration of a task tells
    whether it is accepted.
    """

    async def ask(token: Renewal, is_new: bool = False) -> Whoami:
        answer = of_its_login(await verification.owner(token.bearer, credential, spec), token, spec)
        return await verification.place(answer, token.bearer, by_other_means=is_new or credential.kind is Kind.PAT)

    try:
        bearer = credential.bearer()
        token = await _present(credential) if bearer is None or may_renew else Renewal(bearer, issued=False)
        if isinstance(credential, Agent) and bearer is not None:
            await credential.confirm()
        answer = await ask(token)
        if answer.word is Word.REFUSED and credential.kind.is_renewable and may_renew:
            renewal = await credential.renewed(token.bearer, refused=True)
            return answer if renewal is None else await ask(renewal, is_new=True)
        return answer
    except NoTokenNowError as error:
        return Whoami(Word.UNREACHABLE, Evidence(time.time(), note=str(error)))
    except NoTokenAnyMoreError as error:
        bearer = credential.bearer()
        return Whoami(Word.REFUSED, error.evidence(bearer.fingerprint if bearer is not None else ""))


async def _present(credential: Credential) -> Renewal:
    bearer, due_at = credential.bearer(), credential.due_at()
    if bearer is not None and (due_at is None or due_at > time.time()):
        return Renewal(bearer, issued=False)
    renewal = await credential.renewed(bearer, refused=False)
    if renewal is None:
        raise NoTokenNowError("there is no token")
    return renewal


def remember_new(pool_toml: Path, name: str, verified: Verified) -> None:
    """Write a new token's owner to the state. Prints a failure: proxies verify the token themselves."""
    try:
        with open_the_state() as state:
            remember(state, pool_toml, name, verified.credential, verified.answer)
    except Failure as failure:
        failure.show()


def remember(
    state: State,
    pool_toml: Path,
    name: str,
    credential: Credential,
    answer: Whoami,
    status: Status = Status.READY,
) -> None:
    """Write the backend's answer about an identity's token to the state, for proxies and later commands."""
    bearer, metadata, at = credential.bearer(), answer.metadata, answer.evidence.at
    if bearer is None:
        return
    if metadata is not None and status is Status.READY:
        if credential.kind is not Kind.COMMAND:
            state.put_metadata(bearer.fingerprint, metadata, at)
        known, key = state.load(), record_name(state.scope(pool_toml), name)
        record = known.records.get(key)
        used_at = record.used_at if record is not None and record.key == metadata.key else None
        state.put_record(key, Record(bearer.fingerprint, metadata.key, used_at))
        if not is_of_the_account(known.conditions.get(bearer.fingerprint)):
            put_vouched(state, known, bearer.fingerprint, Condition(status, at))
    elif status in CONDEMNED:
        evidence = replace(answer.evidence, whoami=answer.word.value)
        state.put_condition(bearer.fingerprint, Condition(status, at, evidence=evidence))


def put_vouched(state: State, known: Snapshot, fingerprint: str, condition: Condition) -> None:
    """Write the condition of a token that whoami vouches for: one that the state calls dead has none from now on."""
    before = known.conditions.get(fingerprint)
    if before is not None and before.status in REFUSED_FOR_GOOD:
        state.drop_condition(fingerprint, condition.since)
    else:
        state.put_condition(fingerprint, condition)
