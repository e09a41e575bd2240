"""`codexpool service`: what it writes, what it asks systemd or launchd to do, and what it says when that fails."""

from __future__ import annotations

import json
import os
import plistlib
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from codexpool.cli import running_proxy
from codexpool.cli.commands import service as command
from codexpool.cli.service import managers
from codexpool.cli.service.environment import environment_of, left_out
from codexpool.cli.service.files import ENDS_WITHIN, MARK, WITH_VARIABLES, Plan, agent, unit
from codexpool.local.running_proxies import Announcement
from codexpool.proxy.mitm.shutdown import BOUND

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no systemd, and no launchd")

SYSTEMCTL = """\
echo "$@" >> "$HOME/asked"
fails="$(cat "$HOME/fails" 2>/dev/null || echo none)"
case "$*" in *"$fails"*) echo 'Failed to connect to bus: No medium' >&2; exit 1;; esac
case "$*" in *show*) cat "$HOME/state";; esac
"""
LAUNCHCTL = """\
echo "$@" >> "$HOME/asked"
case "$1" in
    print) [ -s "$HOME/loaded" ] || exit 113; cat "$HOME/loaded"; [ ! -e "$HOME/ending" ] || rm "$HOME/loaded";;
    bootout) touch "$HOME/ending";;
    bootstrap) cp "$HOME/state" "$HOME/loaded"; rm -f "$HOME/ending";;
esac
"""
RUNS = "ActiveState=active\nSubState=running\nMainPID=4711\nUnitFileState=enabled\n"
FAILS = "ActiveState=activating\nSubState=auto-restart\nMainPID=0\nUnitFileState=enabled\n"


class Machine:
    """A home, and the programs of a service manager that only write down what they are asked."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir()
        self.monkeypatch = monkeypatch
        for name in [*os.environ]:
            if name.startswith(("XDG_", "CODEXPOOL_", "PG")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("SHELL", "/bin/bash")
        monkeypatch.setenv("CODEXPOOL_STATE", str(home / "state.sqlite3"))
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        monkeypatch.setattr(managers, "LOOK", 0)
        monkeypatch.setattr(command, "STARTS_WITHIN", 0)
        self.announced(4711)

    def has(self, name: str, script: str, state: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o700)
        self.says(state)

    def says(self, state: str) -> None:
        (self.home / "state").write_text(state)

    def announced(self, pid: int) -> None:
        one = Announcement(pid, ("127.0.0.1:8080",), 1.0, "12.3.1", "0.1.0", self.home / ".mitmproxy")
        self.monkeypatch.setattr(running_proxy, "announced", lambda _: [one])

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(command.service, list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        return result

    @property
    def asked(self) -> list[str]:
        path = self.home / "asked"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def unit(self) -> Path:
        return self.home / ".config" / "systemd" / "user" / "codexpool.service"

    @property
    def agent(self) -> Path:
        return self.home / "Library" / "LaunchAgents" / "codexpool.plist"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with systemd, where the service runs once it is started."""
    made = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "platform", "linux")
    made.has("systemctl", SYSTEMCTL, RUNS)
    made.has("journalctl", "echo 'codexpool: 127.0.0.1:8080 is in use by another program'", RUNS)
    made.has("loginctl", "echo no", RUNS)
    return made


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "platform", "darwin")
    made.has("launchctl", LAUNCHCTL, "\tstate = running\n\tpid = 4711\n")
    return made


# -- the files


def plan(*arguments: str, **environ: str) -> Plan:
    return Plan(
        ["/opt/codex pool/bin/codexpool", "run", *arguments],
        environ,
        Path("/home/me/100%/environment"),
        Path("/home/me"),
    )


ESCAPES = re.compile(r'\\x([0-9a-f]{2})|\\(["\\])')


def read_back(text: str, doubled: str) -> list[str]:
    """The words of a line as systemd reads them (systemd.syntax, systemd.service)."""
    words = [found[0] or found[1] for found in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', text)]
    plain = [
        ESCAPES.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], word) if '"' in text else word
        for word in words
    ]
    for character in doubled:
        plain = [word.replace(character * 2, character) for word in plain]
    return [word.encode("latin-1", "surrogateescape").decode() if word.isascii() else word for word in plain]


def line(text: str, name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return str(found)


ARGUMENTS = st.text(
    st.characters(codec="ascii", exclude_characters="\0") | st.sampled_from("äß€"), min_size=1, max_size=12
)


@given(st.lists(ARGUMENTS, max_size=4))
def test_systemd_reads_back_every_argument(arguments: list[str]) -> None:
    made = plan("a b", *arguments)
    assert read_back(line(unit(made), "ExecStart"), "%$") == list(made.command)


def test_the_unit_has_one_line_for_each_setting() -> None:
    text = unit(plan("x\ny", CODEXPOOL_CONFIG="/home/me/a b/100%\n.toml"))
    assert read_back(line(text, "Environment"), "%") == ["CODEXPOOL_CONFIG=/home/me/a b/100%\n.toml"]
    assert line(text, "EnvironmentFile") == "-/home/me/100%%/environment"


@pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="there is no systemd")
def test_systemd_itself_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "codexpool.service"
    made = Plan(["/bin/echo", "a b", "100%", "$HOME"], {"A": "x y"}, tmp_path / "environment", tmp_path)
    path.write_text(unit(made))
    environ = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", path], env=environ, capture_output=True, text=True, check=False
    )
    assert [said for said in done.stderr.splitlines() if path.name in said] == []


