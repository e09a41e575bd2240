"""Every place that looks into a body is bounded: what it inflates, its memory, and how long the loop stands."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import zstandard
from mitmproxy import http

from codexpool.pool.identity import Status
from codexpool.protocol.bounded_json import LONGEST, PARTS, loads
from codexpool.protocol.inflate import TooLongError, UnreadableError
from codexpool.proxy import bodies, replies
from codexpool.proxy.bodies import AT_ONCE, look
from codexpool.proxy.exchange import LONGEST_NAME, asked_of, model_in_body, prompt_cache_key
from codexpool.proxy.find_keys import take_key_out
from codexpool.proxy.flows import Serving
from codexpool.proxy.held_answers import UNREAD, read, scrub, show_own_id
from codexpool.proxy.serving import SwapHandler
from codexpool.traces.history import History
from tests.protocol.codings import CODINGS, COMPRESSED, MB, bomb
from tests.proxy.still_keeper import StillKeeper, flow

MOST = 48 * MB
"""Bytes of memory that Python's own allocator may take for any of these."""

STANDS = 0.25
"""Seconds of processor time that the loop may be kept from its work in one go: a bound of 0.1, with a margin for a
machine that is busy with other things."""

TOKEN = b"at-test-first-0123456789abcdef"
KEY = "at-pool-test-ann-0123456789abcdefghijklmnopqrstu"


class Watched:
    """What something takes of memory, and of the loop's time."""

    def __init__(self) -> None:
        self.peak = 0
        self.longest = 0.0

    async def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        ticker = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        tracemalloc.start()
        try:
            return await work()
        finally:
            self.peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            await asyncio.sleep(0.01)
            ticker.cancel()

    async def _tick(self) -> None:
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0.002)
            self.longest = max(self.longest, time.thread_time() - begun)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched()


def asked(body: bytes, encoding: str) -> http.HTTPFlow:
    """A request of a client that names no session but in its body."""
    request = flow(1)
    for name in ("session-id", "thread-id"):
        request.request.headers.pop(name, None)
    request.request.headers["content-encoding"] = encoding
    request.request.raw_content = body
    return request


def response(status: int, body: bytes, encoding: str = "") -> http.Response:
    made = http.Response.make(status, b"", {"content-type": "application/json"})
    made.headers["content-encoding"] = encoding
    made.raw_content = body
    return made


# -- requests


@pytest.mark.parametrize("name", COMPRESSED)
async def test_a_bomb_as_a_request_costs_almost_nothing(watched: Watched, name: str) -> None:
    """It names no session."""
    encoding, body = bomb(name)

    named = await watched.run(lambda: prompt_cache_key(asked(body, encoding).request))

    assert named is None
    assert watched.peak < MOST
    assert watched.longest < STANDS


@pytest.mark.parametrize("name", COMPRESSED)
async def test_a_members_bomb_is_refused_and_costs_almost_nothing(watched: Watched, name: str) -> None:
    encoding, body = bomb(name)

    async def looked_into() -> None:
        with pytest.raises(UnreadableError):
            await take_key_out(asked(body, encoding))

    await watched.run(looked_into)

    assert watched.peak < MOST
    assert watched.longest < STANDS


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_bomb_to_the_tools_endpoint_is_no_message(name: str) -> None:
    encoding, body = bomb(name)
    begun = time.thread_time()

    assert replies.toolless(body, encoding).status_code == 400

    assert time.thread_time() - begun < STANDS
    call = json.dumps({"id": 1, "method": "tools/list"}).encode()
    assert replies.toolless(CODINGS[name][1](call), encoding).status_code == 200


@pytest.mark.parametrize("name", ["plain", "zstd"])
async def test_a_key_is_removed_from_a_long_body_in_a_thread(watched: Watched, name: str) -> None:
    encoding, encode = CODINGS[name]
    text = f'{{"model":"m","input":"{"x" * 30 * MB} {KEY} {"y" * MB}","prompt_cache_key":"the one"}}'.encode()
    request = asked(encode(text), encoding)

    async def looked_into() -> None:
        assert await prompt_cache_key(request.request) == "the one"
        assert await model_in_body(request.request) == "m"
        assert await take_key_out(request)

    await watched.run(looked_into)

    assert watched.longest < STANDS
    clean = request.request.raw_content or b""
    clean = zstandard.ZstdDecompressor().decompress(clean) if name == "zstd" else clean
    assert KEY.encode() not in clean
    assert len(clean) == len(text) - len(KEY) + len(b"(member key, removed by codexpool)")


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"model": "m", "prompt_cache_key": "abc"}, "abc"),
        ({"prompt_cache_key": 'ä \\ " \n'}, 'ä \\ " \n'),
        ({"input": 'say "prompt_cache_key": "no"'}, None),
        ({"prompt_cache_key": ""}, None),
        ({"prompt_cache_key": 3}, None),
        (["prompt_cache_key", "abc"], None),
    ],
)
async def test_a_session_is_read_from_an_encoded_body(name: str, body: Any, key: str | None) -> None:
    encoding, encode = CODINGS[name]
    for text in (json.dumps(body), json.dumps(body, separators=(",", ":"), ensure_ascii=False)):
        assert await prompt_cache_key(asked(encode(text.encode()), encoding).request) == key


