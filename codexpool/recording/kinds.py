"""Kinds of values that tell whose a recording is, and which names they go by. Pure."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

from codexpool.redaction.telling_names import hides


class Kind(StrEnum):
    """What a value is. The word is part of the stand-in of a value that has no shape of its own."""

    CREDENTIAL = "credential"
    COOKIE = "cookie"
    EMAIL = "email"
    ACCOUNT = "account"
    """Of an account, a workspace, an organisation, a project."""
    USER = "user"
    NAME = "name"
    """What a person or an organisation is called."""
    DEVICE = "device"
    ID = "id"
    """Of a conversation, a turn, a request, a commit: whatever the backend or a client numbers."""
    IDENTITY = "identity"
    """What the operator of a pool calls an identity."""
    ADDRESS = "address"
    HOME = "home"
    """Whose home folder a path leads through."""
    FOLDER = "folder"
    PLACE = "place"
    """Where a repository is."""
    ENCRYPTED = "encrypted"
    """What only the backend can read."""


_NAMES: Final = (
    (Kind.ENCRYPTED, r"encrypted_content"),
    (Kind.EMAIL, r"(?:.*_)?e?_?mail(?:_address)?"),
    (Kind.USER, r"(?:.*_)?user_?(?:id|uuid|guid)s?"),
    (Kind.ACCOUNT, r"(?:.*_)?(?:account|workspace|organi[sz]ation|org|project|team|tenant)_(?:uuid|guid|ids?)"),
    (Kind.ACCOUNT, r"openai_organization|openai_project|account_ordering|poid"),
    (Kind.USER, r"sub|oid|user|username|user_name|login|(?:member|owner|author|creator|end_user)_id|created_by"),
    (Kind.NAME, r"(?:given|family|first|last|full|display|middle|user|real)_?name|nickname|preferred_username"),
    (Kind.NAME, r"(?:account|workspace|organi[sz]ation|org|team|tenant)_(?:name|title|slug)"),
    (Kind.NAME, r"picture|avatar(?:_url)?|profile_(?:picture|image)(?:_\w+)?|(?:.*_)?phone(?:_number)?|birth_?date"),
    (Kind.DEVICE, r"(?:.*_)?(?:installation|device|machine|hardware|stable|anonymous)_?(?:id|uuid|name)s?"),
    (Kind.DEVICE, r"oai_did|hostname|host_name|machine"),
    (
        Kind.ID,
        r"(?:.*_)?(?:session|thread|conversation|turn|window|request|trace|span|correlation|call_inference)_id",
    ),
    (Kind.ID, r"(?:.*_)?(?:inference_call|interaction|generation|safety|idempotency)_(?:id|identifier|key)"),
    (
        Kind.ID,
        r"fingerprint|cf_ray|traceparent|tracestate|baggage|prompt_cache_key|(?:.*_)?turn_state|(?:.*_)?commit_hash",
    ),
    (Kind.ADDRESS, r"x_forwarded_for|forwarded|x_real_ip|true_client_ip|cf_connecting_ip|x_client_ip"),
    (Kind.ADDRESS, r"(?:client_|peer_|remote_)?ip(?:_address)?|remote_addr(?:ess)?|client"),
    (Kind.PLACE, r"(?:.*_)?(?:remote|repository|repo|git|clone|origin)_urls?"),
    (Kind.FOLDER, r"cwd|workdir|working_directory|current_directory|(?:workspace|project|writable|git)_roots?"),
)
"""Names in lower case, with underscores between their words; the first row that fits counts."""

_ROWS: Final = tuple((kind, re.compile(pattern)) for kind, pattern in _NAMES)

_OWNERS: Final = {
    **dict.fromkeys(
        ("account", "accounts", "workspace", "workspaces", "organization", "organizations"), Kind.ACCOUNT
    ),
    **dict.fromkeys(("org", "orgs", "project", "projects", "team", "teams"), Kind.ACCOUNT),
    **dict.fromkeys(("user", "users", "me", "profile", "owner", "author", "member", "members"), Kind.USER),
    **dict.fromkeys(("session", "thread", "conversation"), Kind.ID),
}
"""Whose an ``id`` (or a ``key``) is, by the name of what it stands in."""

_AMBIGUOUS: Final = frozenset({"key", "keys", "seed", "cert"})
"""What may name a secret, and more often names something else."""

_SECRET: Final = re.compile(r"(?=.*\d)\S{12,}", re.DOTALL)

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@lru_cache(maxsize=4096)
def folded(name: str) -> str:
    """A name in lower case with underscores, however it is spelled."""
    return _HUMP.sub("_", name).replace("-", "_").replace(".", "_").lower()


@lru_cache(maxsize=4096)
def _kind_by_name(name: str, within: str) -> Kind | None:
    plain = folded(name)
    if plain in ("id", "uuid", "key"):
        owner = _OWNERS.get(folded(within))
        if owner is not None and (plain != "key" or owner is Kind.ID):
            return owner
    for kind, pattern in _ROWS:
        if pattern.fullmatch(plain):
            return kind
    return None


def kind_of(name: str, value: str, within: str = "") -> Kind | None:
    """What a value of that name is; None where the name says nothing.

    Args:
        name: of a header, a field, a parameter.
        within: the name of the object that the field is in.
    """
    kind = _kind_by_name(name[:128], within[:128])
    if kind is None and hides(name, value) and not (name.lower() in _AMBIGUOUS and not _SECRET.fullmatch(value)):
        return Kind.CREDENTIAL
    return kind


def names_people(fields: frozenset[str]) -> bool:
    """Whether an object with these fields is of a person or a workspace, so that its ``name`` is theirs."""
    return any(folded(name) in _OF_SOMEBODY for name in fields)


_OF_SOMEBODY: Final = frozenset({"email", "plan_type", "account_id", "user_id", "chatgpt_user_id", "organization_id"})
