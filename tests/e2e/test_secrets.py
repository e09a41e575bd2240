"""No secret anywhere but on the wire and in pool.toml: a search through everything there is afterwards."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.e2e.conftest import Make
from tests.e2e.world import BACKEND, MODEL, World, served_by, socket_turn
from tests.running import CLIENT, pat, until
from tests.standin import DISCOVERY, RESPONSES, WHOAMI, Answer, Token

ATTESTATION = "at-test-attestation-of-the-client-0123456789"

PASSWORDS = ("hunter2-in-the-url", "hunter3-in-a-variable")
"""Of the database that has the state."""

LOUDEST = (
    *("-v", "--set", "termlog_verbosity=debug", "--set", "flow_detail=4"),
    *("--set", "console_eventlog_verbosity=debug"),
)


def recording(folder: Path) -> tuple[str, ...]:
    """Arguments with which mitmproxy writes down whatever it can."""
    return ("-w", str(folder / "flows"), "--set", f"hardump={folder / 'flows.har'}", *LOUDEST)


def forms(token: str) -> Iterator[bytes]:
    """A token as it may be found in a file: as it is, and as part of something in base64."""
    yield token.encode()
    for start in range(3):
        whole = base64.b64encode(token.encode()[start:])
        yield whole[: len(whole) // 4 * 4 - 4]


def traces(folder: Path, tokens: list[Token]) -> list[tuple[str, str]]:
    """Where a token is found, pool.toml apart: (file, whose)."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "pool.toml":
            content = path.read_bytes()
            found += [
                (path.name, token.name) for token in tokens if any(form in content for form in forms(token.token))
            ]
    return found


def everybody(world: World) -> list[Token]:
    return [*world.tokens, CLIENT, Token(ATTESTATION, "", "", name="attestation")]


async def test_nothing_written_has_a_token(make: Make, tmp_path: Path) -> None:
    world = make(pat("work"), pat("spare"), pat("third"), folder=tmp_path, arguments=recording(tmp_path))
    told: list[str] = []

    def tell(answer: httpx.Response) -> int:
        told.append(f"{answer.headers} {answer.text}")
        return answer.status_code

    with world.proxy.client() as client:
        client.headers["x-oai-attestation"] = ATTESTATION
        assert tell(world.turn(client, "one")) == 200
        for status in (400, 401, 402, 403, 429, 500):
            for token in world.tokens:
                echo = {
                    "error": {"code": token.token, "message": f"bad token: Bearer {token.token}", "x": token.token}
                }
                world.standin.plan(
                    Answer(
                        path=RESPONSES, token=token.token, status=status, headers={"x-echo": token.token}, body=echo
                    )
                )
            for number in range(2):
                tell(world.turn(client, f"echo-{status}-{number}"))
            world.reset()
        for token in world.tokens:  # a backend can repeat the token that it was sent
            squeezed = gzip.compress(json.dumps({"error": {"message": [token.token]}}).encode())
            gzipped = {"content-encoding": "gzip"}
            world.standin.plan(Answer(path=RESPONSES, token=token.token, status=400, headers=gzipped, body=squeezed))
        tell(world.turn(client, "squeezed"))
        tell(client.get(BACKEND + DISCOVERY))
        with world.proxy.broken("codexpool.proxy.outgoing", "Dressing.request"):
            assert tell(world.turn(client, "broken")) == 503
        with world.proxy.broken("codexpool.proxy.answers", "Answers.judge"):
            world.standin.plan(Answer(path=RESPONSES, status=400, body={"echo": [t.token for t in world.tokens]}))
            assert tell(world.turn(client, "broken-judge")) == 503
        with world.proxy.broken("codexpool.proxy.requests", "Requests.open"):
            assert tell(world.turn(client, "broken-open")) == 503
        world.reset()
        async with world.socket("socket") as socket:
            served_by(await socket_turn(socket))

        # Whoami repeats the token that it refuses.
        world.reset()
        dead = next(token for token in world.tokens if token.name == served_by(world.turn(client, "one")))
        echo = {"error": {"code": dead.token, "message": f"no such token: {dead.token}"}}
        world.standin.plan(
            Answer(path=WHOAMI, token=dead.token, status=401, body=echo, headers={"x-request-id": "r"})
        )
        world.standin.plan(Answer(path=RESPONSES, token=dead.token, status=401, body={"detail": dead.token}))
        assert tell(world.turn(client, "one")) == 200
        world.proxy.says(f"{dead.name} stays suspect: whoami answers 401")

        # The end comes while an answer streams, and while another request waits for its own.
        world.standin.plan(Answer(path=RESPONSES, pace=0.5))
        world.standin.plan(Answer(path=RESPONSES, delay=20))
        number = len(world.seen)
        with client.stream("POST", MODEL, json={"model": "m", "input": "x"}, headers={"thread-id": "end"}) as answer:
            next(answer.iter_raw())
            threading.Thread(target=wait_for_an_answer, args=(world,), daemon=True).start()
            until(lambda: len(world.seen) == number + 2, 10, "the second request")
            world.proxy.stop()

    pool = world.proxy.pool.read_text()
    assert pool.count(dead.token) == 1
    assert (tmp_path / "flows").stat().st_size > 10_000
    assert (tmp_path / "flows.har").stat().st_size > 10_000
    assert traces(tmp_path, everybody(world)) == []
    assert [token.name for token in everybody(world) if any(token.token in text for text in told)] == []


