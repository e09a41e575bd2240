"""What a command has found out, written into the state: proxies, and the next command, know it from there."""

from __future__ import annotations

from pathlib import Path

from codexpool.credentials import Credential
from codexpool.credentials.authapi import Whoami
from codexpool.pool.identity import Condition, Kind, Status
from codexpool.pool.needs import is_of_the_account
from codexpool.pool.states import CONDEMNED
from codexpool.state import Record, State, record_name


def remember(
    state: State, pool_toml: Path, name: str, credential: Credential, answer: Whoami, status: Status = Status.READY
) -> None:
    """Remember whose token an identity has, and that it is good, or what it needs."""
    bearer, metadata = credential.bearer(), answer.metadata
    if bearer is None:
        return
    if metadata is not None and status is Status.READY:
        if credential.kind is not Kind.COMMAND:
            state.put_metadata(bearer.fingerprint, metadata, answer.evidence.at)
        known = state.load()
        record = known.records.get(record_name(pool_toml, name))
        used_at = record.used_at if record is not None and record.key == metadata.key else None
        state.put_record(record_name(pool_toml, name), Record(bearer.fingerprint, metadata.key, used_at))
        if not is_of_the_account(known.conditions.get(bearer.fingerprint)):
            state.put_condition(bearer.fingerprint, Condition(status, answer.evidence.at))
    elif status in CONDEMNED:
        state.put_condition(bearer.fingerprint, Condition(status, answer.evidence.at, evidence=answer.evidence))