async def test_a_long_name_is_remembered_by_its_digest() -> None:
    long = b"n" * MB
    headers = {b"thread-id": long, b"x-codex-parent-thread-id": long, b"x-codex-routing-hint": b"model=" + long}

    found, _ = asked_of(headers, "/backend-api/codex/responses")
    again, _ = asked_of(headers, "/backend-api/codex/responses")
    other, _ = asked_of({**headers, b"thread-id": long + b"!"}, "/backend-api/codex/responses")

    assert found == again
    assert found.session != other.session
    assert all(len(name or "") <= LONGEST_NAME for name in (found.session, found.parent, found.model))


async def test_a_name_that_no_database_stores_is_remembered_by_its_digest() -> None:
    bodies = (b'{"prompt_cache_key": "%b"}' % name for name in (rb"a\u0000", rb"\ud800"))
    found = [await prompt_cache_key(asked(body, "").request) for body in bodies]

    assert [str(name)[:7] for name in found] == ["sha256:"] * 2
    assert found[0] != found[1]


async def test_a_short_body_is_read_at_once_a_long_one_in_a_thread() -> None:
    """The bound on what is inflated is larger there."""
    asked_to: list[int] = []

    def into(body: bytes, encoding: str, most: int) -> str:
        asked_to.append(most)
        if most == AT_ONCE:
            raise TooLongError("long")
        return "found"

    assert await look(into, b"short", "zstd") == "found"
    assert asked_to == [AT_ONCE, bodies.LONGEST]


# -- refusals


@pytest.mark.parametrize("name", COMPRESSED)
async def test_a_bomb_as_a_refusal_is_judged_by_its_status(watched: Watched, name: str) -> None:
    exchanges, keeper = SwapHandler(history=History()), StillKeeper("first", "second")
    exchanges.flows.mode = Serving(keeper)
    request = flow(1)
    exchanges.open(request)
    await exchanges.assign(request)
    assert isinstance(exchanges.outbound(request), http.Request)
    encoding, body = bomb(name)
    request.response = response(401, body, encoding)

    async def answered() -> None:
        exchanges.headers_came(request)
        exchanges.response_complete(request)
        await exchanges.judge(request)

    await watched.run(answered)

    assert exchanges.should_resend(request)
    assert keeper.pool.identities["first"].status is Status.SUSPECT
    assert watched.peak < MOST
    assert watched.longest < STANDS


@pytest.mark.parametrize("name", CODINGS)
def test_no_refusal_shows_a_token_in_any_encoding(name: str) -> None:
    """Wherever it is cut."""
    encoding, encode = CODINGS[name]
    body = encode(b'{"detail": "' + b" ".join([TOKEN] * 3) + b'"}')

    for to in range(len(body) + 1):
        made = response(400, body[:to], encoding)
        text = scrub(made, {TOKEN: b"<codexpool:first>"})

        for seen in (text, read(made).text):
            assert TOKEN not in seen
            if encoding not in ("", "identity") and to < len(body):  # Of a plain one nobody knows that it was cut.
                assert not any(seen.endswith(TOKEN[:size]) for size in range(4, len(TOKEN)))


@pytest.mark.parametrize("name", COMPRESSED)
def test_no_part_of_an_overlong_refusal_is_passed_on(name: str) -> None:
    encoding, body = bomb(name)
    made = response(400, body, encoding)

    assert scrub(made, {TOKEN: b"<codexpool:first>"}) == b""

    assert made.raw_content == UNREAD
    assert "content-encoding" not in made.headers


def test_a_bomb_as_a_discovery_is_ignored() -> None:
    for name in COMPRESSED:
        encoding, body = bomb(name)
        made = response(200, body, encoding)
        show_own_id(made, "acc-first", "acc-own")
        assert made.raw_content == body


# -- JSON


@pytest.mark.parametrize(
    "text",
    [b"[" + b"[]," * PARTS + b"0]", b'"' + b" " * LONGEST + b'"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b""],
    ids=["many parts", "long", "deep lists", "deep objects", "no text", "nothing"],
)
def test_json_that_grows_too_much_is_rejected(text: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"."):
            loads(text)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert loads(b'{"a": [1, "\\u00e4"]}') == {"a": [1, "ä"]}