@given(st.lists(ARGUMENTS.filter(str.isprintable), max_size=4))
def test_launchd_reads_back_every_argument(arguments: list[str]) -> None:
    made = plan(*arguments, PATH="/usr/bin")
    document = plistlib.loads(agent(made, "codexpool", Path("/log")).encode())
    assert document["ProgramArguments"][4:] == list(made.command)
    assert document["EnvironmentVariables"] == {"PATH": "/usr/bin"}
    assert document["WorkingDirectory"] == "/home/me"
    assert document["StandardOutPath"] == document["StandardErrorPath"] == "/log"


@pytest.mark.parametrize("exists", [True, False])
def test_an_agent_reads_its_variables_and_then_becomes_the_proxy(tmp_path: Path, exists: bool) -> None:
    variables = tmp_path / "environment"
    if exists:
        variables.write_text('CODEXPOOL_WORK_TOKEN="a b"\n')
    shown = ["/bin/sh", "-c", 'echo "[$CODEXPOOL_WORK_TOKEN] $1"', "sh", "an argument"]
    done = subprocess.run(
        ["/bin/sh", "-c", WITH_VARIABLES, variables, *shown], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout == f"[{'a b' if exists else ''}] an argument\n"


def test_turns_may_finish_before_a_proxy_is_killed() -> None:
    assert ENDS_WITHIN > BOUND
    assert f"TimeoutStopSec={ENDS_WITHIN}" in unit(plan())
    assert plistlib.loads(agent(plan(), "x", Path("/log")).encode())["ExitTimeOut"] == ENDS_WITHIN


# -- what of the shell is in them

SHELL = {
    "HOME": "/home/me",
    "PATH": "/opt/bin:/bin",
    "XDG_STATE_HOME": "/state",
    "CODEXPOOL_STATE_KEY": "codexpool-sk-secret",
    "PGPASSWORD": "secret",
    "WORK_TOKEN": "at-secret",
    "OPENAI_API_KEY": "sk-secret",
}


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("/data/state.sqlite3", "/data/state.sqlite3"),
        ("postgresql://codexpool:secret@db.example/codexpool", None),
        ("secret://x", None),
    ],
)
def test_no_secret_of_the_shell_is_written(state: str, kept: str | None) -> None:
    shell = {**SHELL, "CODEXPOOL_STATE": state}

    found = environment_of(shell)

    assert "secret" not in "".join(found.values())
    assert found.get("CODEXPOOL_STATE") == kept
    assert (found["PATH"], found["XDG_STATE_HOME"]) == ("/opt/bin:/bin", "/state")
    named = left_out(shell, ["WORK_TOKEN", "NOT_SET"])
    assert named == [*([] if kept else ["CODEXPOOL_STATE"]), "CODEXPOOL_STATE_KEY", "PGPASSWORD", "WORK_TOKEN"]


# -- install


def test_install_starts_the_proxy_now_and_at_each_login(machine: Machine) -> None:
    said = machine.run("install", "-p", "8081", "--set", "x=a b")

    text = machine.unit.read_text()
    assert read_back(line(text, "ExecStart"), "%$")[1:][-7:] == [
        *("run", "--set", "flow_detail=0", "-p", "8081", "--set", "x=a b")
    ]
    assert stat.S_IMODE(machine.unit.stat().st_mode) == 0o600
    assert machine.asked[:3] == [
        "--user daemon-reload",
        "--user enable codexpool.service",
        "--user restart codexpool.service",
    ]
    assert "active (running), enabled, process 4711" in said.stdout
    assert "127.0.0.1:8080" in said.stdout
    assert said.stderr.endswith('Next:\n  codexpool add NAME\n  eval "$(codexpool env)" && codex\n')
    assert "loginctl enable-linger" in said.stderr


def test_the_pool_may_be_made_later(machine: Machine) -> None:
    later = machine.home / "later" / "pool.toml"
    machine.run("install", "--config", str(later))
    assert f"run --config {later}" in machine.unit.read_text()
    assert not later.exists()


def test_install_tells_of_a_file_of_variables_that_others_can_read(machine: Machine) -> None:
    variables = machine.home / ".config" / "codexpool" / "environment"
    variables.parent.mkdir(parents=True)
    variables.touch()
    for mode, is_told in ((0o644, True), (0o600, False)):
        variables.chmod(mode)
        assert (f"chmod 600 {variables}" in machine.run("install").stderr) is is_told


def test_install_names_what_the_service_does_not_see(machine: Machine) -> None:
    pool = machine.home / "pool.toml"
    pool.touch(mode=0o600)
    pool.write_text('[[identity]]\nname = "work"\ntoken = { env = "WORK_TOKEN" }\n')
    machine.monkeypatch.setenv("WORK_TOKEN", "at-test-0123456789abcdef0123456789")

    said = machine.run("install", "--config", str(pool))

    assert "WORK_TOKEN=…" in said.stderr
    assert "at-test" not in said.output + machine.unit.read_text()
    assert f"run --config {pool}" in machine.unit.read_text()


