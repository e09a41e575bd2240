"""Recording what passes: bounded, written at the end, and never with anything raw in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy import http

from codexpool.recording import files, recorder
from codexpool.recording.anonymize import Anonymizer
from codexpool.recording.files import RecordingError
from codexpool.recording.recorder import Recorder
from tests.recording.flows import a_flow, a_socket

TOKEN = "at-0123456789abcdefABCDEFghij"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.flows"


@pytest.fixture
def started(out: Path) -> Iterator[Recorder]:
    made = Recorder(out)
    yield made
    made.finish()


def read(path: Path) -> list[http.HTTPFlow]:
    return files.read(path).flows


def with_token(text: str = "") -> http.HTTPFlow:
    return a_flow(headers=[("authorization", f"Bearer {TOKEN}")], answer=text)


def test_finished_flows_are_recorded(out: Path, started: Recorder) -> None:
    started.add(with_token("one"))
    started.add(a_flow(status=None, error=f"lost {TOKEN}"))
    started.finish()

    made = read(out)

    assert [flow.request.path for flow in made] == ["/backend-api/codex/responses"] * 2
    assert TOKEN.encode() not in out.read_bytes()


def test_every_attempt_is_there(out: Path, started: Recorder) -> None:
    flow = with_token()
    for status in (401, 200):
        flow.response = http.Response.make(status)
        started.add(flow)
    started.finish()

    assert [flow.response.status_code for flow in read(out) if flow.response] == [401, 200]


def test_later_changes_of_a_flow_are_not_recorded(out: Path, started: Recorder) -> None:
    flow = with_token("one")
    started.add(flow)
    flow.request.headers["x-later"] = "1"
    flow.comment = "later"
    flow.response = None
    started.finish()

    made = read(out)[0]
    assert "x-later" not in made.request.headers
    assert made.response is not None
    assert made.comment == ""


def test_a_value_learned_later_is_replaced_in_earlier_requests(out: Path, started: Recorder) -> None:
    started.add(a_flow(status=None, error="her cat is Zq7rTk2LmVb94XwPcN"))
    started.add(a_flow(headers=[("cookie", "sid=Zq7rTk2LmVb94XwPcN")]))
    started.finish()

    made = read(out)

    assert b"Zq7rTk2LmVb94XwPcN" not in out.read_bytes()
    assert made[0].error is not None
    assert made[0].error.msg == "her cat is " + made[1].request.headers["cookie"].removeprefix("sid=")


def test_a_socket_that_is_still_open_at_the_end_is_there(out: Path) -> None:
    started = Recorder(out)
    flow = a_socket(["hello"], [])
    assert flow.websocket is not None
    flow.websocket.timestamp_end = None
    started.add(flow)
    started.finish()

    made = read(out)[0]
    assert made.websocket is not None
    assert made.websocket.messages == []


def test_a_socket_is_recorded_once_when_it_is_closed(out: Path, started: Recorder) -> None:
    flow = a_socket(["hello"], [])
    assert flow.websocket is not None
    flow.websocket.timestamp_end = None
    started.add(flow)
    flow.websocket.timestamp_end = time.time()
    started.add(flow)
    started.finish()

    assert [one.websocket is not None for one in read(out)] == [True]


def test_other_hosts_are_left_out_unless_they_are_wanted(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for all_hosts, expected in ((False, ["chatgpt.com", "auth.openai.com"]), (True, None)):
        started = Recorder(out, all_hosts=all_hosts)
        hosts = ["chatgpt.com", "git.corp.example", "auth.openai.com", "chatgpt.com.evil.example", "notopenai.com"]
        for host in hosts:
            started.add(a_flow("/", host=host))
        started.finish()
        assert [flow.request.host for flow in read(out)] == (expected or hosts)
    assert "left out 3 to other hosts" in caplog.text


def test_memory_is_bounded_and_logged_once(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "MOST", 4)
    started = Recorder(out)
    for _ in range(10):
        started.add(with_token())
    started.finish()

    assert len(read(out)) == 4
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "start the proxy again with another file" in warnings[0].getMessage()


def test_bodies_are_not_even_kept_in_memory(out: Path) -> None:
    started = Recorder(out)
    started.add(a_flow(body="x" * 1_000_000, answer="y" * 1_000_000))

    assert started._recording.flows[0].request.raw_content is None
    started.finish()
    assert read(out)[0].metadata["codexpool_recording"]["response_bytes"] == 1_000_000


def test_a_refused_recording_leaves_the_old_file(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out.write_bytes(b"before")
    monkeypatch.setattr(Anonymizer, "_headers", lambda _self, headers: headers)
    started = Recorder(out)
    started.add(with_token())
    started.finish()

    assert out.read_bytes() == b"before"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "flow 1: request: a known secret" in errors[0]
    assert TOKEN not in caplog.text


def test_tokens_that_the_pool_had_are_known_at_the_end(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["Zq7rTk2LmVb94XwPcN"]
    started = Recorder(out, secrets=lambda: secrets, names=lambda: ["work"])
    for _ in range(2):
        started.add(a_flow(status=None, error="echo Zq7rTk2LmVb94XwPcN or Kj3xWq8NvTz56RyHdM, of work"))
        secrets[0] = "Kj3xWq8NvTz56RyHdM"
    secrets.clear()
    started.finish()

    for flow in read(out):
        assert flow.error is not None
        words = flow.error.msg.split()
        assert {words[1], words[3].strip(",")} == {"pseudonym-1", "pseudonym-2"}
        assert words[-1] == "work"


def test_a_bug_is_logged_without_its_text(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError(TOKEN)

    monkeypatch.setattr(Anonymizer, "flow", broken)
    started = Recorder(out)
    started.add(with_token())
    started.finish()

    assert not out.exists()
    assert "because of a bug in codexpool (ValueError)" in caplog.text
    assert TOKEN not in caplog.text


def test_a_full_disk_is_logged(out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(files, "put", full)
    started = Recorder(out)
    started.add(with_token())
    started.finish()

    assert caplog.text.count("cannot be written (No space left on device)") == 1


def full(path: Path, content: bytes) -> None:
    raise RecordingError(f"{path}: cannot be written (No space left on device)")


def test_an_unfit_place_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="there is no folder"):
        Recorder(tmp_path / "no" / "out")


def test_adding_takes_little_time(out: Path) -> None:
    started = Recorder(out)
    flow = a_flow(headers=[(f"x-{number}", "v" * 40) for number in range(25)], body="x" * 100_000, answer="y")
    began = time.perf_counter()
    for _ in range(1000):
        started.add(flow)
    took = time.perf_counter() - began
    started.finish()

    assert took < 1.0  # 40 µs each on an idle machine
