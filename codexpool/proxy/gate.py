"""The gate: whose a request is, as its key says, and what it gets for that (`codexpool.members.access` has a table).

A key is looked for in everything a request begins with (`codexpool.proxy.find_keys`), whatever host it is for, and
what carries one where it does not belong does not pass.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from mitmproxy import http

from codexpool.common.addresses import address_of, household, is_from_here
from codexpool.config import PoolConfig
from codexpool.config.model import Access
from codexpool.members import persona
from codexpool.members.access import Asks, Brings, Gets, gets
from codexpool.members.register import Member, Register, Standing, refusal, standing
from codexpool.members.strangers import Strangers
from codexpool.protocol import endpoints, routes
from codexpool.protocol.routes import Policy
from codexpool.proxy import replies, tracer
from codexpool.proxy.find_keys import carries_key, hide_key, key_of
from codexpool.redaction import redact_text
from codexpool.traces.history import History
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")

WORTH_READING: Final = 16 * 1024 * 1024
"""Bytes of a body that is read to its end although its request is refused, or is a stranger's."""

LONGEST_HEAD: Final = 64 * 1024
"""Bytes of the headers of such a request: more than that is not kept for anybody to look at."""

MISPLACED: Final = "a member key stands where it does not belong"

PATIENCE: Final = 5.0
"""Seconds that whoami waits for the pool to know itself."""

MISSING: Final = (
    "this pool is for its members, and the request has no member key. Set CODEX_ACCESS_TOKEN to yours (at-pool-…), "
    "or ask whoever runs this proxy for one: codexpool member add NAME"
)


@dataclass(slots=True)
class Entrance:
    """What a request gets; ``why`` where it is refused. ``is_few``: its address has not been refused too often."""

    gets: Gets
    member: Member | None = None
    why: str = ""
    is_few: bool = True
    policy: Policy = Policy.NEVER


NO_SOCKET: Final = "a member key opens no WebSocket but the model's (codex/responses)"

ELSEWHERE: Final = "a member key opens this pool only, and does not leave for another host"

UNTOUCHED: Final = Entrance(Gets.UNTOUCHED)

REFUSALS: Final = frozenset({Gets.REFUSED, Gets.WITHHELD, Gets.TOLD})
"""What is counted against an address."""

ACCOUNT: Final = "chatgpt-account-id"

_LOGIN: Final = re.compile(r"(?i:bearer) +eyJ")
"""The access token of a login: a JWT."""


