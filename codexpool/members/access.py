"""Who gets what: a table of what a request is for and what it proves.

A member's client has no login: its key opens the pool, and nothing else. So the key must never leave for a host, and
what acts for a person at the backend is refused to it. A client without a key acts under its own login, as without
codexpool, but gets nothing of a pool that is for members only.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from codexpool.config.model import Access


class Purpose(Enum):
    """What a request is for."""

    SWAP = "what is sent under an identity"
    SOCKET = "a WebSocket under an identity, other than the model's: its messages are not inspected"
    WORKSPACE = "what describes a workspace, which a member has none of"
    QUOTA = "what is left of the limits"
    WHOAMI = "the owner of its credential"
    TOOLS = "the tools of a person"
    PERSONAL = "anything else that acts for a person, on a host of the backend"
    API = "the model of the public API, which a client without a login asks"
    ELSEWHERE = "any other host"


class Proof(Enum):
    """What a request comes with."""

    KEY = "the key of a member"
    BAD_KEY = "a key that opens nothing"
    LOST_KEY = "nothing, after a key that opens nothing came from the same address"
    NOTHING = "nothing"
    LOGIN = "a login of its own, which its client renews after a 401"
    OTHER = "another credential of its own"


class Outcome(Enum):
    """What happens to a request."""

    UNTOUCHED = "what would happen if there were no members"
    OWN = "sent with its own credential"
    SWAPPED = "sent under an identity of the pool that may serve the member"
    IDENTIFIED = "a whoami made up for the member"
    NO_TOOLS = "an empty list of tools"
    NOT_FOR_KEYS = "a 403: only for a person with a login"
    WITHHELD = "a 403: a key does not leave for another host"
    REFUSED = "a 401"
    EXPLAINED = "the reason, in a form that the client shows at once"


Row = Mapping[Purpose, Outcome]

_UNTOUCHED: Final[Row] = dict.fromkeys(Purpose, Outcome.UNTOUCHED)
_REFUSED: Final[Row] = dict.fromkeys(Purpose, Outcome.REFUSED)

_KEYS: Final[Mapping[Proof, Row]] = {
    Proof.KEY: {
        Purpose.SWAP: Outcome.SWAPPED,
        Purpose.SOCKET: Outcome.NOT_FOR_KEYS,
        Purpose.WORKSPACE: Outcome.SWAPPED,
        Purpose.QUOTA: Outcome.SWAPPED,
        Purpose.WHOAMI: Outcome.IDENTIFIED,
        Purpose.TOOLS: Outcome.NO_TOOLS,
        Purpose.PERSONAL: Outcome.NOT_FOR_KEYS,
        Purpose.API: Outcome.WITHHELD,
        Purpose.ELSEWHERE: Outcome.WITHHELD,
    },
    Proof.BAD_KEY: {**_REFUSED, Purpose.API: Outcome.WITHHELD, Purpose.ELSEWHERE: Outcome.WITHHELD},
    # After a refused whoami Codex continues without a credential, at another API, and would show an error only after
    # 14 seconds (docs/protocol.md, section 1a).
    Proof.LOST_KEY: {
        **_REFUSED,
        Purpose.SWAP: Outcome.EXPLAINED,
        Purpose.SOCKET: Outcome.EXPLAINED,
        Purpose.API: Outcome.EXPLAINED,
        Purpose.WHOAMI: Outcome.UNTOUCHED,
        Purpose.ELSEWHERE: Outcome.UNTOUCHED,
    },
}

TABLE: Final[Mapping[Access, Mapping[Proof, Row]]] = {
    Access.ANYONE: {**_KEYS, Proof.NOTHING: _UNTOUCHED, Proof.LOGIN: _UNTOUCHED, Proof.OTHER: _UNTOUCHED},
    Access.MEMBERS: {
        **_KEYS,
        Proof.NOTHING: {
            **_UNTOUCHED,
            Purpose.SWAP: Outcome.REFUSED,
            Purpose.SOCKET: Outcome.REFUSED,
            Purpose.QUOTA: Outcome.OWN,
            Purpose.API: Outcome.EXPLAINED,
        },
        Proof.LOGIN: {
            **_UNTOUCHED,
            # A 401 would make the client renew its login.
            Purpose.SWAP: Outcome.EXPLAINED,
            Purpose.SOCKET: Outcome.EXPLAINED,
            Purpose.QUOTA: Outcome.OWN,
        },
        Proof.OTHER: {
            **_UNTOUCHED,
            Purpose.SWAP: Outcome.REFUSED,
            Purpose.SOCKET: Outcome.REFUSED,
            Purpose.QUOTA: Outcome.OWN,
        },
    },
}
