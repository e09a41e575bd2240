"""Who comes in, without a proxy around it: a key opens the pool, and neither stays in a flow nor leaves."""

from __future__ import annotations

import base64
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from codexpool.config.model import Access, MemberSpec, PoolConfig
from codexpool.pool.selection import Selection
from codexpool.protocol import routes
from codexpool.protocol.routes import Policy
from codexpool.proxy.find_keys import carries_key, hide_key
from codexpool.proxy.flows import Passthrough, Serving
from codexpool.proxy.gate import LONGEST_HEAD, WORTH_READING, Denied
from codexpool.proxy.observe.handler import ObserveHandler
from codexpool.proxy.serving import SwapHandler
from codexpool.tokens.member_key import hashed
from codexpool.traces.history import History
from tests.proxy.still_keeper import StillKeeper, flow
from tests.running import key_of

KEY = key_of("ann")
MEMBERS = tuple(MemberSpec(name, hashed(key_of(name)), 1) for name in ("ann", "bob"))
FAR = ("10.9.8.7", 40_000)
BASIC = base64.b64encode(f"ann:{KEY}".encode()).decode()


def config(*members: MemberSpec, access: Access | None = Access.MEMBERS) -> PoolConfig:
    return PoolConfig(Path("pool.toml"), Selection.DRAIN_FIRST, (), access=access, members=members or MEMBERS)


@pytest.fixture
def keeper() -> StillKeeper:
    keeper = StillKeeper("first", "second")
    keeper.config = config()
    return keeper


@pytest.fixture
def exchanges(keeper: StillKeeper) -> SwapHandler:
    exchanges = SwapHandler(history=History())
    exchanges.flows.mode = Serving(keeper)
    exchanges.gate.on_loopback = False
    return exchanges


def coming(
    key: str | None = KEY, host: str = "chatgpt.com", peer: tuple[str, int] = FAR, number: int = 1
) -> http.HTTPFlow:
    request = flow(number)
    request.live = True
    request.client_conn = tflow.tclient_conn()
    request.client_conn.peername = peer
    request.request.data.host = host
    del request.request.headers["authorization"]
    if key is not None:
        request.request.headers["authorization"] = f"Bearer {key}"
    return request


async def gone_through(exchanges: SwapHandler, request: http.HTTPFlow) -> http.Request | http.Response | None:
    """What leaves, or is answered, of a request that is whole."""
    exchanges.open(request)
    if request.error is not None:
        return None
    await exchanges.assign(request)
    return request.response or exchanges.outbound(request)


def shown(request: http.HTTPFlow) -> bytes:
    """All that a flow shows of its request."""
    data = request.request.data
    trailers = data.trailers.fields if data.trailers is not None else ()
    return b"\n".join([data.path, *(name + b": " + value for name, value in (*data.headers.fields, *trailers))])


# -- keys


PLACES: dict[str, Callable[[http.Request], None]] = {
    "twice": lambda r: r.headers.add("authorization", f"Bearer {KEY}"),
    "in another header": lambda r: r.headers.add("x-also", KEY),
    "in a header's name": lambda r: r.headers.add(f"x-{KEY}", "1"),
    "as a password": lambda r: r.headers.add("proxy-authorization", f"Basic {BASIC}"),
    "as a subprotocol": lambda r: r.headers.add("sec-websocket-protocol", f"openai-insecure-api-key.{KEY}"),
    "as a cookie": lambda r: r.headers.add("cookie", f"a=b; key={KEY}"),
    "in the query": lambda r: setattr(r, "path", f"{r.path}?key={KEY}"),
    "encoded": lambda r: setattr(r, "path", f"{r.path}?key={KEY.replace('-', '%2d')}"),
    "oddly encoded": lambda r: setattr(r, "path", f"{r.path}?key={KEY.replace('pool', 'p%6F%6fl')}"),
    "in the path": lambda r: setattr(r, "path", f"/{KEY}/x"),
    "with another scheme": lambda r: r.headers.set_all("authorization", [f"Basic {KEY}"]),
    "as the password of a user": lambda r: r.headers.set_all("authorization", [f"Basic {BASIC}"]),
    "without a scheme": lambda r: r.headers.set_all("authorization", [KEY]),
    "two in one": lambda r: r.headers.set_all("authorization", [f"Bearer {KEY} {KEY}"]),
    "on two lines": lambda r: setattr(
        r.headers, "fields", ((b"authorization", f"Bearer {KEY[:20]}\r\n {KEY[20:]}".encode()),)
    ),
}
"""Where a key has no business, beside the one place that it is for, or in place of it."""


