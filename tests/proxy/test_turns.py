"""Turns and their places, without a proxy: each place is given back, and each turn is counted once."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from mitmproxy import flow as flows
from mitmproxy import http, websocket
from wsproto.frame_protocol import Opcode

from codexpool.config.model import MemberSpec, PoolConfig
from codexpool.members.ledger import Account, Ledger, Spent
from codexpool.pool.identity import Condition, Status
from codexpool.pool.selection import Selection
from codexpool.proxy import sockets, turns
from codexpool.proxy.flows import Closed, Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.traces.history import History
from tests.protocol.codings import CODINGS
from tests.proxy.still_keeper import StillKeeper
from tests.proxy.test_gate import KEY, MEMBERS, coming, config
from tests.running import key_of

REVOKED = b'{"error":{"code":"token_revoked","message":"revoked"}}'
USAGE = {"input_tokens": 7, "output_tokens": 3}
COMPLETED: dict[str, object] = {"type": "response.completed", "response": {"usage": USAGE}}
SERVED = f"event: response.completed\ndata: {json.dumps(COMPLETED)}\n\n".encode()
CREATE: dict[str, object] = {"type": "response.create", "model": "m", "input": "hello"}


class Unforgiving(StillKeeper):
    """Whoever was refused is dead, says whoami, and rotation never stops for that."""

    def reset(self) -> None:
        super().reset()
        self.pool.states.breaker.close()

    async def change(self, seconds: float) -> None:
        for name, identity in list(self.pool.identities.items()):
            if identity.status is not Status.READY:
                self.pool.states.condition_learned(name, identity.fingerprint, Condition(Status.NEEDS_REPLACEMENT, 1))


@dataclass
class Room:
    """A pool for ann, who may have one turn at a time unless a test says otherwise, and what was counted."""

    exchanges: SwapHandler
    keeper: StillKeeper
    told: list[bytes] = field(default_factory=list)
    """Frames that a client was told something with."""
    spent: dict[Account, Spent] = field(default_factory=dict)

    def bound(self, **bounds: int | None) -> None:
        """What pool.toml says of ann from now on."""
        self.keeper.config = config(ann(**bounds), MEMBERS[1])
        self.exchanges.changed(self.keeper)

    @property
    def under_way(self) -> int:
        return self.keeper.queue._total

    @property
    def counted(self) -> tuple[int, int, int]:
        """Turns of ann that were begun, that were served, and the tokens of these."""
        begun = sum(spent.turns for account, spent in self.spent.items() if account.is_of_begun)
        served = [spent for account, spent in self.spent.items() if not account.is_of_begun]
        return begun, sum(one.turns for one in served), sum(one.input + one.output for one in served)


def ann(**bounds: int | None) -> MemberSpec:
    return replace(MEMBERS[0], **bounds)  # type: ignore[arg-type]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr(turns, "OWN_PATIENCE", 0.02)
    monkeypatch.setattr(turns, "PATIENCE", 0.02)
    keeper = Unforgiving("first", "second")
    room = Room(SwapHandler(history=History()), keeper)
    keeper.count_in(Ledger(room.spent.__setitem__))
    room.exchanges.flows.mode = Serving(keeper)
    room.bound(turns_at_once=1)

    def inject(flow: http.HTTPFlow, message: bytes, to_client: bool = True) -> None:
        room.told.append(message)

    monkeypatch.setattr(sockets, "_inject", inject)
    monkeypatch.setattr(sockets, "_hang_up", lambda _: None)
    return room


async def begun(room: Room, **headers: str) -> http.HTTPFlow:
    """A turn of ann's that has its place, and has not left yet."""
    request = coming()
    request.request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    room.exchanges.open(request)
    await room.exchanges.assign(request)
    return request


async def answered(room: Room, request: http.HTTPFlow, status: int = 200, body: bytes = SERVED) -> bool:
    """An attempt leaves and is answered; whether another one follows."""
    exchanges = room.exchanges
    assert isinstance(exchanges.outbound(request), http.Request)
    request.response = http.Response.make(status, body, {"content-type": "text/event-stream"})
    if status == 200:
        del request.response.headers["content-length"]
    exchanges.headers_came(request)
    if exchanges.should_hold(request):
        assert exchanges.judge_beginning(request, body)
    if callable(request.response.stream):
        request.response.stream(body)
    return await ended(room, request)


