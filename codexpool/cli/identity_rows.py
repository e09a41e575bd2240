"""How each identity stands, as far as files tell: pool.toml, and what proxies wrote into the state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codexpool.cli.common import moment
from codexpool.config import FromCommand, IdentitySpec, PoolConfig, Resolved, Sources, resolve
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
    """One identity. Times are unix seconds; what is not known is None or empty."""

    spec: IdentitySpec
    kind: Kind
    metadata: Metadata | None
    status: Status
    since: float | None
    until: float | None
    evidence: str
    fingerprint: str
    last_used: float | None
    not_for: tuple[str, ...] = ()
    """What it is not used for, although it is well."""

    @property
    def user_id(self) -> str:
        """The user, if anybody said who that is."""
        user_id = self.metadata.user_id if self.metadata is not None else self.spec.user_id or ""
        return "" if user_id.startswith(UNKNOWN) else user_id

    @property
    def account_id(self) -> str:
        return self.metadata.account_id if self.metadata is not None else self.spec.account_id or ""

    @property
    def reminder(self) -> str:
        """What is to be said of the expected end of its token."""
        return expiry(self.spec.expires_at, time.time())

    def document(self) -> dict[str, Any]:
        """As `codexpool list --json` prints it."""
        return {
            "name": self.spec.name,
            "kind": str(self.kind),
            "account_id": self.account_id or None,
            "user_id": self.user_id or None,
            "plan": (self.metadata.plan if self.metadata is not None else "") or None,
            "status": str(self.status),
            "since": moment(self.since),
            "until": moment(self.until),
            "evidence": self.evidence or None,
            "not_for": list(self.not_for),
            "fingerprint": self.fingerprint or None,
            "last_used": moment(self.last_used),
        }


def identity_rows(config: PoolConfig, sources: Sources, known: Snapshot) -> list[IdentityRow]:
    """The identities of a configuration, in its order."""
    resolved = resolve(config, sources)
    left_out = _left_out(config, resolved)
    return [
        identity_row(config, spec, resolved.credentials.get(spec.name), known, left_out) for spec in config.identities
    ]


def identity_row(
    config: PoolConfig,
    spec: IdentitySpec,
    credential: Credential | None,
    known: Snapshot,
    left_out: Mapping[str, str],
) -> IdentityRow:
    """How one identity stands; ``left_out`` says why some have no credential."""
    bearer = credential.bearer() if credential is not None else None
    record = known.records.get(record_name(config.path, spec.name))
    fingerprint = bearer.fingerprint if bearer is not None else ""
    if not fingerprint and record is not None and isinstance(spec.source, FromCommand):
        fingerprint = record.fingerprint
    metadata = known.metadata.get(fingerprint)
    if metadata is None and isinstance(credential, OAuth):
        login = credential.login
        metadata = Metadata(login.account_id, login.user_id, login.plan, login.fedramp)
    if metadata is None and record is not None and record.fingerprint == fingerprint:
        metadata = Metadata(record.key.account_id, record.key.user_id, "")
    is_known = fingerprint in known.metadata or (record is not None and record.fingerprint == fingerprint)
    condition = _condition(spec, fingerprint, known, left_out.get(spec.name, ""), is_known)
    return IdentityRow(
        spec,
        credential.kind if credential is not None else spec.kind,
        metadata,
        condition.status,
        condition.since or None,
        condition.until,
        str(condition.evidence or ""),
        fingerprint,
        record.used_at if record is not None else None,
        _not_for(fingerprint, metadata, known),
    )


def _not_for(fingerprint: str, metadata: Metadata | None, known: Snapshot) -> tuple[str, ...]:
    now = time.time()
    said: list[str] = []
    for subject in exclusions.subjects(fingerprint, metadata):
        with contextlib.suppress(TypeError, ValueError):  # A note that is none of ours.
            entries = exclusions.entries_of(known.notes.get((NOT_FOR, subject), {}), now)
            said += [entry.described(now) for entry in entries]
    return tuple(said)


def _condition(spec: IdentitySpec, fingerprint: str, known: Snapshot, left_out: str, is_known: bool) -> Condition:
    if spec.paused:
        return Condition(Status.PAUSED, 0, evidence=Evidence(0, note="paused in pool.toml"))
    if left_out:
        return Condition(Status.UNVERIFIED, 0, evidence=Evidence(0, note=left_out))
    if spec.flag is not None and spec.flag.token == f"sha256:{fingerprint}":
        since = spec.flag.since.timestamp()
        return Condition(Status.NEEDS_REPLACEMENT, since, evidence=Evidence(since, note=spec.flag.reason))
    condition = known.conditions.get(fingerprint)
    if condition is None:
        return Condition(Status.READY if is_known else Status.UNVERIFIED, 0)
    if condition.until is not None and _is_over(condition, time.time()):
        return Condition(Status.READY, condition.until)
    return condition


def _is_over(condition: Condition, now: float) -> bool:
    """Whether a condition that ends by itself has ended, or was noted while a clock was ahead."""
    is_now = condition.since <= now < (condition.until or 0)
    return condition.status in SERVING_OR_SOON and condition.until is not None and not is_now


def _left_out(config: PoolConfig, resolved: Resolved) -> dict[str, str]:
    """Why identities have no credential, by name."""
    lines = {spec.line: spec.name for spec in config.identities if spec.name not in resolved.credentials}
    return {
        lines[problem.line]: f"{problem.what}; {problem.remedy}"
        for problem in resolved.problems
        if problem.line in lines
    }