@pytest.mark.parametrize("host", ["chatgpt.com", "auth.openai.com", "example.com"])
@pytest.mark.parametrize("where", PLACES)
async def test_a_misplaced_key_opens_nothing_and_does_not_leave(
    exchanges: SwapHandler, where: str, host: str
) -> None:
    """The flow does not show it either."""
    request = coming(host=host)
    PLACES[where](request.request)

    answer = await gone_through(exchanges, request)

    assert isinstance(answer, http.Response)
    assert answer.status_code in (401, 403)
    assert b"0123456789" not in shown(request)  # of the key, not even the end of it
    assert not carries_key(request.request)


@pytest.mark.parametrize("key", ["at-pool-", "at-pool-short", f"{KEY}…"])
async def test_a_key_that_was_not_copied_whole_is_named(exchanges: SwapHandler, key: str) -> None:
    request = coming()
    request.request.headers["authorization"] = f"Bearer {key}"

    answer = await gone_through(exchanges, request)

    assert isinstance(answer, http.Response)
    assert b"this is not the key of a member" in (answer.content or b"")


@pytest.mark.parametrize("host", ["chatgpt.com", "example.com"])
async def test_a_key_after_the_body_does_not_leave(keeper: StillKeeper, host: str) -> None:
    exchanges = SwapHandler(history=History())
    exchanges.flows.mode = Serving(keeper)
    request = coming(KEY if host == "chatgpt.com" else None, host=host)
    exchanges.open(request)
    request.request.trailers = http.Headers(((b"x-sum", b"1"), (b"x-late", KEY.encode())))
    await exchanges.assign(request)

    answer = request.response or exchanges.outbound(request)

    assert isinstance(answer, http.Response)
    assert answer.status_code == 403
    assert KEY.encode() not in shown(request)


async def test_nothing_of_a_member_leaves(exchanges: SwapHandler) -> None:
    wire = await gone_through(exchanges, request := coming())

    assert isinstance(wire, http.Request)
    assert wire.headers["authorization"].startswith("Bearer at-test-")
    assert b"at-pool-" not in b"".join(value for _, value in wire.headers.fields) + shown(request)


async def test_a_request_we_answer_does_not_leave_while_streamed(
    exchanges: SwapHandler,
) -> None:
    """Then mitmproxy asks for what leaves before the request is whole."""
    for path in ("/backend-api/wham/tasks", "/"):
        request = coming()
        request.request.path = path
        exchanges.open(request)

        assert isinstance(exchanges.outbound(request), http.Response)


async def test_observe_mode_lets_no_key_pass() -> None:
    observing = ObserveHandler(History())
    for host in ("chatgpt.com", "example.com"):
        request = coming(host=host)
        observing.open(request)
        await observing.assign(request)

        assert request.response is not None
        assert request.response.status_code == 403
        assert KEY.encode() not in shown(request)


@pytest.mark.parametrize("when", ["before the pool is there", "after it has gone"])
async def test_without_a_pool_a_key_is_refused_and_hidden(when: str) -> None:
    exchanges = SwapHandler(history=History())
    if when.startswith("after"):
        exchanges.flows.mode = Passthrough()

    answer = await gone_through(exchanges, request := coming())

    assert isinstance(answer, http.Response)
    assert answer.status_code == 401
    assert KEY.encode() not in shown(request)


async def test_nothing_leaves_with_a_key_added_by_another_addon(exchanges: SwapHandler) -> None:
    exchanges.gate.on_loopback, request = True, coming(None, "example.com", ("127.0.0.1", 1))
    exchanges.open(request)
    request.request.headers["x-late"] = KEY

    assert isinstance(exchanges.outbound(request), http.Response)


HOSTILE = [
    "bearer" + " " * 65_000 + "at-pool-",
    "bearer " + "at-pool-" * 8_000,
    "bearer at-pool-" + "-" * 65_000 + "!",
    "%61t" * 16_000,
    "at-pool-" + "%" * 65_000,
    "at-pool-" + "\r\n " * 20_000 + "!",
    "Basic " + "A" * 65_000 + "!",
    "a%74-pool-%" * 6_000,
]


@pytest.mark.parametrize("value", HOSTILE, ids=[value[:12] for value in HOSTILE])
def test_hostile_requests_are_searched_quickly(value: str) -> None:
    request = coming(None)
    request.request.headers.fields = ((b"authorization", value.encode()),)
    request.request.data.path = b"/" + value.encode()

    begun = time.perf_counter()
    carries_key(request.request)
    hide_key(request)

    assert time.perf_counter() - begun < 0.1  # of one thread for all: a few ms, and this machine may be busy


# -- who may use the pool


