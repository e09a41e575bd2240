"""`codexpool reset`: spend a reset credit of an identity's account, once."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from codexpool.cli.common import (
    Failure,
    Pool,
    account_api,
    can_ask,
    json_option,
    open_the_state,
    pool_option,
    verification,
)
from codexpool.cli.completions import identity_argument
from codexpool.cli.identity_rows import identity_rows
from codexpool.cli.output import console, print_json
from codexpool.cli.tokens import REFUSALS, checked
from codexpool.cli.via import via_option
from codexpool.credentials.account_api import Spending, UnreadError
from codexpool.pool.identity import IdentityKey, Metadata, Status, Word
from codexpool.pool.usage import MAIN, ResetCredits, Usage
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.reset_credits import CODEX, Credits, Outcome
from codexpool.state.notes import RESET, USAGE
from codexpool.tokens.bearer import Bearer
from codexpool.views.formatting import counted, local_time, plain, span

REMEMBERED: Final = 86_400.0  # Seconds for which a request without a clear answer is sent again as it was.

SAYS: Final[Mapping[Outcome, str]] = {
    Outcome.RESET: "was reset, and can be used again",
    Outcome.ALREADY_REDEEMED: "had been reset by that request already: no other credit was spent",
    Outcome.NOTHING_TO_RESET: "has no limit to reset: no credit was spent",
    Outcome.NO_CREDIT: "no longer has this credit: none was spent",
    Outcome.REFUSED: "was not reset, and no credit was spent",
}
"""What an outcome means for an identity, after its name."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account to reset, and what the backend says of it. ``gauges`` is None if its usage could not be read."""

    bearer: Bearer
    metadata: Metadata
    credits: Credits
    gauges: Sequence[Gauge] | None

    @property
    def note(self) -> str:
        """The name of the notes about it in the state."""
        return json.dumps(self.metadata.key)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to spend a credit. ``asked_at`` is when it was first sent, if its outcome is unclear since then."""

    id: str
    credit_id: str
    asked_at: float | None = None


@click.command()
@identity_argument
@click.option("--yes", is_flag=True, help="Spend the credit without asking first.")
@via_option
@pool_option
@json_option
def reset(name: str, yes: bool, pool: Pool, as_json: bool) -> None:
    """Spend one reset credit of identity NAME: its used limits are reset now, before their time.

    Shows the credits and what is used, and asks first. Nothing else ever spends a credit.

    The request is sent once. If its answer is lost, this says so, and the next `codexpool reset NAME` sends the same
    request again, which cannot spend a second credit.

    Exit code 1 if nothing was reset or the outcome is unclear, 2 without --yes where there is no terminal.
    """
    pool.identity(name)
    if not yes and not can_ask():
        raise click.UsageError("this spends a reset credit, and there is no terminal to ask: add --yes")
    account = asyncio.run(_account(pool, name))
    request = _unclear(pool, account) or _new(name, account)
    if not yes:
        out = console(stderr=True)
        for line in _explained(name, account, request):
            out.print(line)
        if not _confirmed():
            raise Failure("no credit was spent")
    with open_the_state() as state:  # Before it is sent: if this process ends now, the next one sends the same again.
        state.put_note(RESET, account.note, _pending(pool, account, request))
    spending = asyncio.run(
        account_api().spend_credit(account.bearer, account.metadata, request.credit_id, request.id)
    )
    _record(pool, account, request, spending)
    _report(name, account, request, spending, as_json)


async def _account(pool: Pool, name: str) -> Account:
    """Return the account of an identity, after its token was verified, and renewed if need be. Raises Failure."""
    spec, credential = pool.identity(name), pool.resolved.credentials.get(name)
    if credential is None:
        problem = next((p for p in pool.resolved.problems if p.line == spec.line), None)
        raise Failure(f"{name} has no token{f': {problem.what}; {problem.remedy}' if problem else ''}")
    answer = await checked(spec, credential, verification())
    bearer, metadata = credential.bearer(), answer.metadata
    if answer.word is not Word.HEALTHY or metadata is None or bearer is None:
        raise Failure(f"{name}: {REFUSALS.get(answer.word, 'no token')}: {answer.evidence}. No credit was spent")
    api = account_api()
    try:
        credits = await api.reset_credits(bearer, metadata)
    except UnreadError as error:
        raise Failure(f"{name}: {error}. No credit was spent") from error
    try:
        report = await api.usage(bearer, metadata)
    except UnreadError:
        return Account(bearer, metadata, credits, None)
    gauges = [gauge for family in report.families for gauge in family.gauges]
    return Account(bearer, metadata, credits, gauges)


def _unclear(pool: Pool, account: Account) -> Request | None:
    """Return the request that was sent before and whose outcome is unclear; None if there is none.

    After a day the credits that are listed tell what became of it.
    """
    match pool.certain.notes.get((RESET, account.note)):
        case {"request": str(id_), "credit": str(credit_id), "asked_at": int() | float() as at}:
            return Request(id_, credit_id, at) if abs(time.time() - at) < REMEMBERED else None
    return None


def _new(name: str, account: Account) -> Request:
    """Return a request for the credit that expires first. Raises Failure if none can be spent, or there is no use."""
    credits = account.credits
    if not credits.spendable:
        if credits.available:
            what = f"{_counted(credits.available)}, but none that codexpool knows how to spend ({CODEX})"
            raise Failure(f"{name} has {what}: use Codex itself. No credit was spent")
        raise Failure(f"{name} has no reset credit")
    if account.gauges and not any(gauge.used_percent > 0 for gauge in account.gauges):
        raise Failure(f"{name} has used nothing of its limits, so there is nothing to reset. No credit was spent")
    return Request(str(uuid.uuid4()), credits.spendable[0].id)


def _explained(name: str, account: Account, request: Request) -> Sequence[str]:
    now, lines = time.time(), [f"{name} has {_counted(account.credits.available)}."]
    if credit := next((credit for credit in account.credits.spendable if credit.id == request.credit_id), None):
        until = f"expires {local_time(credit.expires_at)}" if credit.expires_at is not None else "does not expire"
        title = f' is called "{plain(credit.title)}", and' if credit.title else ""
        lines.append(f"The one to spend{title} {until}.")
    used = [_used(gauge, now) for gauge in account.gauges or ()]
    lines.append(f"Used: {', '.join(used)}." if used else "What it has used is not known.")
    if request.asked_at is not None:
        when = local_time(request.asked_at)
        lines.append(f"The request of {when} got no clear answer. It is sent again: it cannot spend a second credit.")
    else:
        lines.append("A credit resets these limits now. It is gone then, however little was used.")
    return lines


def _used(gauge: Gauge, now: float) -> str:
    family = "" if gauge.family == MAIN else f"{plain(gauge.family)} "
    left = gauge.resets_at - now if gauge.resets_at is not None else 0
    resets = f" (resets in {span(left)})" if left > 0 else ""
    return f"{gauge.used_percent:.0f} % of {family}{span(gauge.minutes * 60)}{resets}"


def _pending(pool: Pool, account: Account, request: Request) -> dict[str, Any]:
    """Return the note about a request that is about to be sent; the time of an earlier reset stays in it."""
    before = pool.known.notes.get((RESET, account.note), {})
    asked_at = request.asked_at if request.asked_at is not None else int(time.time())
    return {"at": before.get("at"), "request": request.id, "credit": request.credit_id, "asked_at": asked_at}


def _record(pool: Pool, account: Account, request: Request, spending: Spending) -> None:
    """Write the outcome for proxies and later commands. Prints a failure: the credit is spent all the same."""
    if spending.outcome is Outcome.UNCLEAR:
        return
    now = time.time()
    at = now if spending.outcome.is_reset else pool.known.notes.get((RESET, account.note), {}).get("at")
    try:
        with open_the_state() as state:
            state.put_note(RESET, account.note, {"at": at})
            if not spending.outcome.is_reset:
                return
            usage = Usage()
            usage.was_reset(now)
            usage.credits = _credits_left(account, request, spending, now)
            state.put_note(USAGE, account.note, usage.document())
            for fingerprint in _limited(pool, account.metadata.key):
                state.drop_condition(fingerprint)
    except Failure as failure:
        failure.show()


def _limited(pool: Pool, key: IdentityKey) -> list[str]:
    """Return the fingerprints of the tokens of an account that is limited as far as the state says."""
    rows = identity_rows(pool)
    return [row.fingerprint for row in rows if row.owner == key and row.status is Status.LIMITED]


def _credits_left(account: Account, request: Request, spending: Spending, at: float) -> ResetCredits:
    expiries = [credit.expires_at for credit in account.credits.spendable if credit.id != request.credit_id]
    first = min((expires_at for expires_at in expiries if expires_at is not None), default=None)
    return ResetCredits(_left(account, spending), first, at, is_listed=True)


def _left(account: Account, spending: Spending) -> int:
    """Return how many credits are left; the list was read before one was spent."""
    return max(0, account.credits.available - (spending.outcome is Outcome.RESET))


def _report(name: str, account: Account, request: Request, spending: Spending, as_json: bool) -> None:
    """Print the outcome. Raises SystemExit or Failure unless the limits were reset."""
    said, left = spending.outcome, _left(account, spending)
    if as_json:
        document = {
            "name": name,
            "outcome": str(said),
            "windows_reset": spending.windows,
            "credits_left": None if said is Outcome.UNCLEAR else left,
            "credit": request.credit_id,
            "request": request.id,
        }
        print_json(document)
    if said is Outcome.UNCLEAR:
        raise Failure(
            f"{spending.answer}: it is not clear whether {name} was reset and the credit is spent. This is not "
            f"repeated by itself. To ask again, without spending a second credit: codexpool reset {name}"
        )
    if not said.is_reset:
        why = f" ({spending.answer})" if said is Outcome.REFUSED else ""
        raise Failure(f"{name} {SAYS[said]}{why}")
    if not as_json:
        click.echo(f"{name} {SAYS[said]}; {_counted(left)} left")


def _counted(number: int) -> str:
    return counted(number, "reset credit") if number else "no reset credits"


def _confirmed() -> bool:
    """Ask the person. The end of the input means no; Ctrl-C ends the command."""
    try:
        return click.confirm("Spend one reset credit?", err=True)
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)
        return False
