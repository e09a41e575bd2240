"""A pool for members only, through a real proxy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.e2e.world import BACKEND, MODEL, USAGE, World, a_world, raw_exchange, served_by, socket_turn
from tests.running import key_of, member, pat, until
from tests.standin import Answer

WHOAMI = "https://auth.openai.com/api/accounts/v1/user-auth-credential/whoami"
CHECK = f"{BACKEND}/backend-api/wham/accounts/check"
BUNDLE = f"{BACKEND}/backend-api/wham/config/bundle"

MEMBERS = (
    member("ann")
    + member("bob", revoked="2026-01-01T00:00:00Z")
    + member("cid", expires="2026-01-01")
    + member("dan", identities='["spare"]')
    + member("eve", turns_a_day=1)
    + member("fay", turns_at_once=1)
    + member("gil", turns_a_day=1)
)


@pytest.fixture(scope="module")
def team() -> str:
    return MEMBERS


@pytest.fixture(scope="module")
def members_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("members")
    tokens = pat("work", plan="enterprise"), pat("spare", plan="enterprise")
    head = '[pool]\naccess = "members"\n'
    with a_world(folder, *tokens, head=head, tail=MEMBERS, arguments=("-w", str(folder / "flows"))) as world:
        yield world


@pytest.fixture
def world(members_world: World) -> World:
    members_world.reset()
    return members_world


def client_of(world: World, key: str | None) -> httpx.Client:
    client = world.proxy.client()
    del client.headers["authorization"], client.headers["chatgpt-account-id"]
    if key is not None:
        client.headers["authorization"] = f"Bearer {key}"
    return client


def nothing_asked(world: World) -> bool:
    """Whether nothing has been asked on a socket."""
    return not [seen for seen in world.seen if seen.transport == "message"]


def nothing_arrived(world: World) -> bool:
    """Not a request, and not a pooled header, has reached the backend."""
    return world.seen == [] and world.standin.leaks == []


# -- members


def test_a_member_gets_an_identity_and_its_key_stays_here(world: World) -> None:
    with client_of(world, key_of("ann")) as client:
        who = client.get(WHOAMI).json()
        check = client.get(CHECK, headers={"chatgpt-account-id": who["chatgpt_account_id"]}).json()
        answers = [world.turn(client), client.get(BUNDLE), client.get(USAGE)]

    assert who["chatgpt_plan_type"] == "enterprise"
    assert who["chatgpt_account_is_fedramp"] is False
    assert [account["id"] for account in check["accounts"]] == [who["chatgpt_account_id"]]
    assert served_by(answers[0]) in ("work", "spare")
    assert [answer.status_code for answer in answers[1:]] == [200, 200]
    assert world.whoamis() == []
    world.check()


def test_paths_for_a_person_are_answered_here(world: World) -> None:
    asked = [
        ("GET", "ps/plugins/installed"),
        ("POST", "codex/analytics-events/events"),
        ("GET", "wham/settings/user"),
        ("POST", "wham/tasks"),
        ("POST", "wham/rate-limit-reset-credits/consume"),
        ("POST", "wham/remote/control/enroll"),
    ]
    with client_of(world, key_of("ann")) as client:
        answers = [client.request(method, f"{BACKEND}/backend-api/{path}", json={}) for method, path in asked]

    assert {answer.status_code for answer in answers} <= {403, 404}
    assert all(answer.json() for answer in answers)
    assert nothing_arrived(world)


def test_a_member_gets_an_empty_list_of_tools(world: World) -> None:
    called = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    with client_of(world, key_of("ann")) as client:
        first, second, third = (client.post(f"{BACKEND}/backend-api/ps/mcp", json=call) for call in called)

    assert first.json()["result"]["protocolVersion"] == "2025-03-26"
    assert (second.status_code, second.content) == (202, b"")
    assert third.json() == {"jsonrpc": "2.0", "id": 2, "result": {"tools": []}}
    assert nothing_arrived(world)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1/responses",
        "https://auth.openai.com/oauth/revoke",
        "https://ab.chatgpt.com/otlp/v1/metrics",
        "https://gov.chatgpt.com/backend-api/codex/responses",
        "http://chatgpt.com/backend-api/codex/responses",
    ],
)
def test_a_member_key_leaves_for_no_other_host(world: World, url: str) -> None:
    with client_of(world, key_of("ann")) as client:
        answers = [client.post(url, json={}) for _ in range(2)]

    assert {answer.status_code for answer in answers} == {403}
    assert "is not sent to other hosts" in answers[0].json()["error"]["message"]
    assert nothing_arrived(world)


def test_a_member_gets_only_its_identities(world: World) -> None:
    """It is told if there is none."""
    world.standin.limit(world.tokens[1].token, time.time() + 3600)
    with client_of(world, key_of("dan")) as client:
        for number in range(3):
            answer = world.turn(client, f"dan-{number}")
            assert answer.status_code == 429
            assert "spare" in answer.text
            assert "work" not in answer.text

    world.standin.unlimit(world.tokens[1].token)


async def test_a_members_turn_on_a_websocket_is_counted(world: World) -> None:
    async with world.socket("ann-socket", authorization=f"Bearer {key_of('ann')}") as socket:
        events = await socket_turn(socket)

    assert served_by(events) in ("work", "spare")
    world.check()


async def test_an_ambiguous_message_of_a_member_is_refused(
    world: World,
) -> None:
    async with world.socket("gil-socket", authorization=f"Bearer {key_of('gil')}") as socket:
        await socket.send('{"type": "x", "model": "m", "input": "hello", "type": "response.create"}')
        told = json.loads(await socket.recv())
        assert nothing_asked(world)
        events = await socket_turn(socket)  # the one turn of the day is still there

    assert told["type"] == "response.failed"
    assert 'the key "type" twice' in told["response"]["error"]["message"]
    assert served_by(events) in ("work", "spare")


async def test_a_member_has_no_websocket_but_the_models(world: World) -> None:
    url = MODEL.replace("https", "wss").replace("codex/responses", "codex/realtime/x")
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            url,
            proxy=world.proxy.url,
            ssl=world.proxy.trust,
            additional_headers={"authorization": f"Bearer {key_of('ann')}"},
        ):
            pass

    assert refused.value.response.status_code == 403
    assert "no WebSocket but that of the model" in refused.value.response.headers["x-openai-authorization-error"]
    assert nothing_arrived(world)


def test_no_member_can_name_the_session_of_another_one(world: World) -> None:
    with client_of(world, key_of("ann")) as ann, client_of(world, key_of("dan")) as dan:
        whose = {served_by(world.turn(ann, f"shared-{number}")) for number in range(4)}
        others = {served_by(world.turn(dan, f"shared-{number}")) for number in range(4)}
        again = {served_by(world.turn(ann, f"shared-{number}")) for number in range(4)}

    assert others == {"spare"}
    assert again == whose
    assert "work" in whose


def test_a_member_at_its_daily_bound_is_told_its_end(world: World) -> None:
    with client_of(world, key_of("eve")) as client:
        first, second = world.turn(client, "eve"), world.turn(client, "eve")

    assert served_by(first)
    error = second.json()["error"]
    assert (second.status_code, error["type"]) == (429, "usage_limit_reached")
    assert error["resets_at"] % 86_400 == 0
    assert error["resets_at"] > time.time()
    assert "eve has used today's 1 turn;" in second.headers["x-codex-promo-message"]


async def test_a_turn_over_the_members_bound_waits(world: World) -> None:
    world.standin.plan(Answer(path="/backend-api/codex/responses", times=1, pace=0.3))
    async with world.proxy.async_client() as client:
        headers = {"authorization": f"Bearer {key_of('fay')}"}
        turn = {"json": {"model": "m", "input": "hello"}, "headers": headers}
        first = asyncio.create_task(client.post(MODEL, **turn))  # type: ignore[arg-type]
        await asyncio.sleep(0.15)
        begun = time.monotonic()
        second = await client.post(MODEL, **turn)  # type: ignore[arg-type]
        waited = time.monotonic() - begun

    assert (await first).status_code == second.status_code == 200
    assert waited > 0.3
    world.check()


# -- everybody else


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (None, "CODEX_ACCESS_TOKEN"),
        ("at-pool-guessed-0123456789abcdefghijklmnopqrstuvw", "not the key of a member"),
        (key_of("bob"), "revoked"),
        (key_of("cid"), "expired"),
        ("at-test-client-own-fedcba9876543210fedcba", "no member key"),
    ],
)
def test_nothing_leaves_without_a_valid_key(world: World, key: str | None, says: str) -> None:
    with client_of(world, key) as client:
        answers = [world.turn(client), client.get(f"{BACKEND}/backend-api/codex/models"), client.get(CHECK)]

    assert [answer.status_code for answer in answers] == [401] * 3
    assert says in answers[0].json()["error"]["message"]
    assert nothing_arrived(world)


async def test_an_upgrade_without_a_key_is_refused(world: World) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with world.socket("stranger"):
            pass

    assert refused.value.response.status_code in (401, 429)  # The address may have been refused often by now.
    assert nothing_arrived(world)


def test_the_status_shows_members_but_no_key(world: World) -> None:
    with world.proxy.client() as client:
        status = client.get("http://codex.pool/api/status").json()

    assert status["proxy"]["access"] == "members"
    assert [one["name"] for one in status["members"]] == ["ann", "bob", "cid", "dan", "eve", "fay", "gil"]
    assert [one["key"] for one in status["members"][:3]] == ["valid", "revoked", "expired"]
    assert "sha256:" not in json.dumps(status["members"])


def test_a_key_revoked_at_run_time_opens_nothing(world: World) -> None:
    pool = world.proxy.pool
    before = pool.read_text()
    with client_of(world, key_of("ann")) as client:
        assert world.turn(client, "revoked").status_code == 200
        pool.write_text(before.replace('name = "ann"\n', 'name = "ann"\nrevoked = 2026-01-01T00:00:00Z\n'))
        try:
            until(lambda: world.turn(client, "revoked").status_code == 401, 10, "the key to open nothing")
        finally:
            pool.write_text(before)
        until(lambda: world.turn(client, "revoked").status_code == 200, 10, "the key to open the pool again")


def test_no_key_is_in_a_log_a_dump_or_the_state(world: World) -> None:
    written = b"".join(
        path.read_bytes() for path in world.proxy.folder.rglob("*") if path.is_file() and path.name != "pool.toml"
    )

    assert b"at-pool-test" not in written
    assert b"at-pool-guessed" not in written


def test_smuggled_keys_and_requests_reach_nothing(world: World) -> None:
    key = key_of("ann")
    head = f"POST /backend-api/codex/responses HTTP/1.1\r\nHost: chatgpt.com\r\nAuthorization: Bearer {key}\r\n"
    body = "Content-Length: 2\r\n\r\n{}"
    encoded = key.replace("-", "%2D")
    smuggled = (
        f"{head}Authorization: Bearer {key}\r\n{body}",  # twice
        f"{head}X-Also: {key}\r\n{body}",  # elsewhere, too
        f"{head.replace('responses HTTP', f'responses?key={key} HTTP')}{body}",
        f"{head.replace('responses HTTP', f'responses?key={encoded} HTTP')}{body}",
        f"{head.replace(f'Bearer {key}', f'Basic {key}')}{body}",
        f"{head.replace(f'Bearer {key}', key)}{body}",
        f"{head.replace(key, key + ' ' + key)}{body}",
    )

    statuses = [raw_exchange(world, request.encode())[0] for request in smuggled]

    assert set(statuses) <= {401, 429}  # The address has been refused often by now.
    assert nothing_arrived(world)


def test_a_bad_key_does_not_lock_out_a_browser(world: World) -> None:
    with client_of(world, "at-pool-guessed-0123456789abcdefghijklmnopqrstuvw") as client:
        client.get(f"{BACKEND}/backend-api/codex/models")
    with client_of(world, None) as client:
        page, api = client.get(f"{BACKEND}/"), client.get(f"{BACKEND}/backend-api/wham/settings/user")

    assert page.status_code == 404  # of the stand-in, which has no pages
    assert api.status_code in (401, 429)
    assert [(seen.path, seen.status) for seen in world.seen] == [("/", 404)]


def test_a_member_sees_its_own_use_over_tls_and_in_no_flow(world: World) -> None:
    with client_of(world, key_of("ann")) as client:
        world.turn(client)
        mine = client.get("https://codex.pool/me", headers={"accept": "application/json"})
        plain = client.get("http://codex.pool/me")

    assert mine.json()["name"] == "ann"
    assert mine.json()["turns_today"] >= 1
    assert "ann: this key" in plain.text
    assert key_of("ann").encode() not in (world.proxy.folder / "flows").read_bytes()
