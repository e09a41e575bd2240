"""`codexpool init`: it asks for what is missing only, has the commands do it, and ends with a probe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from codexpool.cli import running_proxy
from codexpool.cli.commands import doctor, init
from codexpool.cli.main import COMMANDS, Entry
from codexpool.local.ca_files import CERTIFICATE
from codexpool.local.running_proxies import Announcement
from tests.cli.fakeproxy import FakeProxy, identity, running, status
from tests.standin.certificates import Authority


class Machine:
    """A person's home, where the other commands only do what shows that they were called."""

    def __init__(self, home: Path, fake: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.fake, self.monkeypatch = home, fake, monkeypatch
        self.pool = home / "pool.toml"
        self.called: list[str] = []
        self.probed: list[Mapping[str, str]] = []
        self.works = True
        for name in ("HTTPS_PROXY", "NO_PROXY", "no_proxy", running_proxy.VARIABLE, "CODEXPOOL_UPSTREAM_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "HOME": str(home),
            "SHELL": "/bin/bash",
            "CODEXPOOL_CONFIG": str(self.pool),
            "CODEXPOOL_STATE": str(home / "state.sqlite3"),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(running_proxy, "DEFAULT", "http://127.0.0.1:1")
        monkeypatch.setattr(running_proxy, "announced", lambda _: [])
        monkeypatch.setattr(init, "LOOK", 0)
        monkeypatch.setattr(init, "PATIENCE", 5)
        does = {"add": self.add, "login": self.add, "setup": self.make_authority, "service": self.start}
        for name in does:
            monkeypatch.setitem(COMMANDS, name, Entry(name, ""))
        monkeypatch.setattr(Entry, "load", lambda entry: self._command(entry.where, does[entry.where]))
        monkeypatch.setattr(doctor, "examine", self._examine)

    def _command(self, name: str, action: Any) -> click.Command:
        @click.command(context_settings={"ignore_unknown_options": True})
        @click.argument("words", nargs=-1, type=click.UNPROCESSED)
        def command(words: tuple[str, ...]) -> None:
            self.called.append(" ".join([name, *words]))
            if not self.works:
                raise click.ClickException("the backend refused this token")
            action()

        return command

    def _examine(self, out: object, environ: Mapping[str, str], program: object, url: str) -> bool:
        self.probed.append(environ)
        return self.works

    def add(self) -> None:
        self.pool.touch(mode=0o600)
        self.pool.write_text('[[identity]]\nname = "work"\ntoken = "at-test-0123456789abcdef0123456789"\n')

    def make_authority(self) -> None:
        (self.home / ".mitmproxy").mkdir()
        Authority(self.home).ca_file.rename(self.home / ".mitmproxy" / CERTIFICATE)

    def start(self) -> None:
        """The proxy runs from now on."""
        self.fake.answers["/api/status"] = (200, status(proxy={"pool": str(self.pool)}))
        one = Announcement(1, (f"127.0.0.1:{self.fake.port}",), 1.0, "12.3.1", "0.1.0", self.home / ".mitmproxy")
        self.monkeypatch.setattr(running_proxy, "announced", lambda _: [one])

    def run(self, typed: str | None, code: int = 0) -> Result:
        """Run it for a person who types that; None for a program."""
        self.monkeypatch.setattr(init, "_can_ask", lambda: typed is not None)
        result = CliRunner().invoke(init.init, [], input=typed or "")
        assert result.exit_code == code, (result.output, result.exception)
        return result


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(sys, "platform", "linux")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "systemctl").touch(mode=0o700)
    monkeypatch.setenv("PATH", str(bin_folder))
    with running() as fake:
        yield Machine(tmp_path, fake, monkeypatch)


def test_a_person_who_has_nothing_is_led_to_a_client_that_is_served(machine: Machine) -> None:
    said = machine.run("t\nwork\nb\n").stderr

    assert machine.called == ["add work", "setup", "service install"]
    (environ,) = machine.probed
    assert environ["HTTPS_PROXY"] == f"http://127.0.0.1:{machine.fake.port}"
    assert environ["CODEX_CA_CERTIFICATE"] == str(machine.home / ".mitmproxy" / CERTIFICATE)
    assert said.endswith('Next:\n  eval "$(codexpool env)" && codex\n')


def test_each_step_names_the_command_that_does_it(machine: Machine) -> None:
    said = machine.run("t\nwork\nb\n").output
    for by_hand in ("codexpool add NAME", "codexpool setup", "codexpool run", "codexpool doctor", "codexpool env"):
        assert by_hand in said


def test_what_is_done_is_not_done_again(machine: Machine) -> None:
    machine.add()
    machine.make_authority()
    machine.start()

    said = machine.run("").stdout

    assert machine.called == []
    assert f"work in {machine.pool}" in said
    assert f"listens at 127.0.0.1:{machine.fake.port}" in said
    assert len(machine.probed) == 1


def test_a_login_may_be_added_instead(machine: Machine) -> None:
    machine.make_authority()
    machine.start()
    machine.run("l\nspare\n")
    assert machine.called == ["login spare"]


def test_a_failure_is_told_and_may_be_tried_again(machine: Machine) -> None:
    machine.make_authority()
    machine.start()
    machine.works = False

    result = machine.run("t\nwork\ny\nl\nwork\nn\n", code=1)

    assert machine.called == ["add work", "login work"]
    assert result.stderr.count("the backend refused this token") == 2


def test_a_proxy_in_another_terminal_is_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.add()
    machine.make_authority()
    looks = iter(range(3))

    def sleep(_: float) -> None:
        if next(looks) == 2:
            machine.start()

    monkeypatch.setattr("time.sleep", sleep)

    assert "In another terminal: codexpool run\n" in machine.run("t\n").stdout

    assert machine.called == []
    assert len(machine.probed) == 1


@pytest.mark.parametrize(
    "starting", [{"identities": [identity(status="unverified")]}, {"state": {"connected": False}}], ids=str
)
def test_the_probe_waits_until_the_proxy_knows_its_identities(machine: Machine, starting: dict[str, Any]) -> None:
    machine.add()
    machine.make_authority()
    machine.start()
    answers = [status(), *[status(**starting)] * 50]
    machine.fake.answers["/api/status"] = lambda: (200, answers.pop() if len(answers) > 1 else answers[0])

    machine.run("")

    assert len(answers) == len(machine.probed) == 1


def test_without_a_proxy_no_probe_is_sent(machine: Machine) -> None:
    machine.add()
    machine.make_authority()

    result = machine.run("n\n", code=1)

    assert "not sent: no proxy runs yet" in result.stdout
    assert result.stderr.endswith('Next:\n  codexpool run\n  eval "$(codexpool env)" && codex\n')
    assert machine.probed == []


def test_what_was_left_out_comes_next(machine: Machine) -> None:
    said = machine.run("n\nn\n", code=1).stderr

    assert said.endswith('Next:\n  codexpool add NAME\n  codexpool run\n  eval "$(codexpool env)" && codex\n')


def test_a_service_that_does_not_start_is_no_end(machine: Machine) -> None:
    machine.add()
    machine.make_authority()
    machine.works = False

    machine.run("b\ny\nn\n", code=1)

    assert machine.called == ["service install"]


def test_a_program_is_told_what_is_left_to_do(machine: Machine) -> None:
    machine.make_authority()

    said = machine.run(None, code=1).stdout

    assert [line.partition(": ")[2][:5] == "to do" for line in said.splitlines()] == [True, False, True]
    assert (machine.called, machine.probed) == ([], [])
    machine.add()
    machine.start()
    assert "to do" not in machine.run(None).stdout


def test_a_proxy_with_another_pool_is_told(machine: Machine) -> None:
    machine.add()
    machine.make_authority()
    machine.start()
    machine.fake.answers["/api/status"] = (200, status(proxy={"pool": "/other/pool.toml"}))

    assert f"it uses /other/pool.toml, not {machine.pool}" in machine.run("").stdout