async def ended(room: Room, request: http.HTTPFlow) -> bool:
    """An answer is there in full; whether the request goes out again."""
    await room.exchanges.judge(request)
    room.exchanges.finish(request)
    return room.exchanges.should_resend(request)


async def lost(room: Room, request: http.HTTPFlow, why: str) -> None:
    """A flow ends in an error."""
    request.error = flows.Error(why)
    await room.exchanges.judge_loss(request)
    room.exchanges.finish(request)


# -- over HTTP: each of these ends a turn


async def served(room: Room) -> None:
    await answered(room, await begun(room))


async def served_after_a_refusal(room: Room) -> None:
    request = await begun(room)
    assert await answered(room, request, 401, REVOKED)
    assert not await answered(room, request)
    room.keeper.reset()


async def refused_to_the_end(room: Room) -> None:
    request = await begun(room)
    while await answered(room, request, 401, REVOKED):
        pass
    room.keeper.reset()


async def broken_off_while_it_streams(room: Room) -> None:
    request = await begun(room)
    room.exchanges.outbound(request)
    request.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    del request.response.headers["content-length"]
    room.exchanges.headers_came(request)
    await lost(room, request, "Client disconnected.")


async def left_before_it_is_sent(room: Room) -> None:
    await lost(room, await begun(room), "Client disconnected.")


async def killed(room: Room) -> None:
    await lost(room, await begun(room), flows.Error.KILLED_MESSAGE)


async def left_before_it_is_sent_again(room: Room) -> None:
    request = await begun(room)
    assert await answered(room, request, 401, REVOKED)
    await lost(room, request, "Client disconnected.")
    room.keeper.reset()


async def lost_by_the_backend(room: Room) -> None:
    request = await begun(room)
    room.exchanges.outbound(request)
    room.exchanges.connection_lost(request)
    await lost(room, request, "connection closed")
    while room.exchanges.should_resend(request):
        room.exchanges.outbound(request)
        room.exchanges.connection_lost(request)
        await lost(room, request, "connection closed")
    room.keeper.reset()


async def answered_by_another_addon(room: Room) -> None:
    request = await begun(room)
    request.response = http.Response.make(418)
    await ended(room, request)


async def refused_before_it_leaves(room: Room) -> None:
    request = await begun(room)
    room.keeper.config = config(replace(ann(turns_at_once=1), revoked_at=1.0), MEMBERS[1])
    room.exchanges.changed(room.keeper)
    request.response = room.exchanges.outbound(request)  # type: ignore[assignment]
    assert isinstance(request.response, http.Response)
    await ended(room, request)
    room.bound(turns_at_once=1)


async def ended_without_a_keeper(room: Room) -> None:
    request = await begun(room)
    room.exchanges.flows.mode = Closed("being loaded")
    await lost(room, request, "Client disconnected.")
    room.exchanges.flows.mode = Serving(room.keeper)


async def broken_while_it_is_sent_again(room: Room) -> None:
    request = await begun(room)
    room.exchanges.outbound(request)
    request.response = http.Response.make(401, REVOKED, {"content-type": "application/json"})
    room.exchanges.headers_came(request)
    await room.exchanges.judge(request)
    room.exchanges.finish(request)
    room.exchanges.flows[request].tries.pop(0)  # a bug of ours: there is no attempt that was refused
    assert not room.exchanges.should_resend(request)
    room.keeper.reset()


ENDS: list[Callable[[Room], Awaitable[None]]] = [
    served,
    served_after_a_refusal,
    refused_to_the_end,
    broken_off_while_it_streams,
    left_before_it_is_sent,
    killed,
    left_before_it_is_sent_again,
    lost_by_the_backend,
    answered_by_another_addon,
    refused_before_it_leaves,
    ended_without_a_keeper,
    broken_while_it_is_sent_again,
]