class Gate:
    """Who comes in. ``on_loopback`` says that only this machine can reach the proxy, ``lets_all`` that mitmproxy's
    `proxyauth` has seen to who can."""

    def __init__(self, history: History) -> None:
        self.on_loopback = True
        self.lets_all = False
        self.strangers = Strangers()
        self._register = Register()
        self._config: PoolConfig | None = None
        self._history = history
        self._said = ""
        self._answered: WeakKeyDictionary[http.HTTPFlow, Entrance] = WeakKeyDictionary()

    @property
    def access(self) -> Access:
        """Who may use the pool. On an address that others can reach that is never anyone."""
        if not self.on_loopback or self._config is None:
            return Access.ANYONE if self.on_loopback else Access.MEMBERS
        return self._config.access or Access.ANYONE

    def follow(self, config: PoolConfig | None) -> None:
        """Take over the members of a configuration."""
        if config is not self._config:
            self._config = config
            names = [identity.name for identity in config.identities] if config is not None else []
            self._register = Register(config.members if config is not None else (), names)
            if config is not None:
                self._say(config)

    def _say(self, config: PoolConfig) -> None:
        """Have the log say whom the pool is for, as often as that changes."""
        said = ""
        if config.access is Access.ANYONE and not self.on_loopback:
            said = 'access = "anyone" is not followed: others than this machine can reach the proxy'
        elif self.access is Access.MEMBERS and not config.members:
            said = "this pool is for its members, and there is none yet: codexpool member add NAME"
        if said and said != self._said:
            logger.warning("%s", said)
        self._said = said

    def may_go_on(self, member: Member | None) -> bool:
        """Whether what was let in may go on: a key that it came with has not been taken away, and what came without
        one still does not need any."""
        if member is None:
            return self.access is Access.ANYONE
        return self._register.still_holds(member, time.time())

    def works_from(self, address: str) -> bool:
        """Whether somebody works from an address who is a member still."""
        now = time.time()
        spec = self._register.specs.get(self.strangers.member_at(address, time.monotonic()))
        return spec is not None and standing(spec, spec.key, now) is Standing.VALID

    def answers(self, flow: http.HTTPFlow) -> bool:
        """Whether a request has its answer from here, and must not leave."""
        return flow in self._answered

    # -- a request

    def enter(self, flow: http.HTTPFlow, policy: Policy, keeper: Keeper | None, closed: str) -> Entrance:
        """What a request gets whose headers have come. Where that is an answer of ours, `answer` gives it later."""
        request = flow.request
        found = key_of(request)
        if found is None:
            return self._without_key(flow, policy, keeper)
        hide_key(flow)
        if keeper is None:
            entrance = Entrance(Gets.REFUSED, why=closed or "there is no pool here: no pool.toml was found")
        else:
            self.follow(keeper.config)
            entrance = self._with_key(flow, found, asks(request, policy))
        entrance.policy = policy
        if entrance.gets is not Gets.SWAPPED:
            self._keep(flow, entrance)
            _end_if_endless(flow)
        return entrance

    def refuse(self, flow: http.HTTPFlow, why: str) -> None:
        """Have a request refused that carries a key, where there are no members."""
        hide_key(flow)
        self._keep(flow, Entrance(Gets.WITHHELD, why=why))
        _end_if_endless(flow)

    def _without_key(self, flow: http.HTTPFlow, policy: Policy, keeper: Keeper | None) -> Entrance:
        if keeper is None:
            return UNTOUCHED
        self.follow(keeper.config)
        if self.access is Access.ANYONE and not self.strangers.has_bad_keys:
            return UNTOUCHED  # As the table says of everything that comes without a key.
        brings, why = self._brought(flow)
        asked = asks(flow.request, policy)
        if asked is Asks.OWN and routes.is_swapped_otherwise(flow.request.path.partition("?")[0]):
            asked = Asks.SWAP  # Another method is no way around the pool's paths.
        what = gets(brings, asked, self.access)
        if what is Gets.UNTOUCHED:
            if self._is_strange(source_of(flow)):
                _end_if_endless(flow)
            return UNTOUCHED
        entrance = Entrance(what, why=why, policy=policy)
        self._keep(flow, entrance)
        _end_if_endless(flow)
        return entrance

    def _is_strange(self, address: str) -> bool:
        """Whether nothing is known of whoever comes from an address, not even that it is this machine."""
        return not (self.on_loopback or self.lets_all or is_from_here(address) or self.works_from(address))

    def _brought(self, flow: http.HTTPFlow) -> tuple[Brings, str]:
        """What a request comes with that has no key, and what it would be told."""
        credential = flow.request.headers.get("authorization")
        if credential is not None:
            return (Brings.LOGIN if _LOGIN.match(credential) else Brings.OTHER), MISSING
        if self.strangers.has_bad_keys and (why := self.strangers.bad_key(source_of(flow), time.monotonic())):
            return Brings.LOST_KEY, why
        return Brings.NOTHING, MISSING

    def _with_key(self, flow: http.HTTPFlow, found: bytes, asked: Asks) -> Entrance:
        now = time.time()
        standing, member = self._register.holder(found.decode("latin-1"), now) if found else (Standing.UNKNOWN, None)
        brings = Brings.KEY if standing is Standing.VALID else Brings.BAD_KEY
        what = gets(brings, asked, self.access)
        if standing is Standing.VALID:
            self.strangers.member_came(source_of(flow), member.name if member else "", time.monotonic())
            why = ELSEWHERE if what is Gets.WITHHELD else NO_SOCKET if asked is Asks.SOCKET else ""
            return Entrance(what, member, why)
        why = refusal(standing, member) if found else MISPLACED
        self.strangers.bad_key_came(source_of(flow), why, time.monotonic())
        return Entrance(what, member, why)

    def _keep(self, flow: http.HTTPFlow, entrance: Entrance) -> None:
        is_members_own = entrance.why == ELSEWHERE  # A slip of who is welcome is not held against an address.
        if entrance.gets in REFUSALS and not is_members_own:
            entrance.is_few = self.strangers.refused(source_of(flow), time.monotonic())
        self._answered[flow] = entrance

    # -- its answer, if that is ours

    async def answer(self, flow: http.HTTPFlow, keeper: Keeper | None) -> None:
        """Answer a request that gets neither an identity nor what it would get without members. It is whole: a key
        may have come at its end."""
        if flow not in self._answered and carries_key(flow.request):
            hide_key(flow)
            self._keep(flow, Entrance(Gets.WITHHELD, why=MISPLACED))
        entrance = self._answered.get(flow)
        if entrance is None or keeper is None or entrance.member is None:
            self.answer_refusal(flow)
        elif entrance.gets is Gets.IDENTIFIED:
            flow.response = replies.document(await _whoami(keeper, entrance.member))
            flow.comment = f"codexpool: whoami of {entrance.member.name}"
        elif entrance.gets is Gets.TOOLLESS:
            encoding = flow.request.headers.get("content-encoding", "")
            flow.response = replies.toolless(flow.request.raw_content or b"", encoding)
            flow.comment = "codexpool: no tools"
        else:
            self.answer_refusal(flow)

    def answer_refusal(self, flow: http.HTTPFlow) -> None:
        """Answer a request that is refused, if it is."""
        entrance = self._answered.get(flow)
        if entrance is not None and entrance.gets is Gets.NOT_FOR_KEYS:
            flow.response = replies.not_for_members(entrance.why)
            flow.comment = "codexpool: not for member keys"
        elif entrance is not None:
            self._refuse(flow, entrance)

    def _refuse(self, flow: http.HTTPFlow, entrance: Entrance) -> None:
        address = source_of(flow)
        # Who holds a member's former key does not guess, and a client that is to show a person why shows nothing of a
        # 429: both get their answer however often they ask (a TUI asks twenty times in a second).
        is_answered = entrance.is_few or entrance.member is not None or entrance.gets is Gets.TOLD
        if not is_answered:
            flow.response = replies.too_many(self.strangers.pause(address, time.monotonic()))
            return
        flow.response = _refusal(flow, entrance)
        flow.comment = f"codexpool: refused ({entrance.why})"
        if not entrance.is_few:
            return
        what = redact_text(f"{flow.request.method} {flow.request.host}")
        logger.warning("%s: %s is refused: %s", address, what, entrance.why)
        if entrance.policy.swaps:
            status = flow.response.status_code
            tracer.turned_away(self._history, flow, entrance.policy, entrance.why, status)


