"""Recording what passes through a real proxy: nothing private is in it, and it is good for something."""

from __future__ import annotations

import json
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from mitmproxy import http

from codexpool.cli import main
from codexpool.cli.entry import CODEXPOOL
from codexpool.recording import files
from tests.e2e.conftest import Make
from tests.e2e.world import OWN, World, served_by, socket_turn
from tests.recording.flows import is_in, readable
from tests.running import CLIENT, ROOT, Codex, answered, pat, pool_toml, until
from tests.standin import RESPONSES, Answer, StandIn

COOKIE = "Zq7rTk2LmVb94XwPcN"
EMAIL = "alice@corp.example"
PROMPT = "the prompt, which is private"


def recording(path: Path, *more: str) -> tuple[str, ...]:
    options = [f"codexpool_record={path}", *more]
    return tuple(word for option in options for word in ("--set", option))


def read(path: Path) -> list[http.HTTPFlow]:
    return files.read(path).flows


def private(world: World) -> list[str]:
    ids = [value for token in (*world.tokens, CLIENT) for value in (token.token, token.account_id)]
    return [*ids, COOKIE, EMAIL]


async def a_busy_day(world: World) -> None:
    """Requests of all kinds, with what is private in many places of them."""
    with world.proxy.client() as client:
        client.headers["cookie"] = f"sid={COOKIE}; theme=dark"
        name = served_by(world.turn(client, "one", PROMPT))
        dead = next(token for token in world.tokens if token.name == name)
        world.standin.kill(dead.token)
        assert served_by(world.turn(client, "one", f"I am {EMAIL}")) != name
        echo = {"error": {"code": "x", "message": f"no: {COOKIE}, {CLIENT.token} of {EMAIL}"}}
        world.standin.plan(
            Answer(path=RESPONSES, status=400, body=echo, headers={"set-cookie": f"a={COOKIE}2; Path=/"})
        )
        assert world.turn(client, "one").status_code == 400
        assert client.get(OWN).status_code == 200
    async with world.socket("two") as socket:
        served_by(await socket_turn(socket, f"{PROMPT}, says {EMAIL}"))


@pytest.mark.parametrize("name", ["out.flows", "out.har"])
async def test_nothing_private_is_recorded(make: Make, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    world = make(pat("work"), pat("spare"), arguments=recording(out))
    await a_busy_day(world)
    assert world.proxy.stop(signal.SIGINT) == 0

    text = readable(out.read_bytes())
    flows = read(out)
    assert [value for value in (*private(world), PROMPT, "delta") if is_in(value, text)] == []
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [flow.request.path for flow in flows].count(RESPONSES) == 4
    cookies = {flow.request.headers["cookie"].partition(";")[0] for flow in flows if "cookie" in flow.request.headers}
    assert len(cookies) == 1
    assert re.fullmatch(r"sid=pseudonym-\d+", *cookies)
    socket = next(flow for flow in flows if flow.websocket is not None)
    assert socket.metadata["codexpool"]["turns"][0]["bytes"] > 0
    assert "work" not in " ".join(flow.comment for flow in flows)
    assert any(re.search(r"identity-\d: 401 token_revoked", flow.comment) for flow in flows)
    assert max(flow.metadata["codexpool_recording"]["request_bytes"] for flow in flows) > len(PROMPT)


def test_a_proxy_that_cannot_record_does_not_start(make: Make, tmp_path: Path) -> None:
    world = make(pat("work"), arguments=recording(tmp_path / "no" / "out"), started=False)
    world.proxy.start(wait=False)

    assert world.proxy.ends() != 0
    assert "there is no folder" in world.proxy.log


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([pat("work")], clients=[CLIENT], folder=tmp_path) as made:
        yield made


def record(standin: StandIn, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """`codexpool record`, with a proxy on a free port in front of the stand-in."""
    pool_toml(tmp_path, pat("work"))
    world = make_environ(tmp_path)
    return subprocess.Popen(
        [
            *(*CODEXPOOL, "record", *arguments, "--config", str(tmp_path / "pool.toml")),
            *("--mode", f"upstream:http://127.0.0.1:{standin.proxy_port}", "-p", "0"),
            *("--set", f"confdir={tmp_path / 'mitmproxy'}"),
            *("--set", f"ssl_verify_upstream_trusted_ca={standin.ca_file}"),
        ],
        env=world,
        stdin=subprocess.DEVNULL,
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )


def make_environ(folder: Path) -> dict[str, str]:
    return {
        "PATH": str(Path(sys.executable).parent),
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "CODEXPOOL_STATE": str(folder / "state.sqlite3"),
    }


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_record_starts_a_proxy_and_leaves_a_recording(
    standin: StandIn, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out, log = tmp_path / "out.har", tmp_path / "log"
    process = record(standin, tmp_path, str(out))
    try:
        until(lambda: "work is ready" in log.read_text() or process.poll() is not None, 60, "the pool")
        process.send_signal(number)
        assert process.wait(30) == code, log.read_text()
    finally:
        process.kill()

    assert json.loads(out.read_text())["log"]["version"] == "1.2"
    assert f"{out}: 0 requests recorded" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_record_reports_a_missing_recording(standin: StandIn, tmp_path: Path) -> None:
    process = record(standin, tmp_path, str(tmp_path / "out"), "--no-such-option")

    assert process.wait(60) == 1
    assert "out: not recorded; the lines above say why" in (tmp_path / "log").read_text()
    assert not (tmp_path / "out").exists()


@pytest.mark.real_client
@pytest.mark.parametrize("websockets", [True, False])
def test_nothing_private_of_a_real_client_is_recorded(make: Make, tmp_path: Path, websockets: bool) -> None:
    out = tmp_path / "out.flows"
    world = make(pat("work"), pat("spare"), arguments=recording(out), websockets=websockets)
    codex = Codex(world.proxy, tmp_path)
    name = answered(codex.exec("say hi tools:1 echo:one"), "one")
    world.standin.kill(next(token.token for token in world.tokens if token.name == name))
    answered(codex.exec("resume", "--last", "and again echo:two"), "two")
    world.proxy.stop()

    text = readable(out.read_bytes())
    assert [value for value in (*private(world), CLIENT.email) if is_in(value, text)] == []
    turns = [flow for flow in read(out) if flow.request.path == RESPONSES]
    assert len(turns) > 1
    for flow in turns:  # for a comparison with another version
        headers, session = flow.request.headers, flow.metadata["codexpool"]["session"]
        version = headers["version"]
        assert headers["user-agent"] == session["user_agent"]
        assert headers["user-agent"].startswith(f"{headers['originator']}/{version} (")
        assert headers["x-codex-routing-hint"] == f"model={session['model']}"
        assert session["model"].startswith("gpt-")
    result = CliRunner().invoke(main, ["explain", str(out)])
    assert result.exit_code == 0, result.output
    shutil.rmtree(codex.home)
