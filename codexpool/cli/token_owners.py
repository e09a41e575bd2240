"""Whose token an identity has, as far as it is known without asking anybody."""

from __future__ import annotations

from codexpool.common.private_files import UnusableError
from codexpool.config import IdentitySpec, PoolConfig, Sources
from codexpool.config.keyrings import PendingError
from codexpool.config.sources import credential_of
from codexpool.credentials import Credential
from codexpool.credentials.oauth import OAuth
from codexpool.pool.identity import IdentityKey
from codexpool.state import Snapshot, record_name


def owner_of(config: PoolConfig, spec: IdentitySpec, sources: Sources, known: Snapshot) -> IdentityKey | None:
    """The account and user of an identity: as pool.toml has them, else what was found out about its present token.

    None where nobody knows.
    """
    if spec.account_id and spec.user_id:
        return IdentityKey(spec.account_id, spec.user_id)
    credential = _credential(spec, sources)
    if isinstance(credential, OAuth):
        return IdentityKey(credential.login.account_id, credential.login.user_id)
    bearer = credential.bearer() if credential is not None else None
    if bearer is not None and (metadata := known.metadata.get(bearer.fingerprint)) is not None:
        return metadata.key
    record = known.records.get(record_name(config.path, spec.name))
    return record.key if record is not None else None


def holder_of(config: PoolConfig, key: IdentityKey, sources: Sources, known: Snapshot) -> IdentitySpec | None:
    """The identity that is of this account and user already, as far as it is known; None if there is none."""
    return next((spec for spec in config.identities if owner_of(config, spec, sources, known) == key), None)


def _credential(spec: IdentitySpec, sources: Sources) -> Credential | None:
    try:
        return credential_of(spec, sources)
    except (UnusableError, PendingError):
        return None
