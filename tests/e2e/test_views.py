"""A request in the flow, on the page and in the events: the same everywhere, and without secrets."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from mitmproxy import io as flow_io

from tests.e2e.conftest import Make
from tests.e2e.test_secrets import forms
from tests.e2e.world import OWN, World, served_by, socket_turn
from tests.running import CLIENT, pat, until
from tests.standin import RESPONSES, Answer

SITE = "http://codex.pool"
PLANTED = {
    "x-api-key": "sk-proj-PLANTED0123456789abcdefghij",
    "cookie": "session=PLANTEDcookie0123456789; theme=dark",
    "x-made-up": "at-test-PLANTED-header-0123456789",
    "thread-id": "at-test-PLANTED-thread-0123456789",
}


def get(world: World, path: str, **more: Any) -> Any:
    """What the page's API says."""
    with httpx.Client(proxy=world.proxy.url, trust_env=False, timeout=30) as client:
        answer = client.get(SITE + path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()


def events(world: World, after: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(world, f"/api/events?after={after}&limit=500")["events"]
    return found


def test_a_dead_pat_has_one_story_everywhere(make: Make, tmp_path: Path) -> None:
    """In the flow, on the page and in the events."""
    world = make(pat("work"), pat("spare"), folder=tmp_path, arguments=("-w", str(tmp_path / "flows")))
    with world.proxy.client() as client:
        first = served_by(world.turn(client))
        other = {"work": "spare", "spare": "work"}[first]
        world.standin.kill(next(token.token for token in world.tokens if token.name == first))
        # when: its next turn is refused, and sent again
        assert served_by(world.turn(client)) == other

    told = get(world, "/api/flows/last")
    flow, table = told["flow"], {row["name"]: row for row in told["table"]}
    assert [(a["identity"], a["status"]) for a in flow["attempts"]] == [(first, 401), (other, 200)]
    assert flow["attempts"][0]["verdict"]["row"] == "7"
    assert flow["attempts"][0]["because"] == "the session is with it"
    assert flow["attempts"][1]["because"] == "the session moves to it"
    against = {c["name"]: c["against"] for c in flow["attempts"][1]["candidates"]}
    assert "this request was refused under it" in against[first]
    assert flow["session"] | {"user_agent": ""} == {
        "key": "s",
        "from": "thread-id",
        "parent": None,
        "model": "",
        "user_agent": "",
    }
    assert table["chatgpt-account-id"]["sign"] == "~"
    assert table["chatgpt-account-id"]["upstream"] == [f"acc-{first}", f"acc-{other}"]
    assert table["user-agent"]["sign"] == "="
    assert any("row 7" in line for line in told["explanation"])

    happened = events(world)
    request = [event for event in happened if event["event"] == "request"][-1]
    assert (request["flow"], request["identity"], request["attempts"]) == (flow["id"], other, 2)
    assert request["refusals"] == [f"{first}: 401 token_revoked on codex/responses"]
    assert request["bytes_in"] > 100
    assert ("move", first, other) in [(e["event"], e["was"], e["becomes"]) for e in happened]
    until(
        lambda: (
            ("identity", first, "needs_replacement")
            in [(e["event"], e["identity"], e["becomes"]) for e in events(world)]
        ),
        10,
        "the identity's end to be told",
    )
    status = {one["name"]: one for one in get(world, "/api/status")["identities"]}
    assert status[first]["status"] == "needs_replacement"
    assert f"codexpool replace {first}" in status[first]["needs"]

    world.proxy.stop()
    with (tmp_path / "flows").open("rb") as file:
        saved = [one for one in flow_io.FlowReader(file).stream() if one.id == flow["id"]]
    assert saved[-1].metadata["codexpool"] == flow


def test_the_page_is_no_traffic(make: Make, tmp_path: Path) -> None:
    world = make(pat("work"), folder=tmp_path, arguments=("-w", str(tmp_path / "flows")))
    before = len(world.seen)
    with httpx.Client(proxy=world.proxy.url, trust_env=False) as client:
        pages = [client.get(SITE + path) for path in ("/", "/page.css", "/page.js", "/api/status", "/metrics")]
        unknown, changing = client.get(SITE + "/nothing"), client.post(SITE + "/api/status", content=b"x")
        bad = client.get(SITE + "/api/events?after=none")
        headless = client.head(SITE + "/")

    assert {page.status_code for page in pages} == {200}
    assert (unknown.status_code, changing.status_code, bad.status_code) == (404, 405, 400)
    assert "/api/status" in unknown.json()["error"]["message"]
    assert "after" in bad.json()["error"]["message"]
    assert headless.content == b""
    for page in pages:
        assert page.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "access-control-allow-origin" not in page.headers
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", pages[0].text)
    world.proxy.stop()
    assert "codex.pool" not in world.proxy.log
    with (tmp_path / "flows").open("rb") as file:
        assert list(flow_io.FlowReader(file).stream()) == []
    assert len(world.seen) == before


def test_a_waiting_reader_gets_an_event_as_it_happens(shared: World) -> None:
    last = get(shared, "/api/events")["last"]
    with ThreadPoolExecutor(1) as pool, shared.proxy.client() as client:
        waiting = pool.submit(get, shared, f"/api/events?after={last}&wait=20")
        shared.turn(client, "waited-for")

        news = waiting.result(15)

    assert not news["lost"]
    assert [event["session"] for event in news["events"]][:1] == ["waited-for"]
    assert get(shared, f"/api/events?after={news['last'] + 10**6}")["lost"]


async def test_turns_on_a_socket_are_separate_events(shared: World) -> None:
    last = (await asyncio.to_thread(get, shared, "/api/events"))["last"]
    async with shared.socket("socket-session") as socket:
        await socket_turn(socket)
        await socket_turn(socket)
    happened: list[dict[str, Any]] = []

    def closed() -> bool:
        happened[:] = [e for e in events(shared, last) if e["session"] == "socket-session"]
        return bool(happened[-1]["becomes"] == "closed")

    await asyncio.to_thread(until, closed, 10, "the socket to be closed")
    assert [(e["event"], e["becomes"]) for e in happened] == [
        ("request", None),
        ("socket", "open"),
        ("turn", None),
        ("turn", None),
        ("socket", "closed"),
    ]
    assert happened[0]["status"] == 101
    assert all(event["milliseconds"] is not None and event["bytes_in"] > 0 for event in happened[2:4])
    assert all(event["bytes_out"] > 0 for event in happened[2:])
    told = await asyncio.to_thread(get, shared, f"/api/flows/{happened[0]['flow']}")
    assert [turn["outcome"] for turn in told["flow"]["turns"]] == ["completed", "completed"]


def test_planted_secrets_appear_nowhere(make: Make, tmp_path: Path) -> None:
    journal = tmp_path / "events.jsonl"
    more = ("--set", f"codexpool_events={journal}", "-w", str(tmp_path / "flows"))
    world = make(pat("work"), pat("spare"), folder=tmp_path, arguments=more)
    said = "bad: at-test-PLANTED-error-0123456789"
    for token in world.tokens:
        refusal = {"error": {"code": "at-test-PLANTED-code-0123456789", "message": said}}
        world.standin.plan(Answer(path=RESPONSES, token=token.token, status=403, body=refusal))
    query = "?api_key=PLANTEDquery0123456789&token=at-test-PLANTED-query-0123456789"
    with world.proxy.client() as client:
        for _ in range(3):
            client.post(
                f"https://chatgpt.com{RESPONSES}{query}",
                json={"model": "m", "input": "at-test-PLANTED-body-0123456789"},
                headers=PLANTED,
            )
    texts = []
    with httpx.Client(proxy=world.proxy.url, trust_env=False) as client:
        number = len(client.get(f"{SITE}/api/flows").json()["flows"])
        texts += [client.get(SITE + path).text for path in ("/api/status", "/api/flows", "/api/events", "/metrics")]
        texts += [client.get(f"{SITE}/api/flows/{flow['id']}").text for flow in json.loads(texts[1])["flows"]]
    world.proxy.stop()
    assert number == 3
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] == "request"] == ["request"] * 3
    for flow in flow_io.FlowReader((tmp_path / "flows").open("rb")).stream():
        texts.append(repr(flow.metadata))
    for text in [*texts, journal.read_text(), world.proxy.log]:
        assert "PLANTED" not in text
        for token in (*world.tokens, CLIENT):
            assert not any(form.decode() in text for form in forms(token.token))


