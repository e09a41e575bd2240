"""`codexpool check`: verify the tokens of the pool now, several at once, and read what their accounts have left."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, NamedTuple

import click

from codexpool.cli import completions
from codexpool.cli.common import (
    Failure,
    Pool,
    account_api,
    ids_option,
    json_option,
    open_the_state,
    pool_option,
    remark,
    verification,
)
from codexpool.cli.identity_rows import IdentityRow, identity_rows, print_rows
from codexpool.cli.output import print_json, progress
from codexpool.cli.tokens import checked, put_vouched, remember
from codexpool.cli.via import hint, via_option
from codexpool.config import editing
from codexpool.config.model import Flag, IdentitySpec
from codexpool.credentials import Credential
from codexpool.credentials.account_api import UnreadError
from codexpool.credentials.authapi import Whoami
from codexpool.pool.confirmation import DISCOVERY
from codexpool.pool.identity import WHOAMI, Condition, Evidence, Kind, Status, Word
from codexpool.pool.states import AT_LIMIT, CONDEMNED, Event, limit_event
from codexpool.pool.usage import MAIN, Usage
from codexpool.protocol.usage_report import UsageReport
from codexpool.state.notes import USAGE

AT_ONCE: Final = 8  # tokens verified at the same time
FAILED: Final = frozenset({*CONDEMNED, Status.UNVERIFIED, Status.SUSPECT})  # statuses that make the exit code 1

REFUSED: Final[Mapping[Kind, Status]] = {
    Kind.PAT: Status.NEEDS_REPLACEMENT,
    Kind.AGENT: Status.NEEDS_REPLACEMENT,
    Kind.OAUTH: Status.NEEDS_LOGIN,
}
"""Statuses of a refused token; of other kinds it is only suspect: the next token may be good."""

SEVERAL: Final = (
    "whoami refuses several tokens at once, so whoami may be wrong: none is flagged. A running proxy flags them if "
    "this lasts ten minutes, or if requests are refused too"
)


@click.command()
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=completions.identities)
@ids_option
@via_option
@pool_option
@json_option
@click.pass_context
def check(context: click.Context, names: tuple[str, ...], pool: Pool, with_ids: bool, as_json: bool) -> None:
    """Verify the tokens of all identities, or of NAMEs, with the backend.

    Runs commands, renews logins that have expired, and registers a task for agent identities. Records the results:
    flags dead personal access tokens in pool.toml (in the state if that cannot be written), and removes the flag of
    good ones. If whoami refuses several tokens at once that were good before, it flags none: whoami may be wrong.

    Also reads what each account has left. A limit that is reached, or was lifted, counts from then on, for running
    proxies too.

    Exit code 1 if an identity needs attention or could not be verified.
    """
    specs = [pool.identity(name) for name in names] or pool.config.identities
    wanted = {spec.name for spec in specs}
    before = {row.spec.name: row for row in identity_rows(pool) if row.spec.name in wanted}
    with progress("asking the backend"):
        found, readings = asyncio.run(_check(pool, before))
    answers = _without_mass_refusals(found, before)
    statuses = {name: _status(before[name].kind, answer) for name, answer in answers.items()}
    after = {name: _after(row, answers.get(name), statuses.get(name)) for name, row in before.items()}
    after |= {name: _with_usage(after[name], reading) for name, reading in readings.items()}
    errors = _record(pool, answers, statuses, {name: after[name] for name in readings})
    rows = list(after.values())
    if as_json:
        print_json({"identities": [{**row.document(), "checked": not row.is_unchecked} for row in rows]})
    else:
        pool.say_if_empty()
        print_rows(rows, with_ids)
    is_cut_off = any(answer.word is Word.UNREACHABLE for answer in found.values())
    for error in (*errors, *([advice] if is_cut_off and (advice := hint(os.environ)) else [])):
        remark(error)
    context.exit(1 if errors or None in statuses.values() or any(row.status in FAILED for row in rows) else 0)


class Reading(NamedTuple):
    """What wham/usage says of an account. ``sent_at`` is the unix second at which it was asked."""

    report: UsageReport
    sent_at: float


async def _check(pool: Pool, rows: Mapping[str, IdentityRow]) -> tuple[dict[str, Whoami], dict[str, Reading]]:
    """Return the answers about the tokens, and the readings of those that are good."""
    api, accounts = verification(), account_api()
    at_once = asyncio.Semaphore(AT_ONCE)
    answers: dict[str, Whoami] = {}
    readings: dict[str, Reading] = {}

    async def one(name: str, spec: IdentitySpec, credential: Credential) -> None:
        async with at_once:
            answers[name] = answer = await checked(spec, credential, api)
            bearer, sent_at = credential.bearer(), time.time()
            if answer.word is not Word.HEALTHY or answer.metadata is None or bearer is None:
                return
            try:
                readings[name] = Reading(await accounts.usage(bearer, answer.metadata), sent_at)
            except UnreadError as error:
                remark(f"{name}: cannot read what it has left: {error}")

    credentials = pool.resolved.credentials
    await asyncio.gather(*(one(n, row.spec, credentials[n]) for n, row in rows.items() if n in credentials))
    return answers, readings


def _without_mass_refusals(answers: dict[str, Whoami], before: Mapping[str, IdentityRow]) -> dict[str, Whoami]:
    """Take several new refusals by whoami at once as no answer."""
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
        name: Whoami(Word.UNREACHABLE, replace(answers[name].evidence, note=f"{answers[name].evidence}. {SEVERAL}"))
        for name in refused
    }
    return {**answers, **doubted}


def _status(kind: Kind, answer: Whoami) -> Status | None:
    """Return an identity's status after an answer; None if the answer decides nothing."""
    match answer.word:
        case Word.HEALTHY:
            return Status.READY
        case Word.OTHER_ACCOUNT if answer.evidence.path == DISCOVERY:
            return None  # Discovery may list the account later; a proxy decides that.
        case Word.OTHER_ACCOUNT:
            return Status.CONFLICT
        case Word.REFUSED:
            return REFUSED.get(kind, Status.SUSPECT)
        case Word.UNREACHABLE:
            return None