@pytest.mark.parametrize("end", ENDS, ids=[end.__name__ for end in ENDS])
async def test_a_turn_releases_its_slot_however_it_ends(room: Room, end: Callable[[Room], Awaitable[None]]) -> None:
    for number in range(3):
        await end(room)

        assert room.under_way == 0
        assert room.counted[0] == number + 1


async def test_a_waiting_turn_gets_a_slot_as_soon_as_it_is_free(room: Room) -> None:
    """One that waits too long is denied."""
    first, second = await begun(room), coming()
    room.exchanges.open(second)
    waits = asyncio.create_task(room.exchanges.assign(second))
    await asyncio.sleep(0)
    await answered(room, first)
    await waits
    third = await begun(room)

    assert second.response is None
    assert third.response is not None
    assert third.response.status_code == 429
    assert room.under_way == 1
    await answered(room, second)
    await ended(room, third)
    assert room.under_way == 0
    assert room.counted == (2, 2, 20)


async def test_a_turn_cancelled_while_it_waits_keeps_no_slot(room: Room) -> None:
    first, second = await begun(room), coming()
    room.exchanges.open(second)
    waits = asyncio.create_task(room.exchanges.assign(second))
    await asyncio.sleep(0)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    await answered(room, first)

    assert room.under_way == 0


async def test_nothing_is_kept_of_turns_that_are_over(room: Room) -> None:
    for _ in range(20):
        await served(room)
        await left_before_it_is_sent(room)
    gc.collect()

    assert len(room.exchanges.flows) <= 1
    assert room.keeper.queue._under_way == {}


# -- what is counted


async def test_a_served_turn_is_counted_once(room: Room) -> None:
    await served(room)
    await served_after_a_refusal(room)

    assert room.counted == (2, 2, 20)


async def test_turns_at_once_do_not_exceed_the_daily_bound(room: Room) -> None:
    room.bound(turns_a_day=3, turns_at_once=None)

    requests = await asyncio.gather(*(begun(room) for _ in range(20)))

    assert sum(request.response is None for request in requests) == 3
    assert room.counted[0] == 3


async def test_waiting_turns_do_not_exceed_the_daily_bound(room: Room) -> None:
    room.bound(turns_a_day=2, turns_at_once=1)
    first = await begun(room)
    waiting = [coming() for _ in range(3)]
    for request in waiting:
        room.exchanges.open(request)
    tasks = [asyncio.create_task(room.exchanges.assign(request)) for request in waiting]
    await asyncio.sleep(0)
    await answered(room, first)
    for request, task in zip(waiting, tasks, strict=True):
        await task
        if request.response is None:
            await answered(room, request)

    assert room.counted == (2, 2, 20)
    assert room.under_way == 0


async def test_a_post_with_an_upgrade_header_is_a_turn(room: Room) -> None:
    room.bound(turns_a_day=1)
    await answered(room, await begun(room, upgrade="websocket", connection="upgrade"))
    second = await begun(room, upgrade="websocket", connection="upgrade")

    assert room.counted == (1, 1, 10)
    assert second.response is not None
    assert second.response.status_code == 429


# -- on a socket


async def socket(
    room: Room, request: http.HTTPFlow | None = None, path: str = "/backend-api/codex/responses"
) -> http.HTTPFlow:
    request = request or coming()
    request.request.method = "GET"
    request.request.path = path
    request.request.headers["upgrade"] = "websocket"
    room.exchanges.open(request)
    await room.exchanges.assign(request)
    assert isinstance(room.exchanges.outbound(request), http.Request)
    request.response = http.Response.make(101)
    room.exchanges.headers_came(request)
    request.websocket = websocket.WebSocketData()
    await ended(room, request)
    room.exchanges.socket_opened(request)
    return request


async def says(room: Room, request: http.HTTPFlow, frame: dict[str, object], client: bool = False) -> bool:
    """A message passes by; whether it is passed on."""
    assert request.websocket is not None
    message = websocket.WebSocketMessage(Opcode.TEXT, client, json.dumps(frame).encode())
    request.websocket.messages.append(message)
    await room.exchanges.message(request)
    return not message.dropped


async def asks(room: Room, request: http.HTTPFlow, **more: object) -> bool:
    return await says(room, request, {**CREATE, **more}, client=True)


