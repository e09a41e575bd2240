"""The identities as files know them: pool.toml, and the state that proxies wrote. For `list`, `show` and `check`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from codexpool.cli.common import Pool, moment
from codexpool.cli.output import STATUS_STYLES, Column, print_table
from codexpool.config.model import FromCommand, IdentitySpec
from codexpool.credentials import Credential
from codexpool.credentials.agent import Agent
from codexpool.credentials.oauth import OAuth
from codexpool.pool import exclusions
from codexpool.pool.identity import PAUSED_IN_FILE, Condition, Evidence, Identity, IdentityKey, Kind, Metadata, Status
from codexpool.pool.needs import expiry, needs
from codexpool.pool.states import SERVING_OR_SOON
from codexpool.pool.usage import MAIN, NOTHING, Usage
from codexpool.state import Record, Snapshot, record_name
from codexpool.state.notes import NOT_FOR, USAGE
from codexpool.upkeep.verification import UNKNOWN
from codexpool.views.formatting import counted, local_time, plain, span
from codexpool.views.limits import limited, limits, reset_credits


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """One identity. Times are unix seconds; what is unknown is None or empty."""

    spec: IdentitySpec
    kind: Kind
    metadata: Metadata | None
    condition: Condition
    fingerprint: str
    record: Record | None
    not_for: tuple[str, ...] = ()
    """What it is not used for, although its token is good."""
    usage: Usage = NOTHING
    """What is left of its limits, as proxies have last seen it."""
    where: str = "pool.toml"
    """The line of pool.toml with it."""
    is_unchecked: bool = False
    """Whether the backend was asked about it, and did not answer."""

    @property
    def status(self) -> Status:
        return self.condition.status

    @property
    def owner(self) -> IdentityKey | None:
        """The account and user as pool.toml pins them, or as far as they are known."""
        if self.spec.account_id and self.spec.user_id:
            return IdentityKey(self.spec.account_id, self.spec.user_id)
        known = self.metadata or self.record
        return known.key if known is not None else None

    @property
    def needs(self) -> str:
        """What a person has to do before it serves again; empty if nothing."""
        identity = Identity(
            self.spec.name,
            self.kind,
            self.fingerprint,
            self.condition,
            paused=self.spec.paused,
            metadata=self.metadata,
        )
        return needs(identity, self.condition, self.where)

    def problem(self) -> str:
        """Return why it does not serve, and what to do; empty if it serves."""
        condition, name = self.condition, self.spec.name
        if self.is_unchecked:
            return f"not checked: {condition.evidence}"
        if condition.evidence is None:
            hint = f"not verified yet: a proxy does that when it starts, or: codexpool check {name}"
            return hint if self.status is Status.UNVERIFIED else ""
        since = f" since {local_time(condition.since)}" if condition.since else ""
        when = f" until {local_time(condition.until)}" if condition.until is not None else since
        what = "" if condition.evidence.note == PAUSED_IN_FILE else f"{self.status}{when}: "
        return f"{what}{condition.evidence}" + (f". {self.needs}" if self.needs else "")

    def document(self) -> dict[str, Any]:
        """Return what `codexpool list --json` prints."""
        now = time.time()
        metadata = self.metadata or Metadata(self.spec.account_id or "", self.spec.user_id or "", "")
        return {
            "name": self.spec.name,
            "kind": str(self.kind),
            "account_id": metadata.account_id or None,
            "email": metadata.email or None,
            "user_id": None if metadata.user_id.startswith(UNKNOWN) else metadata.user_id or None,
            "plan": metadata.plan or None,
            "status": str(self.status),
            "since": moment(self.condition.since or None),
            "until": moment(self.condition.until),
            "evidence": str(self.condition.evidence or "") or None,
            "needs": self.needs or None,
            "limits": [{**limit, "resets_at": moment(limit["resets_at"])} for limit in limits(self.usage, now)],
            "limited": {family: moment(until) for family, until in limited(self.usage, now).items()},
            "reset_credits": _credits(self.usage),
            "not_for": list(self.not_for),
            "fingerprint": self.fingerprint or None,
            "last_used": moment(self.record.used_at if self.record is not None else None),
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


def identity_row(pool: Pool, name: str) -> IdentityRow:
    """Return the identity of that name. Raises click.UsageError."""
    spec = pool.identity(name)
    return next(row for row in identity_rows(pool) if row.spec is spec)


def identity_of(pool: Pool, owner: IdentityKey) -> IdentitySpec | None:
    """Return the identity that has this account and user; None if there is none."""
    return next((row.spec for row in identity_rows(pool) if row.owner == owner), None)


def _row(pool: Pool, spec: IdentitySpec, credential: Credential | None, problem: str) -> IdentityRow:
    known = pool.known
    bearer = credential.bearer() if credential is not None else None
    record = known.records.get(record_name(pool.scope, spec.name))
    fingerprint = bearer.fingerprint if bearer is not None else ""
    if not fingerprint and record is not None and isinstance(spec.source, FromCommand):
        fingerprint = record.fingerprint
    is_recorded = record is not None and record.fingerprint == fingerprint
    metadata = known.metadata.get(fingerprint)
    if metadata is None and isinstance(credential, OAuth):
        metadata = credential.login.metadata
    if metadata is None and isinstance(credential, Agent):
        metadata = credential.identity.metadata
    if metadata is None and record is not None and is_recorded:
        metadata = Metadata(record.key.account_id, record.key.user_id, "")
    return IdentityRow(
        spec,
        credential.kind if credential is not None else spec.kind,
        metadata,
        _condition(spec, fingerprint, known, problem, is_recorded),
        fingerprint,
        record,
        _not_for(fingerprint, metadata, known),
        _usage(metadata, known),
        f"{pool.path}:{spec.line}",
    )


def _condition(spec: IdentitySpec, fingerprint: str, known: Snapshot, problem: str, is_recorded: bool) -> Condition:
    if spec.paused:
        return Condition(Status.PAUSED, 0, evidence=Evidence(0, note=PAUSED_IN_FILE))
    if problem:
        return Condition(Status.UNVERIFIED, 0, evidence=Evidence(0, note=problem))
    if spec.flag is not None and spec.flag.token == f"sha256:{fingerprint}":
        since = spec.flag.since.timestamp()
        return Condition(Status.NEEDS_REPLACEMENT, since, evidence=Evidence(since, note=spec.flag.reason))
    condition = known.conditions.get(fingerprint)
    # What a proxy has noted of a pause is over with it, although the proxy may not have noticed yet.
    if condition is None or (condition.evidence is not None and condition.evidence.note == PAUSED_IN_FILE):
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


def _usage(metadata: Metadata | None, known: Snapshot) -> Usage:
    if metadata is None or (note := known.notes.get((USAGE, json.dumps(metadata.key)))) is None:
        return NOTHING
    usage = Usage()
    with contextlib.suppress(TypeError, ValueError, AttributeError):  # not written by codexpool
        usage.take(note, time.time())
    return usage


def _credits(usage: Usage) -> dict[str, Any] | None:
    known = reset_credits(usage)
    return known and {**known, "expires_at": moment(known["expires_at"])}


IDS: Final = (
    Column("account", "account_id"),
    Column("user", "user_id"),
    Column("fingerprint", "fingerprint"),
)
"""The columns of ``--ids``."""

COLUMNS: Final = (
    Column("name", "name"),
    Column("status", "status", style=lambda row: STATUS_STYLES[row["status"]]),
    Column("limits", "limits", shown=lambda limits: "\n".join(map(_used, limits))),
    Column("email", "email", rank=1),
    Column("last used", "last_used", rank=2, shown=local_time),
    Column("plan", "plan", rank=3),
    Column("kind", "kind", rank=3),
    *IDS,
    Column("problem", "problem", is_below=True, style=lambda row: STATUS_STYLES[row["status"]]),
    Column("notes", "notes", is_below=True, style=lambda row: "yellow"),
    Column("reset credits", "credits", is_below=True, style=lambda row: "cyan"),
)


def described_limit(limit: Mapping[str, Any]) -> str:
    """Describe a window of a document: ``5 h: 18 % used, resets 2026-11-30 16:00``."""
    resets = f", resets {local_time(limit['resets_at'])}" if limit["resets_at"] else ""
    return f"{_used(limit)} used{resets}"


def described_credits(credits: Mapping[str, Any] | None) -> str:
    """Describe the reset credits of a document; empty if there are none."""
    if not credits or not credits["available"]:
        return ""
    number = credits["available"]
    first = "" if number == 1 else "the first "
    until = f", {first}until {local_time(credits['expires_at'])}" if credits["expires_at"] else ""
    return f"{counted(number, 'reset credit')}{until}"


def _used(limit: Mapping[str, Any]) -> str:
    family = "" if limit["family"] == MAIN else f"{plain(limit['family'])} "
    return f"{family}{span(limit['minutes'] * 60)}: {limit['used_percent']:.0f} %"


def print_rows(rows: Sequence[IdentityRow], with_ids: bool = False) -> None:
    """Print the identities as a table, and below it why some do not serve, or soon will not, and what helps."""
    columns = [column for column in COLUMNS if with_ids or column not in IDS]
    print_table(columns, [{**row.document(), **_below(row)} for row in rows])


def _below(row: IdentityRow) -> dict[str, list[str]]:
    problem, credits = row.problem(), described_credits(row.document()["reset_credits"])
    notes = [text for text in (*row.not_for, expiry(row.spec.expires_at, time.time())) if text]
    return {"problem": [problem] if problem else [], "notes": notes, "credits": [credits] if credits else []}