def _refusal(flow: http.HTTPFlow, entrance: Entrance) -> http.Response:
    """What a request is told that is refused."""
    upgrade = flow.request.headers.get("upgrade", "").lower() == "websocket"
    match entrance.gets:
        case Gets.WITHHELD:
            return replies.withheld(entrance.why)
        case Gets.TOLD if entrance.policy is Policy.SWAP_IDS and (own := flow.request.headers.get(ACCOUNT)):
            return replies.discovered(own)  # A client that has none would not ask what tells it.
        case Gets.TOLD:
            return replies.unservable(f"codexpool: {entrance.why}", "", upgrade, None, False, 0.0)
        case _ if upgrade and entrance.member is not None:
            return replies.unservable("", "", upgrade, None, False, 0.0)
        case _:
            return replies.refused(entrance.why)


async def _whoami(keeper: Keeper, member: Member) -> dict[str, Any]:
    """The answer of whoami, once it is known of somebody whose token that is: after a start that takes a moment."""
    ends = time.monotonic() + PATIENCE
    while (shown := persona.face(keeper.pool, member)) is None and (left := ends - time.monotonic()) > 0:
        await keeper.change(left)
    return persona.whoami(member, shown)


def asks(request: http.Request, policy: Policy) -> Asks:
    """What a request is for."""
    data = request.data
    if policy.swaps:
        path = routes.normalised(data.path.decode("latin-1").partition("?")[0])
        is_socket = "websocket" in request.headers.get("upgrade", "").lower()
        return Asks.SOCKET if is_socket and path != endpoints.RESPONSES else Asks.SWAP
    if policy is Policy.LENT:
        return Asks.LENT
    asked = data.path.decode("latin-1").partition("?")[0]
    path = routes.normalised(asked)  # Empty for what no client sends, and for the root.
    if policy is Policy.OWN and (asked == "/" or (path and not path.startswith(endpoints.API_PATHS))):
        return Asks.ELSEWHERE  # Pages for a browser.
    if policy is Policy.OWN:
        return Asks.TOOLS if data.method == b"POST" and path == endpoints.MCP else Asks.OWN
    if data.scheme != b"https" or data.port != 443:
        return Asks.ELSEWHERE
    match data.host.lower():
        case endpoints.API_HOST if path == endpoints.API_RESPONSES:
            return Asks.API
        case endpoints.AUTH_HOST if path == endpoints.WHOAMI_PATH and data.method == b"GET":
            return Asks.WHOAMI
        case _:
            return Asks.ELSEWHERE


def source_of(flow: http.HTTPFlow) -> str:
    """Where a request comes from, as refusals are counted: of IPv6 the network of one household."""
    return household(address_of(flow.client_conn.peername))


def _end_if_endless(flow: http.HTTPFlow) -> None:
    """End a request at once that may be longer than it is worth: its answer could only follow all of it."""
    headers = flow.request.headers
    length = headers.get("content-length", "0")
    head = sum(len(name) + len(value) for name, value in headers.fields) + len(flow.request.data.path)
    is_short = length.isdigit() and int(length[:20]) <= WORTH_READING and "transfer-encoding" not in headers
    if not is_short or head > LONGEST_HEAD:
        flow.kill()
