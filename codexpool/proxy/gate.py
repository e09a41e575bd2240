"""The gate: which member a request belongs to, and what it gets (`codexpool.members.access` has the table).

Keys are looked for in the whole head of a request (`codexpool.proxy.find_keys`), whatever its host. A request with a
key in the wrong place is refused.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.connection import Client

from codexpool.common.addresses import address_of, household, is_from_here, plain_address
from codexpool.config.model import Access, PoolConfig
from codexpool.members import register
from codexpool.members.access import TABLE, Outcome, Proof, Purpose
from codexpool.members.client_addresses import ClientAddresses
from codexpool.members.register import KeyStatus, Member, Register, key_status, refusal
from codexpool.protocol import endpoints, routes
from codexpool.protocol.hosts import plain
from codexpool.protocol.routes import NO_BACKEND, Policy, Route
from codexpool.proxy import replies, tracer
from codexpool.proxy.find_keys import carries_key, hide_key, key_of
from codexpool.proxy.mitm import options
from codexpool.proxy.proxy_user import identity_named
from codexpool.redaction import redact_text
from codexpool.traces.history import History
from codexpool.upkeep.keeper import Keeper

logger = logging.getLogger("codexpool")

# Bytes of a body that are read although the request is refused, or comes from an unknown address.
WORTH_READING: Final = 16 * 1024 * 1024
LONGEST_HEAD: Final = 64 * 1024  # bytes of the head of such a request
PATIENCE: Final = 5.0  # seconds that whoami waits for the pool to learn the accounts of its identities

# Hosts that a Codex client asks besides those of the backend (docs/protocol.md, sections 1 and 4).
FOR_CLIENTS: Final = frozenset({endpoints.AUTH_HOST, endpoints.API_HOST, "ab.chatgpt.com"})

MISPLACED: Final = "a member key is in a place where none belongs"
ELSEWHERE: Final = "a member key is valid for this pool only, and is not sent to other hosts"
NO_SOCKET: Final = "a member key opens no WebSocket but that of the model (codex/responses)"
MISSING: Final = (
    "this pool is for its members, and the request has no member key. Set CODEX_ACCESS_TOKEN to yours (at-pool-…), "
    "or ask the operator of this proxy for one: codexpool member add NAME"
)

REFUSALS: Final = frozenset({Outcome.REFUSED, Outcome.WITHHELD, Outcome.EXPLAINED})  # what counts against an address

_LOGIN: Final = re.compile(r"(?i:bearer) +eyJ")  # the access token of a login: a JWT


WITHOUT_KEY: Final = 'send your member key in a header: "Authorization: Bearer at-pool-…"'


class Denied(NamedTuple):
    """Why the holder of a key is not told anything: a status of HTTP, and the reason."""

    status: int
    why: str


@dataclass(slots=True)
class Entrance:
    """What a request gets, and why it is refused, if it is."""

    outcome: Outcome
    member: Member | None = None
    why: str = ""
    is_few: bool = True  # Its address has had few refusals lately.
    route: Route = NO_BACKEND
    is_bad_key: bool = False


UNTOUCHED: Final = Entrance(Outcome.UNTOUCHED)
OWN: Final = Entrance(Outcome.OWN)


class Gate:
    """Decides what requests get."""

    def __init__(self, history: History) -> None:
        self.on_loopback = True  # Only this machine can reach the proxy.
        self.lets_all = False  # mitmproxy's `proxyauth` has authenticated all clients.
        self.addresses = ClientAddresses()
        self._register = Register()
        self._names: frozenset[str] = frozenset()  # of all identities
        self._config: PoolConfig | None = None
        self._history = history
        self._warning = ""
        self._answered: WeakKeyDictionary[http.HTTPFlow, Entrance] = WeakKeyDictionary()

    @property
    def access(self) -> Access:
        """Who may use the pool. A proxy that others can reach never serves anyone."""
        if not self.on_loopback:
            return Access.MEMBERS
        return (self._config.access if self._config is not None else None) or Access.ANYONE

    def follow(self, config: PoolConfig | None) -> None:
        """Use the members of a configuration, and log once if it cannot be served as it is."""
        if config is self._config:
            return
        self._config = config
        identities = config.identities if config is not None else ()
        self._names = frozenset(identity.name for identity in identities)
        self._register = Register(config.members if config is not None else (), self._names)
        warning = ""
        if config is not None and config.access is Access.ANYONE and not self.on_loopback:
            warning = 'ignored access = "anyone": other machines can reach the proxy'
        elif config is not None and self.access is Access.MEMBERS and not config.members:
            warning = "this pool is for its members and has none. Add one: codexpool member add NAME"
        if warning and warning != self._warning:
            logger.warning("%s", warning)
        self._warning = warning

    @property
    def _routes(self) -> routes.Routes:
        return self._config.routes if self._config is not None else routes.AS_SHIPPED

    def may_go_on(self, member: Member | None) -> bool:
        """Return whether a request that was let in may still go on: its key is valid, or none is needed."""
        if member is None:
            return self.access is Access.ANYONE
        return self._register.is_still_valid(member, time.time())

    def works_from(self, address: str) -> bool:
        """Return whether a member has used this address lately and still has a valid key."""
        spec = self._register.specs.get(self.addresses.member_at(address, time.monotonic()))
        return spec is not None and key_status(spec, spec.key, time.time()) is KeyStatus.VALID

    def answers(self, flow: http.HTTPFlow) -> bool:
        """Return whether the gate answers a request, which must not leave."""
        return flow in self._answered

    def refuses_connection(self, client: Client, host: str, port: int, backends: frozenset[str]) -> str:
        """Return why the proxy does not connect a client to a host; empty if it does.

        If other machines can reach the proxy, it is not an open one: an unknown address gets only to the hosts that a
        Codex client asks before it sends its key. An address that a member's key came from lately gets everywhere
        (the tools of a client use the same proxy).
        """
        peer = client.peername
        if self.access is Access.ANYONE or self.lets_all or peer is None:
            return ""
        name = plain(host)
        if port == 443 and (name in FOR_CLIENTS or name in backends):
            return ""
        address = plain_address(peer[0])
        if self.works_from(household(address)) or (is_from_here(address) and not options.is_own_connection(peer)):
            return ""
        return "codexpool: this proxy is for the members of its pool, and no member has used it from your address yet"

    # -- the head of a request

    def enter(self, flow: http.HTTPFlow, route: Route, keeper: Keeper | None, closed: str) -> Entrance:
        """Decide what a request gets, by its headers. If the proxy answers it, `answer` does so later."""
        found = key_of(flow.request)
        if found is not None:
            hide_key(flow)
        if keeper is not None:
            self.follow(keeper.config)
            entrance = self._decide(flow, found, route.policy)
            self._note_address(flow, found, entrance)
        elif found is None:
            entrance = UNTOUCHED
        else:
            entrance = Entrance(Outcome.REFUSED, why=closed or "there is no pool here: no pool.toml was found")
        if entrance is not UNTOUCHED and entrance is not OWN:
            entrance.route = route
            if entrance.outcome is not Outcome.SWAPPED:
                self._keep(flow, entrance)
                _end_if_endless(flow)
        return entrance

    def consider(self, flow: http.HTTPFlow, policy: Policy) -> Entrance:
        """Return what a request would get, and note nothing. (Its key is hidden all the same.)"""
        if (found := key_of(flow.request)) is not None:
            hide_key(flow)
        return self._decide(flow, found, policy)

    def _decide(self, flow: http.HTTPFlow, found: bytes | None, policy: Policy) -> Entrance:
        return self._without_key(flow, policy) if found is None else self._with_key(flow, found, policy)

    def _note_address(self, flow: http.HTTPFlow, found: bytes | None, entrance: Entrance) -> None:
        """Note what an address came with; end a request without a key from an unknown one if it is too long."""
        if found is not None:
            address, now = source_of(flow), time.monotonic()
            if entrance.is_bad_key:
                self.addresses.note_bad_key(address, entrance.why, now)
            else:
                self.addresses.note_member(address, entrance.member.name if entrance.member else "", now)
        elif not self.on_loopback and (entrance is UNTOUCHED or entrance is OWN):
            address = source_of(flow)
            if not (self.lets_all or is_from_here(address) or self.works_from(address)):
                _end_if_endless(flow)

    def refuse(self, flow: http.HTTPFlow, why: str) -> None:
        """Refuse a request that carries a key, where there are no members."""
        hide_key(flow)
        self._keep(flow, Entrance(Outcome.WITHHELD, why=why))
        _end_if_endless(flow)

    def _without_key(self, flow: http.HTTPFlow, policy: Policy) -> Entrance:
        if self.access is Access.ANYONE and not self.addresses.has_bad_keys:
            return UNTOUCHED  # The table's answer to all requests without a key: nothing has to be looked up.
        proof, why = self._brought(flow)
        purpose = purpose_of(flow.request, policy)
        if purpose is Purpose.PERSONAL and self._routes.is_swapped_otherwise(flow.request.path.partition("?")[0]):
            purpose = Purpose.SWAP  # Another method is no way around the pool's paths.
        what = TABLE[self.access][proof][purpose]
        if what not in (Outcome.UNTOUCHED, Outcome.OWN):
            return Entrance(what, why=why)
        return OWN if what is Outcome.OWN else UNTOUCHED

    def _brought(self, flow: http.HTTPFlow) -> tuple[Proof, str]:
        """Return what a request without a key comes with, and the reason to refuse it with."""
        credential = flow.request.headers.get("authorization")
        if credential is not None:
            return (Proof.LOGIN if _LOGIN.match(credential) else Proof.OTHER), MISSING
        why = self.addresses.bad_key(source_of(flow), time.monotonic())
        return (Proof.LOST_KEY, why) if why else (Proof.NOTHING, MISSING)

    def _with_key(self, flow: http.HTTPFlow, found: bytes, policy: Policy) -> Entrance:
        now, purpose = time.time(), purpose_of(flow.request, policy)
        status, member = self._register.holder(found.decode("latin-1"), now) if found else (KeyStatus.UNKNOWN, None)
        if status is KeyStatus.VALID:
            what = TABLE[self.access][Proof.KEY][purpose]
            why = ELSEWHERE if what is Outcome.WITHHELD else NO_SOCKET if purpose is Purpose.SOCKET else ""
            return Entrance(what, self._narrowed(flow, member), why)
        why = refusal(status, member) if found else MISPLACED
        return Entrance(TABLE[self.access][Proof.BAD_KEY][purpose], member, why, is_bad_key=True)

    def holder(self, flow: http.HTTPFlow) -> Member | Denied:
        """Return the member whose key a request for the proxy itself has. Hides the key.

        It opens nothing: an address from which only such requests come is still a stranger's.
        """
        if (found := key_of(flow.request)) is None:
            return Denied(401, WITHOUT_KEY)
        hide_key(flow)
        status, member = (
            self._register.holder(found.decode("latin-1"), time.time()) if found else (KeyStatus.UNKNOWN, None)
        )
        if status is KeyStatus.VALID and member is not None:
            return member
        why, address = refusal(status, member) if found else f"{MISPLACED}; {WITHOUT_KEY}", source_of(flow)
        if not self.addresses.count_refusal(address, time.monotonic()):
            pause = self.addresses.pause(address, time.monotonic())
            return Denied(429, f"too many refused requests from your address: try again in {max(1, round(pause))} s")
        logger.warning("refused %s from %s: %s", flow.request.host, address, why)
        return Denied(401, why)

    def _narrowed(self, flow: http.HTTPFlow, member: Member | None) -> Member | None:
        """Return a member that only one identity serves if its client names one that it may use.

        So all that its client is told fits that identity: its plan, the policy of its workspace, its models.
        """
        name = identity_named(flow.client_conn)
        if member is None or name not in self._names:
            return member
        is_allowed = member.identities is None or name in member.identities
        return replace(member, identities=frozenset({name})) if is_allowed else member

    def _keep(self, flow: http.HTTPFlow, entrance: Entrance) -> None:
        if entrance.outcome in REFUSALS and entrance.why != ELSEWHERE:  # A member's slip does not count.
            entrance.is_few = self.addresses.count_refusal(source_of(flow), time.monotonic())
        self._answered[flow] = entrance

    # -- the answer, if that is up to us

    async def answer(self, flow: http.HTTPFlow, keeper: Keeper | None) -> None:
        """Answer a complete request that is not sent under an identity, if the gate decided to."""
        if flow not in self._answered and carries_key(flow.request):  # A key in its trailers.
            hide_key(flow)
            self._keep(flow, Entrance(Outcome.WITHHELD, why=MISPLACED))
        entrance = self._answered.get(flow)
        if entrance is not None and entrance.outcome is Outcome.IDENTIFIED and keeper is not None and entrance.member:
            flow.response = replies.document(await _whoami(keeper, entrance.member))
            flow.comment = f"codexpool: whoami of {entrance.member.name}"
        elif entrance is not None and entrance.outcome is Outcome.NO_TOOLS and keeper is not None:
            encoding = flow.request.headers.get("content-encoding", "")
            flow.response = replies.toolless(flow.request.raw_content or b"", encoding)
            flow.comment = "codexpool: no tools"
        else:
            self.answer_refusal(flow)

    def answer_refusal(self, flow: http.HTTPFlow) -> None:
        """Answer a request that is refused, if it is."""
        entrance = self._answered.get(flow)
        if entrance is None:
            return
        if entrance.outcome is Outcome.NOT_FOR_KEYS:
            flow.response = replies.not_for_members(entrance.why)
            flow.comment = "codexpool: not for member keys"
            return
        address = source_of(flow)
        # A member with a former key is not guessing, and a client shows a person nothing of a 429: both get their
        # reason however often they ask (a TUI asks twenty times in a second).
        if not (entrance.is_few or entrance.member is not None or entrance.outcome is Outcome.EXPLAINED):
            flow.response = replies.too_many(self.addresses.pause(address, time.monotonic()))
            return
        flow.response = _refusal(flow, entrance)
        flow.comment = f"codexpool: refused ({entrance.why})"
        if not entrance.is_few:
            return
        what = redact_text(f"{flow.request.method} {flow.request.host}")
        logger.warning("refused %s from %s: %s", what, address, entrance.why)
        if entrance.route.policy.swaps:
            tracer.turned_away(self._history, flow, entrance.route, entrance.why, flow.response.status_code)


def _refusal(flow: http.HTTPFlow, entrance: Entrance) -> http.Response:
    upgrade = flow.request.headers.get("upgrade", "").lower() == "websocket"
    own = flow.request.headers.get("chatgpt-account-id")
    match entrance.outcome:
        case Outcome.WITHHELD:
            return replies.withheld(entrance.why)
        case Outcome.EXPLAINED if entrance.route.policy is Policy.SWAP_IDS and own:
            return replies.discovered(own)  # Without it the client would not send the request that tells it why.
        case Outcome.EXPLAINED:
            return replies.unservable(f"codexpool: {entrance.why}", "", upgrade, None, False, 0.0)
        case _ if upgrade and entrance.member is not None:
            return replies.unservable("", "", upgrade, None, False, 0.0)
        case _:
            return replies.refused(entrance.why)


async def _whoami(keeper: Keeper, member: Member) -> dict[str, Any]:
    """Return the answer of whoami. After a start it waits a moment for the accounts of the identities."""
    ends = time.monotonic() + PATIENCE
    while (shown := register.shown_metadata(keeper.pool, member)) is None and (left := ends - time.monotonic()) > 0:
        if keeper.pool.lists_none:
            break
        await keeper.change(left)
    return register.whoami(member, shown)


def purpose_of(request: http.Request, policy: Policy) -> Purpose:
    """Return what a request is for."""
    data = request.data
    asked = data.path.decode("latin-1").partition("?")[0]
    path = routes.normalised(asked)  # Empty for the root, and for what no client sends.
    is_socket = "websocket" in request.headers.get("upgrade", "").lower()
    if policy.swaps:
        return Purpose.SOCKET if is_socket and path != endpoints.RESPONSES else Purpose.SWAP
    if policy in (Policy.LENT, Policy.LENT_TO_MEMBERS) and is_socket:
        return Purpose.PERSONAL
    if policy is Policy.LENT:
        return Purpose.QUOTA
    if policy is Policy.LENT_TO_MEMBERS:
        return Purpose.WORKSPACE
    if policy is Policy.OWN and (asked == "/" or (path and not path.startswith(endpoints.API_PATHS))):
        return Purpose.ELSEWHERE  # Pages for a browser.
    if policy is Policy.OWN:
        return Purpose.TOOLS if data.method == b"POST" and path == endpoints.MCP else Purpose.PERSONAL
    if data.scheme != b"https" or data.port != 443:
        return Purpose.ELSEWHERE
    match data.host.lower():
        case endpoints.API_HOST if path == endpoints.API_RESPONSES:
            return Purpose.API
        case endpoints.AUTH_HOST if path == endpoints.WHOAMI_PATH and data.method == b"GET":
            return Purpose.WHOAMI
        case _:
            return Purpose.ELSEWHERE


def source_of(flow: http.HTTPFlow) -> str:
    """Return the address that refusals are counted by: for IPv6 the network of one household."""
    return household(address_of(flow.client_conn.peername))


def _end_if_endless(flow: http.HTTPFlow) -> None:
    """Kill a request that may be too long to be read to its end, which is when it would be answered."""
    headers = flow.request.headers
    length = headers.get("content-length", "0")
    head = sum(len(name) + len(value) for name, value in headers.fields) + len(flow.request.data.path)
    is_short = length.isdigit() and int(length[:20]) <= WORTH_READING and "transfer-encoding" not in headers
    if not is_short or head > LONGEST_HEAD:
        flow.kill()
