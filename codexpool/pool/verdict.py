"""What an answer says about the request, the credential and the identity: the first row of `TABLE` that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from codexpool.pool.identity import Kind


class Finding(StrEnum):
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
    RELAY = "relay"
    SAME = "same identity, new bearer"
    RENEWED = "same identity once its credential is renewed, else the next one"
    OTHER = "next identity"
    ELSEWHERE = "next identity, and relay if every one says so"
    ONCE = "next identity once, then relay"
    LIGHTER = "same identity once, with the encrypted reasoning items left out"
    AGAIN = "same identity once, then relay"


MAY_BE_ITS_OWN = frozenset({Next.ONCE, Next.ELSEWHERE})
"""The answer may be the request's own: others are tried, and it is relayed if none is left."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What of an answer and its attempt decides the verdict.

    ``status`` is 0 if the connection was lost before the first byte. ``current``: the attempt's token is still the
    identity's, of the given ``kind``. ``repeatable``: the request may be made twice; it was not sent, or cannot have
    begun to act (see `codexpool.protocol.routes`). ``lightens``: it has encrypted reasoning that can be left out.
    ``side``: a side endpoint was asked. ``own``: the refusal is the request's own (see `codexpool.pool.causes`).
    """

    status: int
    current: bool = True
    from_edge: bool = False  # Sent by the content network in front of the backend: it says nothing about a token.
    code: str = ""
    message: str = ""
    kind: Kind = Kind.PAT
    repeatable: bool = False
    lightens: bool = False
    side: bool = False
    own: bool = False
    is_usage: bool = False  # It only asked what is left.

    @property
    def speaks_of_endpoint(self) -> bool:
        """The error is about what this credential may ask for, not about whether it is valid."""
        return self.code in ENDPOINT_CODES or MISSING_SCOPES in self.message

    @property
    def speaks_of_model(self) -> bool:
        return self.status == 400 and named_model(self.message) is not None

    @property
    def is_not_portable(self) -> bool:
        return self.status == 400 and self.code == NOT_PORTABLE

    @property
    def speaks_of_workspace(self) -> bool:
        """The account is no longer served, whatever its token."""
        return self.status == 402 or (self.status == 403 and any(word in self.code for word in WORKSPACE_WORDS))

    @property
    def is_of_agents_side(self) -> bool:
        """A side endpoint refuses an agent, and does not say that its task is no longer valid."""
        return self.status == 401 and self.kind is Kind.AGENT and self.side and self.code not in TASK_CODES

    @property
    def is_sides_own(self) -> bool:
        """A side endpoint refuses the identity, whatever its token."""
        return self.side and self.status in (402, 403, 429)


NOT_PORTABLE = "invalid_encrypted_content"  # Another account issued its encrypted reasoning (openai/codex #13724).

WORKSPACE_WORDS = ("workspace", "account_deactivated", "account_suspended", "organization_disabled")
"""What the codes contain with which the backend refuses a whole workspace (``deactivated_workspace``, …)."""

LIMIT_CODES = frozenset({"usage_limit_reached", "usage_not_included", "insufficient_quota"})
"""An account has used up what it had, or has none of it (docs/protocol.md, section 6c)."""

OVERLOAD_CODES = frozenset({"server_is_overloaded", "slow_down"})  # The model is at capacity for every account.

ENDPOINT_CODES = frozenset({"no_matching_rule", "rejected_by_access_enforcement", "missing_scopes"})
MISSING_SCOPES = "Missing scopes"
"""Not with this credential (openai/codex #33664 for the scopes). Access rules belong to one workspace or token."""

ADDRESS_CODES = frozenset({"unsupported_country_region_territory"})  # About the address: no identity helps.

DEAD_TOKEN_CODES: Final[Mapping[str, str]] = {
    "token_revoked": "openai/codex pull request 23563, issue 13118",
    "token_invalidated": "openai/codex pull request 23563; router-for-me/CLIProxyAPI issue 3654",
    "token_expired": "ztjhz/BetterChatGPT issue 419; Kohaku-Lab/KohakuTerrarium pull request 304",
    "account_deactivated": "cnlimiter/codex-manager issue 118",
}
"""Codes of a 401 that say a token is dead, in lower case, and where they were seen. A 401 without one says nothing
about the token: proxies, firewalls and content networks answer 401 and 403 in JSON too."""

TASK_CODES = frozenset({"invalid_task_id", "task_not_found", "task_expired"})
"""Codes of a 401 after which another task of an agent is accepted (Wei-Shaw/sub2api pull request 4269)."""

_MODEL_WORDS = re.compile(r"The '(?P<model>.*)' model is not supported\b")  # openai/codex #6603, #19654.


def says_dead(status: int, code: str, is_json: bool, from_edge: bool) -> bool:
    """Return whether an answer says that its token is dead. ``from_edge``: see `Answer.from_edge`."""
    return status == 401 and is_json and not from_edge and code.lower() in DEAD_TOKEN_CODES


def named_model(message: str) -> str | None:
    """Return the model that an account does not have, if a refusal is about that.

    Only the beginning of a message is the backend's own words: the rest may repeat what the client sent.
    """
    match = _MODEL_WORDS.match(message)
    return match["model"] if match is not None else None


class Row(NamedTuple):
    """One row: its number in docs/protocol.md section 9, when it fits, and what follows."""

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
    Row("4c", lambda a: a.is_usage and a.status in (401, 402, 403, 429), Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    Row("5a", lambda a: a.own and (a.speaks_of_workspace or a.is_sides_own), Finding.OWN, Next.ELSEWHERE),
    Row("5b", lambda a: a.is_sides_own, Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    Row("5", lambda a: a.speaks_of_workspace, Finding.WORKSPACE, Next.OTHER),
    Row("4b", lambda a: a.status == 403, Finding.UNCLEAR, Next.ONCE),
    Row("6", lambda a: a.status == 401 and a.kind is Kind.OAUTH, Finding.REFUSED, Next.RENEWED),
    Row("7", lambda a: a.status == 401 and a.kind is Kind.PAT, Finding.REFUSED, Next.OTHER),
    Row("8", lambda a: a.status == 401 and a.kind is Kind.COMMAND, Finding.REFUSED, Next.RENEWED),
    Row("8b", lambda a: a.is_of_agents_side, Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    Row("8a", lambda a: a.status == 401 and a.kind is Kind.AGENT, Finding.REFUSED, Next.RENEWED),
    Row("10", lambda a: a.status == 429 and a.code in LIMIT_CODES, Finding.LIMITED, Next.OTHER),
    Row("11", lambda a: a.status == 429, Finding.THROTTLED, Next.OTHER),
    Row("12", lambda a: a.is_not_portable and a.lightens, Finding.NOT_PORTABLE, Next.LIGHTER),
    Row("13a", lambda a: a.status == 503 and a.code in OVERLOAD_CODES, Finding.OVERLOADED, Next.RELAY),
    Row("13", lambda a: a.status in (0, 502, 503, 504) and a.repeatable, Finding.UPSTREAM, Next.AGAIN),
    Row("13b", lambda a: a.status in (0, 502, 503, 504), Finding.UPSTREAM, Next.RELAY),
    Row("14", lambda a: True, Finding.OWN, Next.RELAY),
)
"""The verdicts. No row condemns an identity, not even for a 401: only whoami or the token endpoint does (row 9). Rows
with a letter are ours:

- 3, 3a: a page of the content network is about the proxy's address, its 429 too. A 401 page must not reach the
  client, which would answer it by spending its own refresh token.
- 3b: what is about the proxy's address is the same under every identity.
- 4c: every client asks this all the time, and a token may lack the right to ask: only a turn puts it in doubt.
- 5a: what enough identities were refused for is the request's own. It is still tried under the others, changes none
  of them, and is relayed if all refuse. (Not so a 401 or a limit: see `codexpool.proxy.judge.learn`.)
- 5b: what a side endpoint says counts for that endpoint, never for the identity.
- 8a: a new task of an agent is registered, once: the next one that is refused soon has the identity rest.
- 8b: side endpoints refuse agents whose turns are served (openai/codex pull request 19635).
- 13a: the client should see that the model is at capacity; it says nothing about an identity.
- 13b: what cannot be made twice is relayed. (A 500 is the request's own.)
"""


class Verdict(NamedTuple):
    row: str
    finding: Finding
    next: Next


def classify(answer: Answer) -> Verdict:
    """Return the verdict of the first row of the table that fits."""
    row = next(row for row in TABLE if row.fits(answer))
    return Verdict(row.number, row.finding, row.next)


def says_enough(status: int) -> bool:
    """Return whether an answer can be judged by its status alone, if its connection is lost before its body has come.

    A 400 cannot: its body says whether the fault is the request's, the model's or the identity's.
    """
    return status in (401, 402, 403, 429)


def is_held(status: int) -> bool:
    """Return whether an answer is kept until its verdict is known. (It may repeat the token that it refuses.)"""
    return status >= 400
