"""Who gets what: a table of what a request asks for and what it comes with. Pure.

A member's client has no login: its key opens the pool, and nothing else. So the key must not leave for any host, and
what acts for a person at the backend is not for it. Whoever comes without a key speaks for himself, as ever, but gets
nothing of a pool that is for its members.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from codexpool.config.model import Access

__all__ = ["Access", "Asks", "Brings", "Gets", "gets"]


class Asks(Enum):
    """What a request is for."""

    SWAP = "what is sent under an identity"
    SOCKET = "such a WebSocket, other than the model's: nobody looks into its messages"
    LENT = "what a workspace says of itself, where a member has no other one"
    WHOAMI = "whose its credential is"
    TOOLS = "the tools of a person"
    OWN = "what else acts for a person, on a host of the backend"
    API = "the model of another API, which clients without a login ask"
    ELSEWHERE = "any other host"


class Brings(Enum):
    """What a request comes with."""

    KEY = "the key of a member"
    BAD_KEY = "a key that opens nothing"
    LOST_KEY = "nothing, after a key that opens nothing has come from there"
    NOTHING = "nothing"
    LOGIN = "a login of its own, which its client renews upon a 401"
    OTHER = "another credential of its own"


class Gets(Enum):
    """What becomes of it."""

    UNTOUCHED = "what it would get if there were no members"
    SWAPPED = "an identity of the pool, for the member"
    IDENTIFIED = "the answer of whoami, made up for the member"
    TOOLLESS = "no tools"
    NOT_FOR_KEYS = "a 403: this is for a person with a login, or for nobody who has a key"
    WITHHELD = "a 403: a key does not leave for another host"
    REFUSED = "a 401"
    TOLD = "the reason, in the way in which a client shows it at once"


Row = Mapping[Asks, Gets]

_UNTOUCHED: Final[Row] = MappingProxyType(dict.fromkeys(Asks, Gets.UNTOUCHED))

_KEY: Final[Row] = MappingProxyType(
    {
        Asks.SWAP: Gets.SWAPPED,
        Asks.SOCKET: Gets.NOT_FOR_KEYS,
        Asks.LENT: Gets.SWAPPED,
        Asks.WHOAMI: Gets.IDENTIFIED,
        Asks.TOOLS: Gets.TOOLLESS,
        Asks.OWN: Gets.NOT_FOR_KEYS,
        Asks.API: Gets.WITHHELD,
        Asks.ELSEWHERE: Gets.WITHHELD,
    }
)

_BAD_KEY: Final[Row] = MappingProxyType(
    {
        **dict.fromkeys(Asks, Gets.REFUSED),
        Asks.API: Gets.WITHHELD,
        Asks.ELSEWHERE: Gets.WITHHELD,
    }
)

# After a whoami that was refused Codex goes on without a credential, at another API, and would say something after 14
# seconds only (docs/protocol.md, section 1a).
_LOST_KEY: Final[Row] = MappingProxyType(
    {
        **dict.fromkeys(Asks, Gets.REFUSED),
        Asks.SWAP: Gets.TOLD,
        Asks.SOCKET: Gets.TOLD,
        Asks.API: Gets.TOLD,
        Asks.WHOAMI: Gets.UNTOUCHED,
        Asks.ELSEWHERE: Gets.UNTOUCHED,
    }
)

TABLE: Final[Mapping[Access, Mapping[Brings, Row]]] = MappingProxyType(
    {
        Access.ANYONE: {
            Brings.KEY: _KEY,
            Brings.BAD_KEY: _BAD_KEY,
            Brings.LOST_KEY: _LOST_KEY,
            Brings.NOTHING: _UNTOUCHED,
            Brings.LOGIN: _UNTOUCHED,
            Brings.OTHER: _UNTOUCHED,
        },
        Access.MEMBERS: {
            Brings.KEY: _KEY,
            Brings.BAD_KEY: _BAD_KEY,
            Brings.LOST_KEY: _LOST_KEY,
            Brings.NOTHING: {
                **_UNTOUCHED,
                Asks.SWAP: Gets.REFUSED,
                Asks.SOCKET: Gets.REFUSED,
                Asks.API: Gets.TOLD,
            },
            Brings.LOGIN: {**_UNTOUCHED, Asks.SWAP: Gets.TOLD, Asks.SOCKET: Gets.TOLD},
            Brings.OTHER: {**_UNTOUCHED, Asks.SWAP: Gets.REFUSED, Asks.SOCKET: Gets.REFUSED},
        },
    }
)


def gets(brings: Brings, asks: Asks, access: Access) -> Gets:
    """What becomes of a request."""
    return TABLE[access][brings][asks]