def _after(row: IdentityRow, answer: Whoami | None, status: Status | None) -> IdentityRow:
    if answer is None:
        return row  # It has no token; the row has the reason.
    evidence = answer.evidence
    if status is None:
        is_unchecked = answer.word is Word.UNREACHABLE
        return replace(row, condition=replace(row.condition, evidence=evidence), is_unchecked=is_unchecked)
    row = replace(row, metadata=answer.metadata or row.metadata, fingerprint=evidence.fingerprint or row.fingerprint)
    if status is Status.READY and row.status in (Status.PAUSED, Status.LIMITED):
        return row  # A good token does not change that.
    condition = Condition(status, evidence.at, evidence=None if status is Status.READY else evidence)
    return replace(row, condition=condition)


def _with_usage(row: IdentityRow, reading: Reading) -> IdentityRow:
    """Return a row with a reading taken over: it may be limited, or no longer."""
    now, usage = time.time(), Usage()
    usage.take(row.usage.document(), now)
    usage.read(reading.report, reading.sent_at, now)
    row, condition = replace(row, usage=usage), row.condition
    event = limit_event(condition, usage, now)
    if event is Event.LIMITED and row.status in (Status.READY, Status.LIMITED):
        evidence = Evidence(reading.sent_at, note=AT_LIMIT)
        until = usage.limited_until(MAIN, now)
        return replace(row, condition=Condition(Status.LIMITED, reading.sent_at, until, evidence))
    if event is Event.LIFTED and row.status is Status.LIMITED:
        return replace(row, condition=Condition(Status.READY, reading.sent_at))
    return row


def _record(
    pool: Pool,
    answers: Mapping[str, Whoami],
    statuses: Mapping[str, Status | None],
    read: Mapping[str, IdentityRow],
) -> list[str]:
    """Write the answers, and the rows that were read, to the state and to pool.toml; return the errors."""
    errors: list[str] = []
    decided = {name: status for name, status in statuses.items() if status is not None}
    try:
        with open_the_state() as state:
            for name, status in decided.items():
                remember(state, pool.path, name, pool.resolved.credentials[name], answers[name], status)
            for name, row in read.items():
                if (metadata := answers[name].metadata) is not None:
                    state.put_note(USAGE, json.dumps(metadata.key), row.usage.document())
                if row.status in (Status.READY, Status.LIMITED):
                    put_vouched(state, pool.known, row.fingerprint, row.condition)
    except Failure as failure:
        errors.append(failure.message)
    for name, status in decided.items():
        credential = pool.resolved.credentials[name]
        bearer = credential.bearer()
        if bearer is not None and credential.kind is Kind.PAT:
            try:
                _flag(pool, pool.identity(name), status, f"sha256:{bearer.fingerprint}", answers[name].evidence)
            except editing.EditError as error:
                if not error.is_unwritable or status is Status.READY:  # The state has the flag of a dead token.
                    errors.append(str(error))
    return errors


def _flag(pool: Pool, spec: IdentitySpec, status: Status, token: str, evidence: Evidence) -> None:
    if status is Status.NEEDS_REPLACEMENT and (spec.flag is None or spec.flag.token != token):
        since = datetime.fromtimestamp(int(evidence.at), UTC)
        flag = Flag(since, str(evidence), token)
        editing.edit(pool.path, lambda text: editing.flagged(text, spec.name, flag))
    elif status is Status.READY and spec.flag is not None:
        editing.edit(pool.path, lambda text: editing.unflagged(text, spec.name))
