"""Recordings as files: read again as they were written, and put in their place as a whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.io import FlowReader

from codexpool.recording import files
from codexpool.recording.anonymize import strip
from codexpool.recording.files import RecordingError
from tests.recording.flows import a_flow, a_socket, recorded

OLD = b"what was there before"


def flows() -> list[http.HTTPFlow]:
    zstd = [("content-type", "application/json"), ("content-encoding", "zstd"), ("x-odd", "a"), ("X-Odd", "b")]
    return [
        a_flow("/backend-api/x?a=1&b=2", headers=zstd, body='{"a": "ä"}', answer="é", comment="codexpool: x"),
        a_socket(['{"type": "response.create"}', "zwei"], ['{"type": "response.completed"}']),
        a_flow(status=None, error="connection lost", metadata={"codexpool": {"version": 1}}),
        a_flow(method="GET", status=304),
    ]


def contents(flow: http.HTTPFlow) -> dict[str, Any]:
    return {
        "id": flow.id,
        "request": (flow.request.method, flow.request.url, flow.request.headers.fields),
        "response": flow.response and (flow.response.status_code, flow.response.headers.fields),
        "error": flow.error and flow.error.msg,
        "comment": flow.comment,
        "is_socket": flow.websocket is not None,
        "metadata": json.loads(json.dumps(flow.metadata)),
    }


@pytest.mark.parametrize("name", ["out.flows", "out.har", "OUT.HAR"])
def test_what_was_written_is_read_again(tmp_path: Path, name: str) -> None:
    written = [strip(flow) for flow in flows()]
    path = tmp_path / name

    files.put(path, files.dump(written, path.suffix.lower() == ".har"))

    assert [contents(flow) for flow in files.read(path).flows] == [contents(flow) for flow in written]


def test_a_flow_file_is_one_for_every_mitmproxy(tmp_path: Path) -> None:
    path = tmp_path / "out"
    files.put(path, recorded(*flows()))

    with path.open("rb") as file:
        read = list(FlowReader(file).stream())

    assert len(read) == 4


def test_a_har_file_is_har_1_2() -> None:
    har = json.loads(recorded(*flows(), as_har=True))["log"]

    assert har["version"] == "1.2"
    assert len(har["entries"]) == 4
    for entry in har["entries"]:
        assert {"startedDateTime", "time", "request", "response", "cache", "timings"} <= entry.keys()
        assert {"method", "url", "httpVersion", "cookies", "headers", "queryString"} <= entry["request"].keys()


def test_a_har_file_says_how_large_the_bodies_were() -> None:
    (entry,) = json.loads(recorded(a_flow(body="0123456789", answer="0123"), as_har=True))["log"]["entries"]

    assert (entry["request"]["bodySize"], entry["response"]["bodySize"]) == (10, 4)
    assert entry["request"]["comment"] == "the body was not recorded"
    assert "postData" not in entry["request"]


def test_a_dump_still_being_written_is_read_in_part() -> None:
    content = recorded(*flows())

    read = files.parse(content[:-10], "it")

    assert len(read.flows) == 3
    assert read.is_cut


@pytest.mark.parametrize("content", [b"no such thing", b'{"log": 1}', b'{"log": {"entries": [{}]}}', b"12:abc"])
def test_a_file_of_another_kind_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "it"
    path.write_bytes(content)

    with pytest.raises(RecordingError, match=str(path)):
        files.read(path)


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"nowhere: cannot be read \(No such file"):
        files.read(tmp_path / "nowhere")


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(OLD)
    path.chmod(0o644)

    files.put(path, b"new")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"new"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(OLD)
    link.symlink_to(real)

    files.put(link, b"new")

    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["fsync", "open"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "out"
    path.write_bytes(OLD)
    with monkeypatch.context() as patched:
        patched.setattr(os, function, full)
        with pytest.raises(RecordingError, match=r"out: cannot be written \(No space left on device\)"):
            files.put(path, b"new" * 1000)

    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_a_renaming_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    path.write_bytes(OLD)
    monkeypatch.setattr(Path, "replace", full)

    with pytest.raises(RecordingError):
        files.put(path, b"new")

    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from codexpool.recording import files
real = Path.replace
def replace(self, target):
    os.kill(os.getpid(), signal.SIGKILL)
Path.replace = replace
files.put(Path(sys.argv[1]), b"new" * 1000)
"""


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(OLD)

    run = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)

    assert run.returncode == -signal.SIGKILL
    assert path.read_bytes() == OLD
    files.put(path, b"new")  # The leftover of a killed process is overwritten.
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_where_nothing_can_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "pipe").touch()
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path, "is not a regular file"),
        (tmp_path / "no" / "out", "there is no folder"),
        (tmp_path / "fifo", "is not a regular file"),
    ):
        with pytest.raises(RecordingError, match=why):
            files.check_place(path)
    files.check_place(tmp_path / "out")