def closed(room: Room, request: http.HTTPFlow, by_client: bool = True) -> None:
    assert request.websocket is not None
    request.websocket.closed_by_client, request.websocket.close_code = by_client, 1000
    room.exchanges.socket_closed(request)


async def completes(room: Room, request: http.HTTPFlow) -> None:
    await says(room, request, COMPLETED)


async def fails(room: Room, request: http.HTTPFlow) -> None:
    await says(room, request, {"type": "response.failed", "response": {"error": {"code": "x", "message": "y"}}})


async def is_refused(room: Room, request: http.HTTPFlow) -> None:
    await says(room, request, {"type": "error", "status": 401, "error": {"code": "token_revoked", "message": "y"}})
    room.keeper.reset()


async def is_closed_by_its_client(room: Room, request: http.HTTPFlow) -> None:
    closed(room, request)


async def is_closed_by_the_backend(room: Room, request: http.HTTPFlow) -> None:
    closed(room, request, by_client=False)


async def is_closed_without_a_keeper(room: Room, request: http.HTTPFlow) -> None:
    room.exchanges.flows.mode = Closed("being loaded")
    closed(room, request)
    room.exchanges.flows.mode = Serving(room.keeper)


async def has_its_identity_condemned(room: Room, request: http.HTTPFlow) -> None:
    for name, identity in list(room.keeper.pool.identities.items()):
        room.keeper.pool.states.condition_learned(name, identity.fingerprint, Condition(Status.NEEDS_REPLACEMENT, 1))
    room.bound(turns_at_once=None)
    assert not await asks(room, request)
    room.keeper.reset()
    room.bound(turns_at_once=1)


async def has_its_key_taken_away(room: Room, request: http.HTTPFlow) -> None:
    await completes(room, request)
    room.keeper.config = config(replace(ann(), revoked_at=1.0), MEMBERS[1])
    room.exchanges.changed(room.keeper)
    assert not await asks(room, request)
    room.bound(turns_at_once=1)


SOCKET_ENDS: list[Callable[[Room, http.HTTPFlow], Awaitable[None]]] = [
    completes,
    fails,
    is_refused,
    is_closed_by_its_client,
    is_closed_by_the_backend,
    is_closed_without_a_keeper,
    has_its_identity_condemned,
    has_its_key_taken_away,
]


@pytest.mark.parametrize("end", SOCKET_ENDS, ids=[end.__name__ for end in SOCKET_ENDS])
async def test_a_turn_on_a_socket_releases_its_slot_however_it_ends(
    room: Room, end: Callable[[Room, http.HTTPFlow], Awaitable[None]]
) -> None:
    for _ in range(3):
        open_one = await socket(room)
        assert await asks(room, open_one)
        assert room.under_way == 1
        await end(room, open_one)

        assert room.under_way == 0
        closed(room, open_one)


async def test_the_first_message_of_a_socket_is_no_turn(room: Room) -> None:
    room.bound(turns_a_day=1, turns_at_once=1)
    open_one = await socket(room)
    for _ in range(3):
        assert await asks(room, open_one, generate=False)
        await completes(room, open_one)
    assert room.counted == (0, 0, 0)

    assert await asks(room, open_one)
    await completes(room, open_one)

    assert room.counted == (1, 1, 10)
    assert not await asks(room, open_one)
    assert b"ann has used today's 1 turn;" in room.told[-1]