async def test_a_request_without_a_key_ends_once_keys_are_needed(exchanges: SwapHandler, keeper: StillKeeper) -> None:
    exchanges.gate.on_loopback, keeper.config = True, config(access=Access.ANYONE)
    request = coming(None, peer=("127.0.0.1", 1))
    exchanges.open(request)
    await exchanges.assign(request)
    # when pool.toml changes before it leaves
    keeper.config = config()
    exchanges.changed(keeper)

    answer = exchanges.outbound(request)

    assert isinstance(answer, http.Response)
    assert answer.status_code == 401


async def test_a_request_with_a_revoked_key_does_not_leave(exchanges: SwapHandler, keeper: StillKeeper) -> None:
    request = coming()
    exchanges.open(request)
    await exchanges.assign(request)
    keeper.config = config(replace(MEMBERS[0], revoked_at=1.0), MEMBERS[1])
    exchanges.changed(keeper)

    assert isinstance(exchanges.outbound(request), http.Response)


@pytest.mark.parametrize("access", [None, Access.ANYONE, Access.MEMBERS])
async def test_a_pool_others_can_reach_is_always_for_members(
    exchanges: SwapHandler, keeper: StillKeeper, access: Access | None
) -> None:
    keeper.config = config(access=access)

    answer = await gone_through(exchanges, coming(None))

    assert isinstance(answer, http.Response)
    assert answer.status_code == 401


async def test_a_member_has_sessions_of_its_own(exchanges: SwapHandler, keeper: StillKeeper) -> None:
    sessions = set()
    for name in ("ann", "bob"):
        request = coming(key_of(name))
        request.request.headers["thread-id"] = "ann/of-all"
        request.request.headers["x-codex-parent-thread-id"] = "ann/parent"
        exchanges.open(request)
        asked = exchanges.flows[request].asked
        sessions |= {asked.session, asked.parent}

    assert sessions == {"ann/ann/of-all", "ann/ann/parent", "bob/ann/of-all", "bob/ann/parent"}


# -- bounds


