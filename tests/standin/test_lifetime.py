"""The stand-in always ends cleanly and leaves nothing behind."""

from __future__ import annotations

import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standin import MODELS, RESPONSES, Answer, StandIn
from tests.standin.clients import WORK, ask, client_token, dressed, http, prompt, websocket, work


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_cut_and_slow_and_half_written_requests_disturb_no_other(tmp_path: Path, http2: bool) -> None:
    # given: a third of the answers is cut, and strangers leave in the middle of TLS, CONNECT and requests
    chance = random.Random(7)
    served: list[int] = []

    def one(number: int) -> None:
        if number % 5 == 0:
            return half_a_request(standin, chance)
        try:
            with http(standin, http2=http2) as client:
                served.append(ask(client, work(), f"echo:w{number}").text.count(f" w{number}"))
        except httpx.TransportError:
            pass

    with StandIn([work()], folder=tmp_path, alpn=("h2", "http/1.1"), pace=0.005) as standin:
        for number in range(60):
            standin.plan(Answer(path=RESPONSES, after=3 * number, cut="head" if number % 2 else "body"))
        # when
        with ThreadPoolExecutor(32) as threads:
            list(threads.map(one, range(200)))
        standin.unplan()
        # then: it serves on, and nothing went wrong in it
        with http(standin, http2=http2) as client:
            assert ask(client, work()).status_code == 200
        # (a client has its answer before the stand-in's thread comes to note that it was sent)
        standin.wait(lambda: all(seen.complete or seen.cut or seen.aborted for seen in list(standin.seen)))
        assert [trouble for trouble in standin.troubles if "Framing" not in trouble] == []
    assert served


def half_a_request(standin: StandIn, chance: random.Random) -> None:
    """Say a part of something, and hang up."""
    head = b"CONNECT chatgpt.com:443 HTTP/1.1\r\nhost: chatgpt.com:443\r\n\r\n"
    with socket.create_connection(("127.0.0.1", standin.proxy_port), timeout=10) as raw:
        raw.sendall(head[: chance.randrange(1, len(head) + 1)])
        if chance.random() < 0.5:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_stop_ends_answers_in_the_middle_and_its_thread(tmp_path: Path, http2: bool) -> None:
    threads = set(threading.enumerate())
    standin = StandIn([work()], folder=tmp_path, pace=30, alpn=("h2", "http/1.1")).start()

    def ask_in_vain() -> None:
        with http(standin, http2=http2) as client, pytest.raises(httpx.TransportError):
            ask(client, work())

    with ThreadPoolExecutor(1) as pool, websocket(standin, work()) as connection:
        failed = pool.submit(ask_in_vain)
        connection.send(json.dumps({"type": "response.create", **prompt("hi")}))
        standin.wait(lambda: sum(seen.status == 200 for seen in standin.seen) == 2)
        # when: both answers are on their way
        standin.stop()
        failed.result(10)
    # then
    mine = {thread for thread in set(threading.enumerate()) - threads if thread.name == "stand-in"}
    assert mine == set()
    assert standin.troubles == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", standin.port), timeout=5)


def test_a_port_that_is_taken_is_said_at_start(tmp_path: Path) -> None:
    with (
        StandIn([work()], folder=tmp_path / "one") as first,
        pytest.raises(OSError, match="in use"),
    ):
        StandIn([work()], folder=tmp_path / "two", port=first.port).start()


def start_process(tmp_path: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tokens": [asdict(work())], "clients": [asdict(client_token())]}))
    command = [sys.executable, "-m", "tests.standin", "--tokens", str(file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def test_the_process_prints_its_ports_and_ends_with_its_input(tmp_path: Path) -> None:
    process, ready = start_process(tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    url = f"https://127.0.0.1:{ready['port']}{MODELS}"
    headers = {**dressed(work()), "host": "chatgpt.com"}
    with httpx.Client(verify=ssl.create_default_context(cafile=ready["ca_file"])) as client:
        first = client.get(url, headers=headers, extensions={"sni_hostname": "chatgpt.com"})
        process.stdin.write(json.dumps({"kill": WORK}) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"done": True}
        second = client.get(url, headers=headers, extensions={"sni_hostname": "chatgpt.com"})
    process.stdin.write('{"summary": true}\n')
    process.stdin.flush()
    summary = json.loads(process.stdout.readline())
    process.stdin.close()
    process.stdout.close()
    assert (first.status_code, second.status_code) == (200, 401)
    assert (summary["requests"], summary["refusals"], summary["troubles"]) == (2, [], [])
    assert process.wait(10) == 0
    assert not Path(ready["ca_file"]).exists()


def test_as_a_process_it_ends_at_sigterm(tmp_path: Path) -> None:
    process, ready = start_process(tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert not Path(ready["ca_file"]).exists()
