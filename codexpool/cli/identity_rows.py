"""The identities as files know them: pool.toml, and the state that proxies wrote. For `list`, `show` and `check`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from codexpool.cli.common import moment
from codexpool.cli.output import STATUS_STYLES, console, print_table
from codexpool.cli.pool import Pool
from codexpool.config.model import FromCommand, IdentitySpec
from codexpool.credentials import Credential
from codexpool.credentials.oauth import OAuth
from codexpool.pool import exclusions
from codexpool.pool.identity import Condition, Evidence, Kind, Metadata, Status
from codexpool.pool.needs import expiry
from codexpool.pool.states import SERVING_OR_SOON
from codexpool.state import Snapshot, record_name
from codexpool.upkeep.persistence import NOT_FOR
from codexpool.upkeep.verification import UNKNOWN


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """One identity. Times are unix seconds; what is unknown is None or empty."""

    spec: IdentitySpec
    kind: Kind
    metadata: Metadata | None
    condition: Condition
    fingerprint: str
    last_used: float | None
    not_for: tuple[str, ...] = ()
    """What it is not used for, although its token is good."""

    @property
    def status(self) -> Status:
        return self.condition.status

    @property
    def evidence(self) -> str:
        return str(self.condition.evidence or "")

    @property
    def user_id(self) -> str:
        user_id = self.metadata.user_id if self.metadata is not None else self.spec.user_id or ""
        return "" if user_id.startswith(UNKNOWN) else user_id

    @property
    def account_id(self) -> str:
        return self.metadata.account_id if self.metadata is not None else self.spec.account_id or ""

    @property
    def plan(self) -> str:
        return self.metadata.plan if self.metadata is not None else ""

    @property
    def reminder(self) -> str:
        """A warning that its token expires soon, if it does."""
        return expiry(self.spec.expires_at, time.time())

    def document(self) -> dict[str, Any]:
        """Return what `codexpool list --json` prints."""
        return {
            "name": self.spec.name,
            "kind": str(self.kind),
            "account_id": self.account_id or None,
            "user_id": self.user_id or None,
            "plan": self.plan or None,
            "status": str(self.status),
            "since": moment(self.condition.since or None),
            "until": moment(self.condition.until),
            "evidence": self.evidence or None,
            "not_for": list(self.not_for),
            "fingerprint": self.fingerprint or None,
            "last_used": moment(self.last_used),
        }


def identity_rows(pool: Pool) -> list[IdentityRow]:
    """Return the identities in the order of pool.toml."""
    resolved = pool.resolved
    lines = {spec.line: spec.name for spec in pool.config.identities if spec.name not in resolved.credentials}
    problems = {
        lines[problem.line]: f"{problem.what}; {problem.remedy}"
        for problem in resolved.problems
        if problem.line in lines
    }
    return [
        _row(pool, spec, resolved.credentials.get(spec.name), problems.get(spec.name, ""))
        for spec in pool.config.identities
    ]


def _row(pool: Pool, spec: IdentitySpec, credential: Credential | None, problem: str) -> IdentityRow:
    known = pool.known
    bearer = credential.bearer() if credential is not None else None
    record = known.records.get(record_name(pool.path, spec.name))
    fingerprint = bearer.fingerprint if bearer is not None else ""
    if not fingerprint and record is not None and isinstance(spec.source, FromCommand):
        fingerprint = record.fingerprint
    is_recorded = record is not None and record.fingerprint == fingerprint
    metadata = known.metadata.get(fingerprint)
    if metadata is None and isinstance(credential, OAuth):
        login = credential.login
        metadata = Metadata(login.account_id, login.user_id, login.plan, login.fedramp)
    if metadata is None and record is not None and is_recorded:
        metadata = Metadata(record.key.account_id, record.key.user_id, "")
    return IdentityRow(
        spec,
        credential.kind if credential is not None else spec.kind,
        metadata,
        _condition(spec, fingerprint, known, problem, is_recorded),
        fingerprint,
        record.used_at if record is not None else None,
        _not_for(fingerprint, metadata, known),
    )


def _condition(spec: IdentitySpec, fingerprint: str, known: Snapshot, problem: str, is_recorded: bool) -> Condition:
    if spec.paused:
        return Condition(Status.PAUSED, 0, evidence=Evidence(0, note="paused in pool.toml"))
    if problem:
        return Condition(Status.UNVERIFIED, 0, evidence=Evidence(0, note=problem))
    if spec.flag is not None and spec.flag.token == f"sha256:{fingerprint}":
        since = spec.flag.since.timestamp()
        return Condition(Status.NEEDS_REPLACEMENT, since, evidence=Evidence(since, note=spec.flag.reason))
    condition = known.conditions.get(fingerprint)
    if condition is None:
        is_verified = is_recorded or fingerprint in known.metadata
        return Condition(Status.READY if is_verified else Status.UNVERIFIED, 0)
    if condition.until is None or condition.status not in SERVING_OR_SOON:
        return condition
    is_now = condition.since <= time.time() < condition.until  # If not, it is over, or a wrong clock noted it.
    return condition if is_now else Condition(Status.READY, condition.until)


def _not_for(fingerprint: str, metadata: Metadata | None, known: Snapshot) -> tuple[str, ...]:
    now = time.time()
    found: list[str] = []
    for subject in exclusions.subjects(fingerprint, metadata):
        with contextlib.suppress(TypeError, ValueError):  # not written by codexpool
            entries = exclusions.entries_of(known.notes.get((NOT_FOR, subject), {}), now)
            found += [entry.described(now) for entry in entries]
    return tuple(found)


WIDE: Final = 150  # columns from which all of a row fits

COLUMNS: Final[Mapping[str, Callable[[IdentityRow], str]]] = {
    "name": lambda row: row.spec.name,
    "kind": lambda row: str(row.kind),
    "account": lambda row: row.account_id,
    "user": lambda row: row.user_id,
    "plan": lambda row: row.plan,
    "status": lambda row: str(row.status),
    "last used": lambda row: _minute(row.last_used),
    "fingerprint": lambda row: row.fingerprint,
}

OPTIONAL: Final = ("account", "user", "fingerprint")  # columns left out of a narrow table: `codexpool show` has them


def print_rows(rows: Sequence[IdentityRow]) -> None:
    """Print the identities as a table, and below it why some do not serve, or soon will not."""
    out = console()
    titles = [title for title in COLUMNS if out.width >= WIDE or title not in OPTIONAL]
    cells = [
        [Text(COLUMNS[title](row), STATUS_STYLES[row.status] if title == "status" else "") for title in titles]
        for row in rows
    ]
    print_table(out, titles, cells, no_wrap=("kind", "status", "last used", "fingerprint"))
    for row in rows:
        notes = [
            (_reason(row), STATUS_STYLES[row.status]),
            *((text, "yellow") for text in (*row.not_for, row.reminder)),
        ]
        for text, style in notes:
            if text:
                out.print(Text.assemble((row.spec.name, "bold"), ": ", (text, style)), soft_wrap=True)


def _reason(row: IdentityRow) -> str:
    if not row.evidence:
        return ""
    if row.condition.until is not None:
        return f"{row.status} until {_minute(row.condition.until)}: {row.evidence}"
    since = f" since {_minute(row.condition.since)}" if row.condition.since else ""
    return f"{row.status}{since}: {row.evidence}"


def _minute(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
