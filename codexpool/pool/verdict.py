"""What an answer says about the request, about the credential and about the identity.

`classify` is a total function over `TABLE`: the first row that fits is the verdict. The row numbers are those of
docs/protocol.md, section 9.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from codexpool.pool.identity import Kind


class Finding(StrEnum):
    """What the answer was taken for."""

    OK = "ok"
    STALE = "stale"
    EDGE = "edge"
    NOT_FOR_THIS_CREDENTIAL = "not for this credential"
    NOT_FOR_THIS_MODEL = "not for this model"
    NOT_ON_THIS_ENDPOINT = "not on this endpoint"
    UNCLEAR = "unclear"
    WORKSPACE = "workspace"
    REFUSED = "refused"
    LIMITED = "limited"
    THROTTLED = "throttled"
    NOT_PORTABLE = "not portable"
    OVERLOADED = "overloaded"
    UPSTREAM = "upstream"
    OWN = "the request's own"


class Next(StrEnum):
    """What becomes of the request."""

    RELAY = "relay"
    SAME = "same identity, new bearer"
    RENEWED = "same identity once its credential is renewed, else the next one"
    OTHER = "next identity"
    ELSEWHERE = "next identity, and relay if every one says so"
    ONCE = "next identity once, then relay"
    LIGHTER = "same identity once, with the encrypted reasoning items left out"
    AGAIN = "same identity once, then relay"


MAY_BE_ITS_OWN = frozenset({Next.ONCE, Next.ELSEWHERE})
"""What becomes of a request that others are tried for, and whose answer is relayed where nobody is left."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What classifying needs to know of an answer, and of the attempt that it is for.

    ``status`` is 0 where the connection was lost before the first byte. ``current`` says whether the attempt's bearer
    still is the identity's current one, ``kind`` what kind it is of, ``repeatable`` whether the request may be made
    twice: it was not sent, or cannot have begun to act (see `codexpool.protocol.routes`), ``lightens`` whether it has
    encrypted reasoning that can be left out. ``side`` says that a side endpoint was asked, ``own`` that the refusal
    is the request's own, because enough identities have changed over it (see `codexpool.pool.causes`).
    """

    status: int
    current: bool = True
    html: bool = False
    mitigated: bool = False
    code: str = ""
    message: str = ""
    kind: Kind = Kind.PAT
    repeatable: bool = False
    lightens: bool = False
    side: bool = False
    own: bool = False

    @property
    def from_edge(self) -> bool:
        """Said by the content network in front of the backend: never a word about a credential."""
        return self.html or self.mitigated

    @property
    def speaks_of_endpoint(self) -> bool:
        """The error is about what this credential may ask for, not about whether it is valid."""
        return self.code in ENDPOINT_CODES or any(words in self.message for words in ENDPOINT_WORDS)

    @property
    def speaks_of_model(self) -> bool:
        """The account does not have the model that is asked; another one may have it."""
        return self.status == 400 and named_model(self.message) is not None

    @property
    def is_not_portable(self) -> bool:
        """The request has encrypted reasoning that another account has issued (openai/codex #13724)."""
        return self.status == 400 and self.code == NOT_PORTABLE

    @property
    def speaks_of_workspace(self) -> bool:
        """The account is not served any more, whatever its token."""
        return self.status == 402 or (self.status == 403 and any(word in self.code for word in WORKSPACE_WORDS))

    @property
    def is_sides_own(self) -> bool:
        """A side endpoint turns the identity away, whatever its token."""
        return self.side and self.status in (402, 403, 429)


NOT_PORTABLE = "invalid_encrypted_content"

WORKSPACE_WORDS = ("workspace", "account_deactivated", "account_suspended", "organization_disabled")
"""What is in the codes with which the backend turns a whole workspace away (``deactivated_workspace``, …)."""

LIMIT_CODES = frozenset({"usage_limit_reached", "usage_not_included", "insufficient_quota"})
"""How the backend says that an account has used up what it had, or has none of it (docs/protocol.md, section 6c)."""

OVERLOAD_CODES = frozenset({"server_is_overloaded", "slow_down"})
"""The model is at capacity, for everybody: the client shows that at once, and to wait is up to the person."""

ENDPOINT_CODES = frozenset({"no_matching_rule", "rejected_by_access_enforcement", "missing_scopes"})
ENDPOINT_WORDS = ("Missing scopes",)
"""How the backend says "not with this credential" (openai/codex #33664 for the scopes). Access rules belong to one
workspace or one token."""

ADDRESS_CODES = frozenset({"unsupported_country_region_territory"})
"""403s that are about the address the request comes from: every identity would get them."""

DEAD_TOKEN_CODES: Final[Mapping[str, str]] = {
    "token_revoked": "openai/codex pull request 23563, issue 13118",
    "token_invalidated": "openai/codex pull request 23563; router-for-me/CLIProxyAPI issue 3654",
    "token_expired": "ztjhz/BetterChatGPT issue 419; Kohaku-Lab/KohakuTerrarium pull request 304",
    "account_deactivated": "cnlimiter/codex-manager issue 118",
}
"""Codes of a 401 that say a token is dead, in lower case, and where they were seen. A 401 without one says nothing of
the token: proxies, firewalls and content networks answer 401 and 403 in JSON too."""


def says_dead(status: int, code: str, is_json: bool, from_edge: bool) -> bool:
    """Whether an answer says that the token it was asked with is dead. ``from_edge``: see `Answer.from_edge`."""
    return status == 401 and is_json and not from_edge and code.lower() in DEAD_TOKEN_CODES


_MODEL_WORDS = re.compile(r"The '(?P<model>.*)' model is not supported\b")
"""How the backend says that an account does not have a model (openai/codex #6603, #19654)."""


def named_model(message: str) -> str | None:
    """The model that an account does not have, as a refusal names it; None where it speaks of something else.

    Only the beginning of a message is the backend's own words: what follows may repeat what the client has sent.
    """
    match = _MODEL_WORDS.match(message)
    return match["model"] if match is not None else None


class Row(NamedTuple):
    """One row: its number in docs/protocol.md, section 9, when it fits, and what follows."""

    number: str
    fits: Callable[[Answer], bool]
    finding: Finding
    next: Next


TABLE = (
    Row("1", lambda a: 0 < a.status < 400, Finding.OK, Next.RELAY),
    Row("2", lambda a: a.status in (401, 403) and not a.current, Finding.STALE, Next.SAME),
    Row("3", lambda a: a.status in (403, 429, 503) and a.from_edge, Finding.EDGE, Next.RELAY),
    Row("3a", lambda a: a.status == 401 and a.from_edge, Finding.EDGE, Next.OTHER),
    Row("3b", lambda a: a.status == 403 and a.code in ADDRESS_CODES, Finding.OWN, Next.RELAY),
    Row("4", lambda a: a.status in (401, 403) and a.speaks_of_endpoint, Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    Row("4a", lambda a: a.speaks_of_model, Finding.NOT_FOR_THIS_MODEL, Next.OTHER),
    Row("5a", lambda a: a.own and (a.speaks_of_workspace or a.is_sides_own), Finding.OWN, Next.ELSEWHERE),
    Row("5b", lambda a: a.is_sides_own, Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    Row("5", lambda a: a.speaks_of_workspace, Finding.WORKSPACE, Next.OTHER),
    Row("4b", lambda a: a.status == 403, Finding.UNCLEAR, Next.ONCE),
    Row("6", lambda a: a.status == 401 and a.kind is Kind.OAUTH, Finding.REFUSED, Next.RENEWED),
    Row("7", lambda a: a.status == 401 and a.kind is Kind.PAT, Finding.REFUSED, Next.OTHER),
    Row("8", lambda a: a.status == 401 and a.kind is Kind.COMMAND, Finding.REFUSED, Next.RENEWED),
    Row("10", lambda a: a.status == 429 and a.code in LIMIT_CODES, Finding.LIMITED, Next.OTHER),
    Row("11", lambda a: a.status == 429, Finding.THROTTLED, Next.OTHER),
    Row("12", lambda a: a.is_not_portable and a.lightens, Finding.NOT_PORTABLE, Next.LIGHTER),
    Row("13a", lambda a: a.status == 503 and a.code in OVERLOAD_CODES, Finding.OVERLOADED, Next.RELAY),
    Row("13", lambda a: a.status in (0, 502, 503, 504) and a.repeatable, Finding.UPSTREAM, Next.AGAIN),
    Row("13b", lambda a: a.status in (0, 502, 503, 504), Finding.UPSTREAM, Next.RELAY),
    Row("14", lambda a: True, Finding.OWN, Next.RELAY),
)
"""The verdicts. Row 9 (a 401 at the WebSocket handshake alone condemns nobody) holds by construction: no row
condemns, only the word of whoami or of the token endpoint does. Rows with a letter are ours:

- 5a: what enough identities were put out for is the request's own. It is still tried under the others, one of which
  may serve it, changes none of them, and is relayed if all say so. (A 401 never is, and a limit leads to whoever has
  none: rows 6 to 11 stay as they are, and `codexpool.proxy.judge.learn` changes less.)
- 5b: what a side endpoint says counts for that endpoint, and never for the identity.
- 3b: what is about the proxy's address is the same under every identity.
- 3a: a 401 page of the content network must not reach the client, which would answer it by rotating a refresh token
  of its own; and row 3 holds for its 429 too, which is about the proxy's address, and about no account.
- 13a: that the model is at capacity is the client's to see, and says nothing of an identity.
- 13b: what cannot be made twice is relayed. (A 500 is no trouble on the way: it is the request's own.)"""


class Verdict(NamedTuple):
    """A row's word on one attempt."""

    row: str
    finding: Finding
    next: Next


def classify(answer: Answer) -> Verdict:
    """The verdict on an answer: the first row of the table that fits."""
    row = next(row for row in TABLE if row.fits(answer))
    return Verdict(row.number, row.finding, row.next)


def says_enough(status: int) -> bool:
    """Whether an answer can be judged by its status alone, should its connection be lost before its body has come.

    A 400 cannot: whether it is the request's own fault, the model's or the identity's is in its body, and a client
    takes it for final.
    """
    return status in (401, 402, 403, 429)


def is_held(status: int) -> bool:
    """Whether an answer is kept until its verdict is known; all others are streamed from their first byte.

    Any refusal is: it may have to be acted upon, and it may repeat the token that it refuses.
    """
    return status >= 400