def test_the_password_of_the_database_is_nowhere(make: Make, tmp_path: Path) -> None:
    with socket.socket() as closed:  # It is bound, and nothing listens there.
        closed.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{closed.getsockname()[1]}/pool"
        environ = {"CODEXPOOL_STATE": f"postgresql://me:{PASSWORDS[0]}@{where}", "PGPASSWORD": PASSWORDS[1]}
        world = make(pat("work"), folder=tmp_path, arguments=recording(tmp_path), environ=environ)

        with world.proxy.client() as client:
            assert world.turn(client).status_code == 200  # It serves without its state,
            told = [
                client.get(f"http://codex.pool{path}").text for path in ("/api/status", "/metrics", "/api/events")
            ]
    state = json.loads(told[0])["state"]
    assert (state["engine"], state["connected"]) == ("postgresql", False)
    assert state["where"] == f"postgresql://{where}"  # and says which one.
    assert f"postgresql://{where}" in world.proxy.log
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for password in PASSWORDS:
        assert not [text for text in told if password in text]
        assert not [text for text in written if password.encode() in text]


def wait_for_an_answer(world: World) -> None:
    try:
        with world.proxy.client() as client:
            world.turn(client, "waits")
    except httpx.TransportError:
        pass


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    token = pat("work")
    (tmp_path / "a").write_text(f"x{token.token}x")
    (tmp_path / "b").write_bytes(base64.b64encode(f"ab Bearer {token.token}\n".encode()))
    (tmp_path / "c").write_text(token.token[:-1])
    assert sorted(traces(tmp_path, [token])) == [("a", "work"), ("b", "work")]


def test_a_token_repeated_by_whoami_is_written_nowhere(make: Make, tmp_path: Path) -> None:
    token = pat("work")
    echo = {"error": {"code": token.token, "message": f"no such token: {token.token}"}}
    plan = (Answer(path=WHOAMI, status=401, body=echo, headers={"x-request-id": token.token}),)
    world = make(token, folder=tmp_path, plan=plan, ready=0)
    world.proxy.says("work stays unverified: whoami answers 401")
    with world.proxy.client() as client:
        answer = world.turn(client)
    world.proxy.stop()

    assert answer.status_code == 200  # flags nothing: the real whoami decides
    assert token.token not in answer.text
    assert world.proxy.pool.read_text().count(token.token) == 1
    assert "needs_replacement" not in world.proxy.pool.read_text()
    assert traces(tmp_path, [token]) == []
