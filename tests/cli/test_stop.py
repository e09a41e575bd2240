"""`codexpool stop` ends this user's proxy on this machine, and no other process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from codexpool.cli import running_proxy
from codexpool.cli.commands import stop as command
from codexpool.local.running_proxies import Announcement
from codexpool.proxy.mitm.shutdown import BOUND
from tests.cli.fakeproxy import FakeProxy, status

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no such signals")

ENDS = "import time; print(flush=True); time.sleep(60)  # codexpool run"
ANOTHER = "import time; print(flush=True); time.sleep(60)  # in a folder /src/codexpool/of-something-else"
IGNORES = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {ENDS}"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODEXPOOL_PROXY", raising=False)
    monkeypatch.setattr(running_proxy, "announced", lambda folder: [])


class Process:
    """A process that stands for a proxy, and is reaped as soon as it ends, as a shell does."""

    def __init__(self, code: str) -> None:
        self.popen = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline()
        self._reaper = threading.Thread(target=self.popen.wait, daemon=True)
        self._reaper.start()

    def end(self) -> int:
        self.popen.kill()
        self._reaper.join(10)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return self.popen.returncode


@pytest.fixture(params=[ENDS])
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    made = Process(request.param)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "start_of_service", lambda pid: "")


def announces(monkeypatch: pytest.MonkeyPatch, pid: int, port: int) -> None:
    one = Announcement(pid, (f"127.0.0.1:{port}",), 1.0, "12.3.1", "0.1.0")
    monkeypatch.setattr(running_proxy, "announced", lambda folder: [one])


def stop(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(command.stop, list(arguments))
    assert result.exit_code == code, result.output
    return result


def test_a_proxy_that_does_not_answer_can_be_stopped(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    announces(monkeypatch, process.popen.pid, 9)

    assert f"stopped the proxy at 127.0.0.1:9 (process {process.popen.pid})" in stop().stdout

    assert process.end() == -15


@pytest.mark.parametrize("has_descriptors", [True, False])
def test_the_running_proxy_ends(
    fake: FakeProxy, process: Process, monkeypatch: pytest.MonkeyPatch, has_descriptors: bool
) -> None:
    if not has_descriptors:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    announces(monkeypatch, process.popen.pid, fake.port)

    said = stop().stdout

    assert f"stopped the proxy at 127.0.0.1:{fake.port} (process {process.popen.pid})" in said
    assert process.end() == -15


def test_a_service_is_told_to_start_again_at_the_next_login(
    fake: FakeProxy, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    announces(monkeypatch, process.popen.pid, fake.port)
    monkeypatch.setattr(command, "start_of_service", {process.popen.pid: "systemctl --user start codexpool"}.get)
    assert "starts at your next login. To start one again: systemctl --user start codexpool\n" in stop().stdout


def test_it_is_found_by_the_name_localhost(
    fake: FakeProxy, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    announces(monkeypatch, process.popen.pid, fake.port)
    stop("--proxy", f"http://localhost:{fake.port}")
    assert process.end() == -15


@pytest.mark.parametrize("process", [IGNORES], indirect=True)
def test_one_that_does_not_end_is_reported(
    fake: FakeProxy, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    announces(monkeypatch, process.popen.pid, fake.port)
    monkeypatch.setattr(command, "QUIET", 0.05)
    monkeypatch.setattr(command, "PATIENCE", 0.1)

    said = stop(code=1).stderr

    assert "waiting for requests" in said
    assert f"kill -9 {process.popen.pid}" in said


def test_one_that_has_ended_meanwhile_counts_as_stopped(
    fake: FakeProxy, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    announces(monkeypatch, process.popen.pid, fake.port)
    process.end()
    assert "stopped" in stop().stdout


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="command lines cannot be seen")  # noqa: PTH110
@pytest.mark.parametrize("process", [ANOTHER], indirect=True)
def test_a_process_with_the_id_of_a_proxy_in_a_container_is_left_alone(
    fake: FakeProxy, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    announces(monkeypatch, process.popen.pid, fake.port)
    assert "in a container" in stop(code=1).stderr
    assert process.popen.poll() is None


@pytest.mark.parametrize("answer", [200, 403])
def test_a_proxy_started_elsewhere_is_left_alone(fake: FakeProxy, answer: int) -> None:
    fake.answers["/api/status"] = (answer, status())  # A container's sees a client from another machine.
    assert "docker stop" in stop("--proxy", fake.url, code=1).stderr


def test_without_a_proxy_there_is_nothing_to_stop() -> None:
    said = stop("--proxy", "http://127.0.0.1:1", code=1).stderr
    assert "no proxy is running at 127.0.0.1:1" in said
    assert "codexpool run" not in said


def test_it_waits_longer_than_a_proxy_may_take() -> None:
    assert command.PATIENCE > BOUND
