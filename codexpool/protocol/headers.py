"""What the pool sets, removes and keeps in a request's headers. Pure: fields in, fields out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

Fields = tuple[tuple[bytes, bytes], ...]

AUTHORIZATION: Final = b"authorization"
ACCOUNT: Final = b"chatgpt-account-id"
FEDRAMP: Final = b"x-openai-fedramp"
ROUTING_OVERRIDE: Final = b"x-openai-account-routing-override"
ACCEPT_ENCODING: Final = b"accept-encoding"
TURN_STATE: Final = b"x-codex-turn-state"
ATTESTATION: Final = b"x-oai-attestation"
ACTOR: Final = b"x-openai-actor-authorization"
AGENT: Final = b"x-openai-agent-assertion"

CLIENT_SECRETS: Final = frozenset({ATTESTATION, ACTOR, AGENT})  # Besides its token: flows must not show them.
_LABELLED: Final = CLIENT_SECRETS | {AUTHORIZATION, ACCOUNT}
PROBE: Final = b"x-codexpool-probe"  # Asks what would be done with a request; the answer repeats its number.
PROBE_VERSION: Final = 2

PLACEHOLDER: Final = "<codexpool:{}>"  # What a flow shows, by identity, for a value that only the wire sees.


class Action(Enum):
    """What happens to a header that the table names."""

    SET = "the identity's value; removed where the identity has none"
    REMOVE = "removed"
    ORIGIN = "the host that the request really goes to"
    KEEP_IF_OURS = "kept while the identity is the one that issued it, else removed"
    REMOVE_FOR_STREAM = "removed from a POST for a stream, which could not be read compressed; else kept"


HEADERS: Final[Mapping[bytes, Action]] = {
    AUTHORIZATION: Action.SET,  # The token, or what an agent has signed.
    ACCOUNT: Action.SET,  # A token with another account's id is refused.
    FEDRAMP: Action.SET,  # Marks an account of the government cloud.
    ROUTING_OVERRIDE: Action.SET,  # Where the identity's workspace is served, by routing discovery.
    b"x-openai-internal-codex-residency": Action.REMOVE,  # Where the client's own workspace keeps its data.
    b"openai-organization": Action.REMOVE,  # The client's organization; the identity is not in it.
    b"openai-project": Action.REMOVE,  # A project of that organization.
    ATTESTATION: Action.REMOVE,  # Vouches for the client's device.
    ACTOR: Action.REMOVE,  # Vouches for the client's user.
    AGENT: Action.REMOVE,  # Vouches for the client's agent, which has signed it.
    TURN_STATE: Action.KEEP_IF_OURS,  # Sticky routing within a turn: opaque, and bound to the identity that got it.
    ACCEPT_ENCODING: Action.REMOVE_FOR_STREAM,  # Events are read on their way: inflating each costs time.
    b"host": Action.ORIGIN,  # A client can forge it, and a content network routes by it.
}
"""The header policy. Every other header leaves as the client sent it: user agent, installation, beta features."""


def swapped(
    fields: Fields, values: Mapping[bytes, bytes], keep_turn_state: bool, host: bytes, for_stream: bool
) -> Fields:
    """Apply the table. ``values`` are those of `Action.SET`; ``for_stream``: the request asks for a stream.

    A header keeps its place and the spelling of its name; a second one of the same name is dropped; what was missing
    is added at the end, in lower case. (A Host header is never added: HTTP/2 has none.)
    """
    out: list[tuple[bytes, bytes]] = []
    missing = dict(values)
    kept = {Action.KEEP_IF_OURS: keep_turn_state, Action.REMOVE_FOR_STREAM: not for_stream}
    for field in fields:
        name = field[0].lower()
        if name not in HEADERS or kept.get(action := HEADERS[name], False):
            out.append(field)
        elif action is Action.SET and name in missing:
            out.append((field[0], missing.pop(name)))
        elif action is Action.ORIGIN and host:
            out.append((field[0], host))
            host = b""
    out.extend(missing.items())
    return tuple(out)


def first_values(fields: Fields) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        values.setdefault(name.lower(), value)
    return values


def replaced(fields: Fields, name: bytes, value: bytes | None) -> Fields:
    """Return the fields with another value of this name, or without it; ``name`` is in lower case."""
    kept = tuple(field for field in fields if field[0].lower() != name)
    return kept if value is None else (*kept, (name, value))


def is_for_title(values: Mapping[bytes, bytes]) -> bool:
    """Return whether Codex asks for a title of the conversation, which it does in a thread of its own."""
    return b'"thread_source":"thread_title"' in values.get(b"x-codex-turn-metadata", b"")


def is_event_stream(values: Mapping[bytes, bytes]) -> bool:
    """Return whether the headers of an answer announce a stream of events."""
    return values.get(b"content-type", b"").startswith(b"text/event-stream")


def model_of(values: Mapping[bytes, bytes]) -> str:
    """Return the model in a request's routing hint (``model=<slug>;tier=<tier>``); empty without one."""
    for part in values.get(b"x-codex-routing-hint", b"").split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == b"model":
            return value.decode("latin-1")
    return ""


def identity_values(
    authorization: str, account_id: str, fedramp: bool, routing_override: str | None
) -> Mapping[bytes, bytes]:
    """Return the values of `Action.SET` for an identity. A token from a command may have no account."""
    values = {AUTHORIZATION: authorization.encode()}
    if account_id:
        values[ACCOUNT] = account_id.encode()
    if fedramp:
        values[FEDRAMP] = b"true"
    if routing_override is not None:
        values[ROUTING_OVERRIDE] = routing_override.encode()
    return values


def labelled(fields: Fields, label: str) -> Fields:
    """Return the fields as a flow shows them: the identity's name in place of each secret."""
    shown = PLACEHOLDER.format(label).encode()
    missing = {AUTHORIZATION: b"Bearer " + shown, ACCOUNT: shown}
    out: list[tuple[bytes, bytes]] = []
    for field in fields:
        name = field[0].lower()
        if name not in _LABELLED:
            out.append(field)
        elif name in CLIENT_SECRETS:
            out.append((field[0], PLACEHOLDER.format("removed").encode()))
        elif name in missing:
            out.append((field[0], missing.pop(name)))
    out.extend(missing.items())
    return tuple(out)