@pytest.mark.parametrize(
    ("url", "is_written"), [("http://proxy.corp:3128", True), ("http://ann:hunter2@proxy.corp:3128", False)]
)
def test_a_companys_proxy_is_taken_along_without_its_password(machine: Machine, url: str, is_written: bool) -> None:
    said = machine.run("install", "--via", url)

    text = machine.unit.read_text()
    assert ("Environment=CODEXPOOL_UPSTREAM_PROXY=http://proxy.corp:3128\n" in text) is is_written
    assert ("CODEXPOOL_UPSTREAM_PROXY=…" in said.stderr) is not is_written
    assert "hunter2" not in text + said.output


def test_a_proxy_that_does_not_run_is_shown_with_its_log(machine: Machine) -> None:
    machine.says(FAILS)
    said = machine.run("install", code=1).stderr
    assert "auto-restart" in said
    assert "is in use by another program" in said
    assert "journalctl --user -u codexpool -f" in said


@pytest.mark.parametrize("step", ["daemon-reload", "enable", "restart"])
@pytest.mark.parametrize("before", [None, f"# {MARK}\n"])
def test_what_the_manager_refuses_is_not_left_behind(machine: Machine, step: str, before: str | None) -> None:
    if before is not None:
        machine.unit.parent.mkdir(parents=True)
        machine.unit.write_text(before)
    (machine.home / "fails").write_text(step)

    said = machine.run("install", code=1).stderr

    assert "Failed to connect to bus" in said
    assert "not with su or sudo" in said
    assert ("--user disable --now codexpool.service" in machine.asked) is (before is None)
    assert (machine.unit.read_text() if machine.unit.exists() else None) == before
    if before is not None and step == "restart":  # The proxy of before runs again.
        assert machine.asked.count("--user restart codexpool.service") == 2
    assert [*machine.unit.parent.glob(".*")] == []


@pytest.mark.parametrize("word", ["install", "uninstall", "status"])
def test_a_unit_of_somebody_else_is_left_alone(machine: Machine, word: str) -> None:
    machine.unit.parent.mkdir(parents=True)
    machine.unit.write_text("[Service]\nExecStart=/bin/mine\n")

    assert "was not made by codexpool" in machine.run(word, code=1).stderr

    assert "ExecStart=/bin/mine" in machine.unit.read_text()
    assert machine.asked == []


def test_without_a_manager_the_other_ways_are_named(machine: Machine) -> None:
    machine.monkeypatch.setenv("PATH", "/nowhere")
    assert "docs/running.md" in machine.run("install", code=1).stderr


# -- status, uninstall


def test_status_tells_programs_all_of_it(machine: Machine) -> None:
    machine.run("install")

    document = json.loads(machine.run("status", "--json").stdout)

    assert document == {
        "version": 1,
        "manager": "systemd",
        "file": str(machine.unit),
        "installed": True,
        "enabled": True,
        "runs": True,
        "state": "active (running)",
        "pid": 4711,
        "listens": ["127.0.0.1:8080"],
        "log": "journalctl --user -u codexpool -f",
        "variables": str(machine.home / ".config" / "codexpool" / "environment"),
        "confdir": str(machine.home / ".mitmproxy"),
    }


def test_status_of_what_does_not_run_is_1(machine: Machine) -> None:
    assert "codexpool service install" in machine.run("status", code=1).stdout
    machine.run("install")
    machine.says(FAILS)
    assert "auto-restart" in machine.run("status", code=1).stdout


def test_the_process_of_the_service_is_known(machine: Machine) -> None:
    assert managers.start_of_service(4711) == ""
    machine.run("install")
    assert managers.start_of_service(4711) == "systemctl --user start codexpool"
    assert managers.start_of_service(4712) == ""
    machine.has("systemctl", "exit 1", RUNS)
    assert managers.start_of_service(4711) == ""


def test_uninstall_leaves_the_pool_and_no_unit(machine: Machine) -> None:
    machine.run("install")
    machine.run("uninstall")

    assert not machine.unit.exists()
    assert machine.asked[-2:] == ["--user disable --now codexpool.service", "--user daemon-reload"]
    assert "no service is installed" in machine.run("uninstall").stdout


# -- launchd


def test_an_agent_is_loaded_after_the_one_before_has_ended(mac: Machine) -> None:
    mac.run("install")
    said = mac.run("install").stdout

    assert plistlib.loads(mac.agent.read_bytes())["Label"] == "codexpool"
    verbs = [words.split()[0] for words in mac.asked]
    assert verbs.index("bootout") < len(verbs) - 1 - verbs[::-1].index("bootstrap")
    assert "process 4711" in said
    assert "tail -f" in said


def test_an_agent_is_unloaded(mac: Machine) -> None:
    mac.run("install")
    assert "running" in mac.run("status").stdout
    mac.run("uninstall")

    assert not mac.agent.exists()
    assert not (mac.home / "loaded").exists()