async def test_two_turns_on_one_socket_do_not_wait_for_each_other(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the first comes behind the second: nothing is read of a socket while one of its messages waits."""
    monkeypatch.setattr(turns, "OWN_PATIENCE", 60.0)
    open_one = await socket(room)
    assert await asks(room, open_one)
    at = time.monotonic()

    assert not await asks(room, open_one)

    assert time.monotonic() - at < 5
    assert b"rate_limit" in room.told[-1] or b"usage_limit" in room.told[-1]
    await completes(room, open_one)
    assert await asks(room, open_one)


async def test_a_new_bound_counts_for_open_sockets(room: Room) -> None:
    open_one = await socket(room)
    assert await asks(room, open_one)
    await completes(room, open_one)

    room.bound(turns_a_day=1)

    assert not await asks(room, open_one)


async def test_a_socket_without_a_member_ends_once_keys_are_needed(room: Room) -> None:
    open_one = await socket(room, keyless(room))
    assert await asks(room, open_one)
    await completes(room, open_one)

    room.bound()

    assert not await asks(room, open_one)
    assert room.under_way == 0


async def test_members_have_their_own_keys_and_slots(room: Room) -> None:
    await begun(room)
    other = coming(key_of("bob"))
    room.exchanges.open(other)
    await room.exchanges.assign(other)

    assert other.response is None
    assert room.under_way == 2


# -- what a stream says of its tokens


@pytest.mark.parametrize("name", CODINGS)
async def test_a_compressed_stream_is_metered(room: Room, name: str) -> None:
    encoding, encode = CODINGS[name]
    request = await begun(room)
    assert isinstance(room.exchanges.outbound(request), http.Request)
    request.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    request.response.headers["content-encoding"] = encoding
    del request.response.headers["content-length"]
    room.exchanges.headers_came(request)
    assert callable(request.response.stream)
    for byte in encode(SERVED):
        request.response.stream(bytes([byte]))
    await ended(room, request)

    assert room.counted == (1, 1, 10)


async def test_a_turn_that_fails_in_its_stream_is_not_counted_as_served(room: Room) -> None:
    said: dict[str, object] = {"type": "response.failed", "response": {"error": {"code": "invalid_prompt"}}}
    failed = f"event: response.failed\ndata: {json.dumps(said)}\n\n".encode()

    await answered(room, await begun(room), body=failed)

    assert room.counted == (1, 0, 0)


# -- messages that two parsers could take for different things


async def sends(room: Room, request: http.HTTPFlow, content: bytes, opcode: Opcode = Opcode.TEXT) -> bool:
    """A client's message, as these very bytes; whether it is passed on."""
    assert request.websocket is not None
    message = websocket.WebSocketMessage(opcode, True, content)
    request.websocket.messages.append(message)
    await room.exchanges.message(request)
    return not message.dropped


EVASIONS = {
    "two types": b'{"type":"x","model":"m","type":"response.create"}',
    "two types, one escaped": b'{"type":"x","typ\\u0065":"response.create"}',
    "two words on whether it generates": b'{"type":"response.create","generate":true,"generate":false}',
    "a number that Python does not read": b'{"a":%s,"type":"response.create"}' % (b"1" * 5000),
    "more depth than Python reads": b'{"a":%s%s,"type":"response.create"}' % (b"[" * 100_000, b"]" * 100_000),
    "no JSON": b'{"type":"x" /* "} */, "type":"response.create"}',
}


@pytest.mark.parametrize("message", EVASIONS.values(), ids=EVASIONS.keys())
async def test_an_ambiguous_message_does_not_leave(room: Room, message: bytes) -> None:
    """It could escape being counted as a turn. Its client is told why."""
    room.bound(turns_a_day=1)
    open_one = await socket(room)

    assert not await sends(room, open_one, message)

    told = json.loads(room.told[-1])
    assert told["type"] == "response.failed"
    assert told["response"]["error"]["message"].startswith("codexpool: this message is refused: it ")
    assert room.counted == (0, 0, 0)
    assert await asks(room, open_one)  # the turn of the day is still there


async def test_a_binary_message_does_not_leave(room: Room) -> None:
    open_one = await socket(room)

    assert not await sends(room, open_one, json.dumps(CREATE).encode(), Opcode.BINARY)
    assert b"binary" in room.told[-1]


async def test_a_key_in_an_ambiguous_message_is_hidden(room: Room) -> None:
    open_one = await socket(room)

    assert not await sends(room, open_one, b'{"type":"x","type":"y","key":"%s"}' % KEY.encode())

    assert open_one.websocket is not None
    assert KEY.encode() not in open_one.websocket.messages[-1].content


@pytest.mark.parametrize("message", [EVASIONS["two types"], b"no JSON at all"])
async def test_ambiguous_messages_without_a_key_pass(room: Room, message: bytes) -> None:
    open_one = await socket(room, keyless(room))

    assert await sends(room, open_one, message)


# -- other sockets than the model's

OTHER_SOCKETS = [f"/backend-api/codex/{path}" for path in ("realtime/x", "images/x", "memories/x", "alpha/search")]


def keyless(room: Room) -> http.HTTPFlow:
    """A client without a key, of a pool that is for anybody on this machine."""
    room.exchanges.gate.on_loopback = True
    room.keeper.config = PoolConfig(Path("pool.toml"), Selection.DRAIN_FIRST, ())
    room.exchanges.gate.follow(room.keeper.config)
    return coming(None)


@pytest.mark.parametrize("path", OTHER_SOCKETS)
async def test_a_member_has_no_socket_but_the_models(room: Room, path: str) -> None:
    request = coming()
    request.request.method, request.request.path = "GET", path
    request.request.headers["upgrade"] = "WebSocket"
    room.exchanges.open(request)
    await room.exchanges.assign(request)

    assert request.response is not None
    assert request.response.status_code == 403
    assert "no WebSocket but that of the model" in request.response.headers["x-openai-authorization-error"]
    assert "no WebSocket but that of the model" in (request.response.text or "")
    assert isinstance(room.exchanges.outbound(request), http.Response)


async def test_a_member_has_those_paths_over_http(room: Room) -> None:
    request = coming()
    request.request.path = "/backend-api/codex/realtime/calls"
    room.exchanges.open(request)
    await room.exchanges.assign(request)

    assert isinstance(room.exchanges.outbound(request), http.Request)


def is_for_members_now(room: Room) -> None:
    room.bound()


def is_paused(room: Room) -> None:
    for name, identity in list(room.keeper.pool.identities.items()):
        room.keeper.pool.states.condition_learned(name, identity.fingerprint, Condition(Status.PAUSED, 1))


@pytest.mark.parametrize("when", [is_for_members_now, is_paused])
@pytest.mark.parametrize("path", ["/backend-api/codex/realtime/x", "/backend-api/codex/responses"])
async def test_an_idle_socket_ends_when_it_could_not_be_opened_again(
    room: Room, monkeypatch: pytest.MonkeyPatch, when: Callable[[Room], None], path: str
) -> None:
    ended_ones: list[http.HTTPFlow] = []
    monkeypatch.setattr(sockets, "_hang_up", ended_ones.append)
    open_one = await socket(room, keyless(room), path)

    when(room)
    room.exchanges.changed(room.keeper)

    assert ended_ones == [open_one]
    assert not await sends(room, open_one, b'{"type":"x"}')


@pytest.mark.parametrize("how", ["not a WebSocket", "not asked for"])
async def test_no_unknown_protocol_begins_on_a_swapped_path(room: Room, how: str) -> None:
    request = coming()
    request.request.path = "/backend-api/codex/responses"
    if how == "not a WebSocket":
        request.request.method, request.request.headers["upgrade"] = "GET", "websocket"
    room.exchanges.open(request)
    await room.exchanges.assign(request)
    assert isinstance(room.exchanges.outbound(request), http.Request)
    request.response = http.Response.make(101)
    room.exchanges.headers_came(request)
    request.websocket = websocket.WebSocketData() if how == "not asked for" else None
    await room.exchanges.judge(request)

    assert request.response.status_code == 503
    assert request.websocket is None
    assert request.response.headers["connection"] == "close"


@pytest.mark.parametrize("content", [json.dumps(CREATE).encode(), EVASIONS["two types"], b'{"type":"x"}', b"x"])
async def test_nothing_leaves_on_a_socket_from_before_a_reload(
    room: Room, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    ended_ones: list[http.HTTPFlow] = []
    monkeypatch.setattr(sockets, "_hang_up", ended_ones.append)
    open_one = await socket(room)
    # when another addon has taken the place of the one that has opened it
    room.exchanges = SwapHandler(history=History())
    room.exchanges.flows.mode = Serving(room.keeper)

    assert not await sends(room, open_one, content)

    assert bool(ended_ones) is not bool(room.told)  # its client connects again, by a word or by the end
