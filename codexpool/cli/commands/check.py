"""`codexpool check`: every token looked at now, several at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from codexpool.cli.check_token import examined
from codexpool.cli.common import (
    Failure,
    config_option,
    console,
    json_option,
    known,
    pool_config,
    spec_of,
    the_state,
    verification,
)
from codexpool.cli.common import sources as usual_sources
from codexpool.cli.identity_rows import IdentityRow, identity_rows
from codexpool.cli.identity_table import table
from codexpool.cli.write_state import remember
from codexpool.config import Flag, PoolConfig, Resolved, editing, resolve
from codexpool.credentials.authapi import Whoami
from codexpool.pool.confirmation import DISCOVERY
from codexpool.pool.identity import WHOAMI, Evidence, Kind, Status, Word
from codexpool.pool.states import CONDEMNED

AT_ONCE: Final = 8
"""Tokens that are asked about at the same time."""

TOGETHER: Final = (
    "Whoami refuses several tokens at once, so it may be whoami that is wrong: nothing is flagged. A proxy that runs "
    "flags them if that holds for ten minutes, or if requests are refused as well"
)
"""What is said of them."""

FAILED: Final = frozenset({*CONDEMNED, Status.UNVERIFIED, Status.SUSPECT})
"""What the exit code tells of, besides tokens that nobody could be asked about."""


@click.command()
@click.argument("names", metavar="[NAME...]", nargs=-1)
@config_option
@json_option
@click.pass_context
def check(context: click.Context, names: tuple[str, ...], named: Path | None, as_json: bool) -> None:
    """Ask the backend, now, whether the tokens are good, and whose they are.

    Without NAMEs all are looked at. A command is run, and a login that has ended is renewed. What is found out is
    written down: a dead personal access token is flagged in pool.toml, and the flag of one that is good goes. Where
    whoami refuses several at once that were good before, none is flagged: whoami may be wrong.

    The exit code is 1 if any identity needs a person, or could not be looked at.
    """
    config = pool_config(named)
    wanted = {spec_of(config, name).name for name in names} or {spec.name for spec in config.identities}
    sources = usual_sources()
    resolved = resolve(config, sources)
    before = {row.spec.name: row for row in identity_rows(config, sources, known())}
    answers = asyncio.run(_all(config, resolved, [name for name in before if name in wanted]))
    answers = _doubted_together(answers, before)
    complaints = _write_down(config, resolved, answers)
    rows = [_seen(before[name], answers.get(name)) for name in before if name in wanted]
    if as_json:
        click.echo(json.dumps([row.document() for row in rows], indent=2))
    else:
        table(rows)
    for complaint in complaints:
        click.echo(f"codexpool: {complaint}", err=True)
    unasked = [name for name in answers if _status(resolved.credentials[name].kind, answers[name]) is None]
    context.exit(1 if unasked or complaints or any(row.status in FAILED for row in rows) else 0)


async def _all(config: PoolConfig, resolved: Resolved, names: Sequence[str]) -> dict[str, Whoami]:
    """The word on each token that there is."""
    ask = await verification()
    at_once = asyncio.Semaphore(AT_ONCE)
    answers: dict[str, Whoami] = {}
    with _Progress(len(names)) as advance:

        async def one(name: str) -> None:
            spec, credential = config.identity(name), resolved.credentials.get(name)
            if spec is not None and credential is not None:
                async with at_once:
                    answers[name] = await examined(spec, credential, ask)
            advance()

        await asyncio.gather(*(one(name) for name in names))
    return answers


def _doubted_together(answers: dict[str, Whoami], before: Mapping[str, IdentityRow]) -> dict[str, Whoami]:
    """The answers, of which several new refusals by whoami at once are no word yet."""
    refused = [
        name
        for name, answer in answers.items()
        if answer.word is Word.REFUSED
        and answer.evidence.path == WHOAMI
        and before[name].status not in (Status.SUSPECT, Status.NEEDS_REPLACEMENT)
    ]
    if len(refused) < 2:
        return answers
    doubted = {
        name: Whoami(Word.UNREACHABLE, replace(answers[name].evidence, note=f"{answers[name].evidence}. {TOGETHER}"))
        for name in refused
    }
    return {**answers, **doubted}


class _Progress:
    """How many are done, on standard error, if that is a terminal."""

    def __init__(self, total: int) -> None:
        from rich.progress import Progress

        self._progress = Progress(console=console(stderr=True), transient=True)
        self._total = total
        self._shows = self._progress.console.is_terminal

    def __enter__(self) -> Callable[[], None]:
        if not self._shows:
            return lambda: None
        self._progress.start()
        task = self._progress.add_task("asking", total=self._total)
        return lambda: self._progress.advance(task)

    def __exit__(self, *_: object) -> None:
        if self._shows:
            self._progress.stop()


def _seen(row: IdentityRow, answer: Whoami | None) -> IdentityRow:
    """How an identity stands after it was looked at."""
    if answer is None:
        return row  # There is no token to look at; why, is there already.
    status = _status(row.kind, answer)
    if status is None:
        return replace(row, evidence=str(answer.evidence))
    row = replace(
        row,
        metadata=answer.metadata or row.metadata,
        fingerprint=answer.evidence.fingerprint or row.fingerprint,
    )
    if status is Status.READY and row.status in (Status.PAUSED, Status.LIMITED):
        return row  # A good token changes nothing about that.
    evidence = "" if status is Status.READY else str(answer.evidence)
    return replace(row, status=status, since=answer.evidence.at, until=None, evidence=evidence)


def _status(kind: Kind, answer: Whoami) -> Status | None:
    """What an identity is after this word; None where that says nothing about it.

    That routing discovery does not list an account is no word yet: a proxy sees whether it stays so.
    """
    if answer.evidence.path == DISCOVERY and answer.word is Word.OTHER_ACCOUNT:
        return None
    match answer.word:
        case Word.HEALTHY:
            return Status.READY
        case Word.OTHER_ACCOUNT:
            return Status.CONFLICT
        case Word.REFUSED:
            return {Kind.PAT: Status.NEEDS_REPLACEMENT, Kind.OAUTH: Status.NEEDS_LOGIN}.get(kind, Status.SUSPECT)
        case Word.UNREACHABLE:
            return None


def _write_down(config: PoolConfig, resolved: Resolved, answers: dict[str, Whoami]) -> list[str]:
    """Have proxies know of it, and pool.toml; what could not be written."""
    complaints: list[str] = []
    try:
        with the_state() as state:
            for name, answer in answers.items():
                credential = resolved.credentials[name]
                if (status := _status(credential.kind, answer)) is not None:
                    remember(state, config.path, name, credential, answer, status)
    except Failure as failure:
        complaints.append(failure.message)
    for name, answer in answers.items():
        credential = resolved.credentials[name]
        bearer, status = credential.bearer(), _status(credential.kind, answer)
        if bearer is not None and status is not None and credential.kind is Kind.PAT:
            try:
                _flag(config, name, status, f"sha256:{bearer.fingerprint}", answer.evidence)
            except editing.EditError as error:
                complaints.append(str(error))
    return complaints


def _flag(config: PoolConfig, name: str, status: Status, token: str, evidence: Evidence) -> None:
    spec = config.identity(name)
    assert spec is not None
    if status is Status.NEEDS_REPLACEMENT and (spec.flag is None or spec.flag.token != token):
        since = datetime.fromtimestamp(int(evidence.at), UTC)
        editing.flag(config.path, name, Flag(since, str(evidence), token))
    elif status is Status.READY and spec.flag is not None:
        editing.unflag(config.path, name)
