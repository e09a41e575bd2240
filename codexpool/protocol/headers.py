"""What the pool replaces, sets and strips in a request's headers. Pure: names and values in, names and values out."""

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

PROBE: Final = b"x-codexpool-probe"
"""The header of a request that only asks what would be done with it, with a number that its answer repeats."""

PROBE_VERSION: Final = 1  # Of what is asked so, and of what is answered.


class Action(Enum):
    """What happens to a header that the table names."""

    SET = "the identity's value; removed where the identity has none"
    REMOVE = "removed"
    ORIGIN = "the host that the request really goes to"
    KEEP_IF_OURS = "kept while the identity is the one that issued it, else removed"
    REMOVE_FOR_STREAM = "removed from a POST for a stream, which could not be read compressed; else kept"


HEADERS: Final[Mapping[bytes, Action]] = {
    AUTHORIZATION: Action.SET,
    ACCOUNT: Action.SET,
    FEDRAMP: Action.SET,
    ROUTING_OVERRIDE: Action.SET,
    b"x-openai-internal-codex-residency": Action.REMOVE,
    b"openai-organization": Action.REMOVE,
    b"openai-project": Action.REMOVE,
    b"x-oai-attestation": Action.REMOVE,
    b"x-openai-actor-authorization": Action.REMOVE,
    b"x-openai-agent-assertion": Action.REMOVE,
    TURN_STATE: Action.KEEP_IF_OURS,
    ACCEPT_ENCODING: Action.REMOVE_FOR_STREAM,
    b"host": Action.ORIGIN,  # The client's to forge, and what a content network goes by.
}
"""The header policy; every header it does not name goes out as the client sent it."""

PLACEHOLDER: Final = "<codexpool:{}>"
"""What stands in a flow for a value that only the wire sees; names the identity."""


def swapped(
    fields: Fields, values: Mapping[bytes, bytes], keep_turn_state: bool, host: bytes, for_stream: bool
) -> Fields:
    """The fields with the table applied.

    ``values`` holds what to put for the headers that are set, ``for_stream`` says that a stream is asked for. A
    header keeps its place and the spelling of its name; a second one of the same name is dropped; what was missing is
    added at the end, in lower case. (A Host header is never added: over HTTP/2 there is none.)
    """
    out: list[tuple[bytes, bytes]] = []
    missing = dict(values)
    kept = {Action.KEEP_IF_OURS: keep_turn_state, Action.REMOVE_FOR_STREAM: not for_stream}
    for field in fields:
        name = field[0].lower()
        action = HEADERS.get(name)
        if action is None or kept.get(action, False):
            out.append(field)
        elif action is Action.SET and name in missing:
            out.append((field[0], missing.pop(name)))
        elif action is Action.ORIGIN and host:
            out.append((field[0], host))
            host = b""
    out.extend(missing.items())
    return tuple(out)


def trailing(fields: Fields) -> Fields:
    """The trailers of a request without what the table speaks of: none of it belongs there."""
    return tuple(field for field in fields if field[0].lower() not in HEADERS)


def first_values(fields: Fields) -> dict[bytes, bytes]:
    """The first value of each header, by lower-case name: one look at them all."""
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        values.setdefault(name.lower(), value)
    return values


def model_of(values: Mapping[bytes, bytes]) -> str:
    """The model a request asks, as its routing hint says it (``model=<slug>;tier=<tier>``); empty without one."""
    for part in values.get(b"x-codex-routing-hint", b"").split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == b"model":
            return value.decode("latin-1")
    return ""


def identity_values(
    token: str, account_id: str, fedramp: bool, routing_override: str | None
) -> Mapping[bytes, bytes]:
    """The headers that say which identity a request is sent under. A bearer alone has no account."""
    values = {AUTHORIZATION: b"Bearer " + token.encode()}
    if account_id:
        values[ACCOUNT] = account_id.encode()
    if fedramp:
        values[FEDRAMP] = b"true"
    if routing_override is not None:
        values[ROUTING_OVERRIDE] = routing_override.encode()
    return values


CLIENT_SECRETS: Final = frozenset(
    {b"x-oai-attestation", b"x-openai-actor-authorization", b"x-openai-agent-assertion"}
)
"""Headers of the client that are stripped from the wire, and would be secrets in a flow."""


def labelled(fields: Fields, label: str) -> Fields:
    """The fields as a flow shows them: no secret, and in place of what the wire gets the name of the identity."""
    shown = PLACEHOLDER.format(label).encode()
    missing = {AUTHORIZATION: b"Bearer " + shown, ACCOUNT: shown}
    out: list[tuple[bytes, bytes]] = []
    for field in fields:
        name = field[0].lower()
        if name in (AUTHORIZATION, ACCOUNT):
            if name in missing:
                out.append((field[0], missing.pop(name)))
        elif name in CLIENT_SECRETS:
            out.append((field[0], PLACEHOLDER.format("removed").encode()))
        else:
            out.append(field)
    out.extend(missing.items())
    return tuple(out)