LONG = str(WORTH_READING + 1)
ENDLESS: dict[str, dict[str, str]] = {
    "a long body": {"content-length": LONG},
    "a body of any length": {"transfer-encoding": "chunked"},
    "a length that is none": {"content-length": "9" * 5000},
    "a long head": {"x-long": "x" * LONGEST_HEAD},
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("host", ["chatgpt.com", "example.com"])
@pytest.mark.parametrize("key", [None, "at-pool-guessed-0123456789abcdef"])
async def test_a_strangers_endless_request_is_killed(
    exchanges: SwapHandler, what: str, host: str, key: str | None
) -> None:
    request = coming(key, host)
    del request.request.headers["content-length"]
    request.request.headers.update(ENDLESS[what])

    exchanges.open(request)

    assert request.error is not None
    assert not list(exchanges.history.traces())


async def test_a_member_may_send_as_much_as_it_likes(exchanges: SwapHandler) -> None:
    await gone_through(exchanges, coming())
    request = coming(None, "example.com")  # its tools use the same proxy
    request.request.headers["content-length"] = LONG

    exchanges.open(request)

    assert request.error is None


async def test_little_is_kept_of_refused_requests(exchanges: SwapHandler, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for number in range(600):
        request = coming(f"at-pool-guessed-{number:016}", peer=(f"10.0.{number // 250}.{number % 250}", 1))
        request.request.headers["x-long"] = "x" * (LONGEST_HEAD // 600) * number
        await gone_through(exchanges, request)
        exchanges.finish(request)

    traces = list(exchanges.history.traces())
    assert len(traces) == 500
    assert max(sum(len(value) for _, value in trace.fields) for trace in traces) <= LONGEST_HEAD
    assert "guessed" not in caplog.text


def test_nothing_is_remembered_of_long_paths() -> None:
    tracemalloc.start()
    hosts = frozenset({"chatgpt.com"})
    for number in range(2_000):
        path = f"/backend-api/codex/alpha/{number}{'a' * 20_000}"
        assert routes.AS_SHIPPED.route("https", "chatgpt.com", 443, "GET", path, hosts).policy is Policy.OWN
        assert routes.normalised(path) == ""
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept < 2_000_000


async def test_a_strangers_method_is_redacted_in_the_log(
    exchanges: SwapHandler, caplog: pytest.LogCaptureFixture
) -> None:
    request = coming("at-pool-guessed-0123456789abcdef", "example.com")
    request.request.data.method = b"\x1b[2JGET"

    await gone_through(exchanges, request)

    assert "refused " in caplog.text
    assert "\x1b" not in caplog.text


async def test_only_former_keys_are_always_told_why(
    exchanges: SwapHandler, keeper: StillKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """A guess gets a 429 after a few refusals."""
    keeper.config = config(replace(MEMBERS[0], revoked_at=1.0), MEMBERS[1])

    answers = [await gone_through(exchanges, coming()) for _ in range(40)]
    guess = await gone_through(exchanges, coming("at-pool-guessed-0123456789abcdef"))
    without = await gone_through(exchanges, coming(None))  # as its client goes on

    assert all(isinstance(one, http.Response) and "is revoked" in (one.text or "") for one in answers)
    assert isinstance(guess, http.Response)
    assert guess.status_code == 429
    assert isinstance(without, http.Response)
    assert "not the key of a member" in (without.text or "")  # and not only that there were too many
    assert caplog.text.count("refused ") <= 21
    assert len(list(exchanges.history.traces())) <= 21


# -- the holder of a key, who asks the proxy itself


def own_use(exchanges: SwapHandler, request: http.HTTPFlow) -> tuple[int, str]:
    status, document = exchanges.own_use(request, time.time())
    return status, str(document)


def test_the_holder_of_a_key_is_told_of_its_own_use_only(exchanges: SwapHandler, keeper: StillKeeper) -> None:
    keeper.ledger.count_begun("ann", time.time())
    keeper.ledger.count_begun("bob", time.time())
    exchanges.gate.follow(keeper.config)

    request = coming(host="codex.pool")
    status, document = exchanges.own_use(request, time.time())

    assert (status, document["name"], document["turns_today"]) == (200, "ann", 1)
    assert "bob" not in str(document)
    assert KEY.encode() not in shown(request)


@pytest.mark.parametrize("place", PLACES)
def test_a_key_in_the_wrong_place_tells_nothing(exchanges: SwapHandler, place: str) -> None:
    exchanges.gate.follow(config())
    request = coming(host="codex.pool")
    PLACES[place](request.request)

    status, told = own_use(exchanges, request)

    assert status == 401
    assert "Authorization: Bearer" in told
    assert KEY.encode() not in shown(request)


@pytest.mark.parametrize(
    ("spec", "key", "told"),
    [
        (MEMBERS[0], None, "Authorization: Bearer"),
        (MEMBERS[0], key_of("eve"), "not the key of a member"),
        (replace(MEMBERS[0], revoked_at=1.0), KEY, "of ann is revoked"),
        (replace(MEMBERS[0], expires_at=1.0), KEY, "of ann is expired"),
    ],
    ids=["none", "unknown", "revoked", "expired"],
)
def test_a_key_that_opens_nothing_gets_a_401_that_says_why(
    exchanges: SwapHandler, spec: MemberSpec, key: str | None, told: str
) -> None:
    exchanges.gate.follow(config(spec))

    status, said = own_use(exchanges, coming(key, host="codex.pool"))

    assert status == 401
    assert told in said


def test_guesses_at_keys_are_bounded_and_valid_keys_still_work(exchanges: SwapHandler) -> None:
    exchanges.gate.follow(config())

    statuses = [own_use(exchanges, coming(key_of(f"x{n}"), host="codex.pool"))[0] for n in range(40)]

    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert own_use(exchanges, coming(host="codex.pool"))[0] == 200


def test_asking_for_its_use_makes_no_address_a_members(exchanges: SwapHandler) -> None:
    exchanges.gate.follow(config())

    assert not isinstance(exchanges.gate.holder(coming(host="codex.pool")), Denied)

    assert not exchanges.gate.works_from(FAR[0])
    assert exchanges.gate.refuses_connection(coming().client_conn, "example.com", 443, frozenset()) != ""


def test_without_a_pool_a_key_tells_nothing_and_is_hidden(exchanges: SwapHandler) -> None:
    exchanges.flows.mode = Passthrough()
    request = coming(host="codex.pool")

    assert own_use(exchanges, request)[0] == 503
    assert KEY.encode() not in shown(request)


def test_an_observing_proxy_tells_holders_of_keys_nothing() -> None:
    request = coming(host="codex.pool")

    status, _ = ObserveHandler(History()).own_use(request, time.time())

    assert status == 403
    assert KEY.encode() not in shown(request)


async def test_a_members_whoami_does_not_wait_for_identities_that_do_not_exist(
    exchanges: SwapHandler, keeper: StillKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(keeper, "change", wait)
    keeper.pool.states.identities = {}
    keeper.pool.lists_none = True
    asking = coming(host="auth.openai.com")
    asking.request.method, asking.request.path = "GET", "/api/accounts/v1/user-auth-credential/whoami"

    exchanges.open(asking)
    await exchanges.assign(asking)

    assert asking.response is not None
    assert asking.response.status_code == 200