def test_a_request_with_the_clients_credential_is_not_traced(shared: World) -> None:
    before = get(shared, "/api/flows")["total"]
    with shared.proxy.client() as client:
        client.get(OWN)

    assert get(shared, "/api/flows")["total"] == before


def test_a_client_that_leaves_in_a_pause_leaves_nothing(shared: World) -> None:
    before = get(shared, "/api/status")["totals"]["requests"]
    shared.standin.plan(Answer(path=RESPONSES, cut="head", times=None))
    with shared.proxy.client() as client, pytest.raises(httpx.ReadTimeout):
        shared.turn(client, "leaves", timeout=0.12)

    until(lambda: get(shared, "/api/status")["totals"]["requests"] == before + 1, 10, "the end of the request")
    totals = get(shared, "/api/status")["totals"]
    assert totals["under_way"] == 0
    assert get(shared, "/api/flows/last")["flow"]["answer"]["error"]


def test_a_request_no_identity_may_send_is_traced(make: Make) -> None:
    world = make(pat("work"))
    world.proxy.door("close", "the pool is closed for a test")
    with world.proxy.client() as client:
        assert world.turn(client).status_code == 503

    told = get(world, "/api/flows/last")["flow"]
    assert told["answer"]["by"] == "codexpool"
    assert "closed for a test" in told["answer"]["message"]


@pytest.mark.parametrize("where", ["no/such/folder/events", "."])
def test_an_unwritable_events_file_is_logged_at_the_start(make: Make, tmp_path: Path, where: str) -> None:
    world = make(
        pat("work"),
        folder=tmp_path,
        arguments=("--set", f"codexpool_events={tmp_path / where}"),
        started=False,
    )
    world.proxy.start(wait=False)

    assert world.proxy.ends() == 1
    assert "codexpool_events" in world.proxy.log
    assert "Traceback" not in world.proxy.log
