"""The entry file: from any folder, in each of mitmproxy's tools, and after a reload."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

import httpx
import pytest
from mitmproxy import http
from mitmproxy.addons.script import ReloadInterval
from mitmproxy.io import FlowReader

from codexpool.proxy.mitm.imports import LATER
from tests.e2e.conftest import OLD, Make
from tests.e2e.world import FAILED_CLOSED, MODEL, OWN, World, copied_entry, served_by, socket_turn
from tests.running import CLIENT, ROOT, pat, until
from tests.standin import RESPONSES, WHOAMI, Answer

OURS_LATER = [name for name in LATER if name.startswith("codexpool.")]

pytestmark = pytest.mark.usefixtures("commands_themselves")


def test_the_addon_works_from_another_folder(make: Make, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    world = make(pat("work"), cwd=elsewhere, script=Path(os.path.relpath(ROOT / "addon", elsewhere)))
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "work"


def test_the_entry_works_through_a_symlink(make: Make, tmp_path: Path) -> None:
    """With the package beside it, installed or not."""
    there = tmp_path / "there"
    there.mkdir()
    link = tmp_path / "a-link-of-another-name"
    link.symlink_to(copied_entry(there))
    world = make(pat("work"), script=link)
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "work"
    assert world.proxy.door("state")["package"] == str(there / "codexpool" / "__init__.py")


@pytest.mark.skipif(OLD, reason="refused there, see test_start.py")
def test_mitmweb_never_shows_a_token(make: Make) -> None:
    port = free_port()
    web = ("--no-web-open-browser", "--web-port", str(port), "--set", "web_password=for-the-test")
    world = make(pat("work"), pat("spare"), tool="mitmweb", arguments=web, pace=0.2)
    shown: list[str] = []

    with world.proxy.client() as client, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as api:
        api.headers["authorization"] = "Bearer for-the-test"
        body = {"model": "m", "input": "echo:apple"}
        dead = served_by(world.turn(client, "web"))
        world.standin.kill(next(token.token for token in world.tokens if token.name == dead))
        with client.stream("POST", MODEL, json=body, headers={"thread-id": "web"}) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            flows = api.get("/flows")
            shown += [
                flows.text,
                *(api.get(f"/flows/{flow['id']}/request/content.data").text for flow in flows.json()),
            ]
            for _ in pieces:
                pass
        last = api.get("/flows").json()[-1]["id"]
        view = api.get(f"/flows/{last}/request/content/codexpool").text
        client.get("http://codex.pool/api/status")
        assert [flow["id"] for flow in api.get("/flows").json()][-1] == last  # its own page is no traffic
        shown.insert(1, view)
        for path in ("/flows", "/events", "/state", "/options", "/flows/dump"):
            shown.append(api.get(path).text)

    assert "<codexpool:" in shown[0]
    assert "attempt 2" in view
    assert "~ authorization" in view
    assert "codexpool: " in shown[-5]  # the comment: who served, after how many attempts
    assert "comment" in json.loads(shown[-2])["web_columns"]["value"]  # It is in the list.
    assert not [token.name for token in (*world.tokens, CLIENT) if token.token in "".join(shown)]


def test_the_addon_works_under_the_console(make: Make) -> None:
    port = free_port()
    world = make(pat("work"), tool="mitmproxy", arguments=("-p", str(port)), ready=0, started=False)
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    screen: list[bytes] = []

    def drain() -> None:
        while True:
            try:
                screen.append(os.read(terminal, 65536))
            except OSError:
                return

    threading.Thread(target=drain, daemon=True).start()
    environ = {**world.proxy._environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    process = subprocess.Popen(world.proxy._command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    try:
        world.proxy.port = port

        def serves() -> bool:
            if not world.proxy.ca_file.exists() or process.poll() is not None:
                return False
            try:
                with world.proxy.client() as client:
                    return served_by(world.turn(client)) == "work"
            except httpx.TransportError:
                return False

        until(serves, 30, "the console to serve")
        until(lambda: b"chatgpt.com /backend-api/codex/responses" in plain(screen), 10, "the flow to be drawn")
        assert world.tokens[0].token.encode() not in plain(screen)
        world.nothing_of_the_client_left()
    finally:
        process.terminate()
        process.wait(10)
        os.close(theirs)
        os.close(terminal)


def test_the_wheels_entry_needs_no_package_on_the_path_and_stays_as_it_was_started(
    make: Make, tmp_path: Path
) -> None:
    # given: the layout of an installed wheel, for a mitmproxy of another environment
    package = tmp_path / "elsewhere" / "codexpool"
    shutil.copytree(ROOT / "codexpool", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "entry").mkdir()
    entry = Path(shutil.copy(ROOT / "addon", package / "entry" / "addon"))
    (tmp_path / "bare").mkdir()

    world = make(pat("work"), script=entry, cwd=tmp_path / "bare", environ={"PYTHONSAFEPATH": "1"})

    assert Path(world.proxy.door("state")["package"]).parent == package
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "work"

    # when the package is upgraded under it: its files are gone for a while, and are then others, which do not work
    until(lambda: set(OURS_LATER) <= set(world.proxy.door("modules")), 20, "what is needed later to be imported")
    entry.unlink()
    shutil.rmtree(package)
    time.sleep(2 * ReloadInterval)
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "9.9.9"\nraise RuntimeError("an upgrade under way")\n')
    (package / "addon.py").touch()
    (package / "entry").mkdir()
    entry.write_text("raise RuntimeError('another version')")
    world.proxy.says("codexpool 9.9.9 is installed, and 0.1.0 still runs")

    # then what was started goes on, with all that it does seldom
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "work"
        for path in ("/", "/page.js", "/api/status", "/metrics"):
            assert client.get(f"http://codex.pool{path}").status_code == 200, world.proxy.log
    assert world.proxy.status()["proxy"]["installed"] == "9.9.9"
    world.standin.kill(world.tokens[0].token)
    with world.proxy.client() as client:
        assert world.turn(client, "dead").status_code == 400
    until(lambda: "needs_replacement" in world.proxy.pool.read_text(), 20, "the flag")
    assert "Traceback" not in world.proxy.log


async def test_a_reload_keeps_sessions_and_streams(make: Make, tmp_path: Path) -> None:
    """It leaves nothing behind, and a tunnel keeps the identity that its client has named."""
    entry = copied_entry(tmp_path)
    world = make(pat("work"), pat("spare"), script=entry)
    spare = world.proxy.url.replace("://", "://spare@")
    with (
        world.proxy.client() as client,
        httpx.Client(proxy=spare, verify=world.proxy.trust, trust_env=False) as named,
    ):
        assert served_by(world.turn(named, "named")) == "spare"
        sessions = {f"r-{number}": served_by(world.turn(client, f"r-{number}")) for number in range(6)}
        before = world.proxy.door("state")
        world.standin.plan(Answer(path=RESPONSES, pace=0.6))
        async with world.socket("r-0") as socket:
            served = served_by(await socket_turn(socket))
            with client.stream("POST", MODEL, json={"model": "m", "input": "echo:apple"}) as answer:
                pieces = answer.iter_raw()
                text = next(pieces)
                reload(world, entry, 2)
                text += b"".join(pieces)
            assert b"response.completed" in text
            # the socket is still open, and its client is asked to reconnect, because the new addon does not know it
            assert (await socket_turn(socket))[-1]["error"]["code"] == "websocket_connection_limit_reached"
        async with world.socket("r-0") as socket:
            assert served_by(await socket_turn(socket)) == served
        for number in range(3, 6):
            reload(world, entry, number)
        assert {session: served_by(world.turn(client, session)) for session in sessions} == sessions
        assert {served_by(world.turn(named, f"named {number}")) for number in range(4)} == {"spare"}

    assert before["keepers"] == 1
    # (a thread of an old one may still be on its way)
    until(lambda: world.proxy.door("state")["keepers"] == 1, 10, "the keepers of before to be gone")
    assert world.proxy.door("state")["stream_classes"] == before["stream_classes"]
    world.check()
    assert "Traceback" not in world.proxy.log


async def test_an_open_socket_survives_reloads_in_regular_mode(make: Make, tmp_path: Path) -> None:
    # given a proxy in regular mode (what it asks itself still goes by the other one), and an open socket
    entry, port = copied_entry(tmp_path), free_port()
    script = ROOT / "tests" / "e2e" / "straight.py"
    arguments = ("-s", str(script), "--mode", f"regular@{port}")
    world = make(pat("work"), pat("spare"), script=entry, arguments=arguments, started=False)
    world.proxy._environ["STANDIN_PORT"] = str(world.standin.port)
    with world.proxy:
        world.proxy.says("spare is ready")
        world.proxy.port = port
        async with world.socket("idle") as idle, world.socket("busy") as busy:
            served = served_by(await socket_turn(idle))
            served_by(await socket_turn(busy))
            reload(world, entry, 2)
            reload(world, entry, 3)

            # when its client asks something, then it is told at once to connect again
            last = (await socket_turn(idle))[-1]
            assert last["error"]["code"] == "websocket_connection_limit_reached"
            last = (await socket_turn(busy))[-1]
            assert last["error"]["code"] == "websocket_connection_limit_reached"
        async with world.socket("idle") as again:
            assert served_by(await socket_turn(again)) == served
    assert {seen.name for seen in world.seen if seen.transport == "websocket"} <= {"work", "spare"}
    assert "Traceback" not in world.proxy.log
    assert "crashed" not in world.proxy.log


async def test_a_request_waiting_during_a_reload_may_ask_again(make: Make, tmp_path: Path) -> None:
    entry = copied_entry(tmp_path)
    slow = Answer(path=WHOAMI, delay=30, times=2)
    world = make(pat("work"), pat("spare"), script=entry, plan=(slow,), ready=0)
    async with world.proxy.async_client() as client:
        waiting = asyncio.create_task(client.post(MODEL, json={"model": "m", "input": "hello"}))
        await asyncio.sleep(1)
        await asyncio.to_thread(reload, world, entry, 2)
        answer = await asyncio.wait_for(waiting, 5)
        again = await client.post(MODEL, json={"model": "m", "input": "hello"})

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "0")
    served_by(again)
    assert "Traceback" not in world.proxy.log


def test_after_a_failed_reload_only_own_paths_pass(make: Make, tmp_path: Path) -> None:
    entry = copied_entry(tmp_path)
    good, package = entry.read_text(), tmp_path / "codexpool" / "proxy/requests.py"
    source = package.read_text()
    dump = tmp_path / "flows"
    world = make(pat("work"), script=entry, arguments=("-w", str(dump)))

    def closed() -> bool:
        with world.proxy.client() as client:
            answer = world.turn(client)
            return answer.status_code == 503 and answer.json()["error"]["code"] == FAILED_CLOSED

    def refused() -> None:
        until(closed, 10, "swap paths to be refused")
        world.reset()
        with world.proxy.client() as client:
            answers = [world.turn(client, f"closed-{number}") for number in range(3)]
            upgrade = client.get(MODEL, headers={"upgrade": "websocket", "connection": "upgrade"})
            assert {answer.status_code for answer in (*answers, upgrade)} == {503}
            assert world.seen == []
            assert client.get(OWN).status_code == 200
            assert world.seen[-1].name == "client"
        world.check()

    def fixed() -> None:
        ready = world.proxy.log.count("work is ready")
        package.write_text(source)
        entry.write_text(good)
        until(lambda: world.proxy.log.count("work is ready") > ready, 15, "the addon to be back")
        with world.proxy.client() as client:
            assert served_by(world.turn(client)) == "work"

    entry.write_text(good + "\nthis is no Python\n")
    refused()
    fixed()
    package.write_text(source + "\nthis is no Python\n")
    os.utime(entry)
    refused()
    fixed()
    entry.unlink()  # `git checkout` does that for a moment.
    time.sleep(2 * ReloadInterval)
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "work"

    # What was refused is recorded all the same: without the client's credential.
    world.proxy.stop()
    with dump.open("rb") as file:
        flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]
    swapped = [flow for flow in flows if flow.request.path.startswith("/backend-api/codex/")]
    assert len(swapped) > 12
    assert CLIENT.token not in str([flow.get_state() for flow in swapped])


def plain(screen: list[bytes]) -> bytes:
    """What was drawn, without colours and places."""
    return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", b"".join(screen))


def reload(world: World, entry: Path, times: int) -> None:
    """Touch the entry file, and wait until it was loaded so many times in all, and serves."""
    ready = world.proxy.log.count("work is ready")
    os.utime(entry)
    until(lambda: world.proxy.log.count(f"Loading script {entry}") == times, 10, "the reload")
    until(lambda: world.proxy.log.count("work is ready") > ready, 10, "the pool after the reload")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
