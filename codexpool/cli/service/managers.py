"""systemd and launchd, by way of their commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from codexpool.cli.service.files import ENDS_WITHIN, Plan, agent, unit

NAME: Final = "codexpool"
PATIENCE: Final = ENDS_WITHIN + 20.0  # seconds for one command: one that restarts a proxy waits until it has ended
LOOK: Final = 0.5  # seconds between two looks at an agent that ends


class ManagerError(Exception):
    """The manager of services refuses, or is not there."""


@dataclass(frozen=True, slots=True)
class State:
    """How a service is: ``word`` is the manager's own. ``pid`` is 0 if it does not run."""

    word: str
    runs: bool
    is_enabled: bool
    pid: int


class Manager(Protocol):
    """What starts programs when a person logs in. All but the properties raise ManagerError."""

    name: str
    file: Path
    log: str
    """A command that shows the log."""
    start_command: str
    """A command that starts the service as it is."""

    @property
    def hint(self) -> str:
        """What a person may want to know about it; empty if nothing."""

    def text(self, plan: Plan) -> str:
        """Return the text of the file."""

    def start(self) -> None:
        """Have the service start now, as the file says, and from now on."""

    def stop(self) -> None:
        """End the service, and do not start it again."""

    def forget(self) -> None:
        """Notice that the file is gone."""

    def state(self) -> State: ...

    def last_lines(self) -> str:
        """Return the end of the log."""


def _run(command: Sequence[str]) -> str:
    """Run a command of a manager. Raises ManagerError with what it says."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except OSError as error:
        raise ManagerError(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ManagerError(f"{shlex.join(command)} has not ended within {PATIENCE:.0f} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()).rstrip(".") or f"exit code {done.returncode}"
        raise ManagerError(f"{shlex.join(command)}: {said}")
    return done.stdout


class Systemd:
    """systemd's manager of this user."""

    name = "systemd"
    log = f"journalctl --user -u {NAME} -f"
    start_command = f"systemctl --user start {NAME}"

    def __init__(self, environ: Mapping[str, str], home: Path) -> None:
        folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        self.file = folder / "systemd" / "user" / f"{NAME}.service"

    @property
    def hint(self) -> str:
        try:
            lingers = _run(["loginctl", "show-user", "--property=Linger", "--value"]).strip() == "yes"
        except ManagerError:
            return ""
        return "" if lingers else "it runs while you are logged in. To have it run always: loginctl enable-linger"

    def text(self, plan: Plan) -> str:
        return unit(plan)

    def start(self) -> None:
        for words in (["daemon-reload"], ["enable", self.file.name], ["restart", self.file.name]):
            self._systemctl(*words)

    def stop(self) -> None:
        self._systemctl("disable", "--now", self.file.name)

    def forget(self) -> None:
        self._systemctl("daemon-reload")

    def state(self) -> State:
        said = self._systemctl("show", self.file.name, "--property=ActiveState,SubState,MainPID,UnitFileState")
        found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        active, sub = found.get("ActiveState", "unknown"), found.get("SubState", "")
        pid = found.get("MainPID", "0")
        return State(
            f"{active} ({sub})" if sub else active,
            active in ("active", "reloading"),
            found.get("UnitFileState") == "enabled",
            int(pid) if pid.isdecimal() else 0,
        )

    def last_lines(self) -> str:
        return _run(["journalctl", "--user", "-u", NAME, "-n", "5", "-o", "cat", "--no-pager"])

    def _systemctl(self, *words: str) -> str:
        try:
            return _run(["systemctl", "--user", *words])
        except ManagerError as error:
            if "bus" not in str(error):
                raise
            remedy = "log in as this user (not with su or sudo), or install the unit of the system (docs/running.md)"
            raise ManagerError(f"{error}. There is no session of systemd: {remedy}") from None


class Launchd:
    """launchd's agents of this user."""

    name = "launchd"
    hint: Final = "it runs while you are logged in"

    def __init__(self, home: Path, uid: int) -> None:
        self.file = home / "Library" / "LaunchAgents" / f"{NAME}.plist"
        self.log_file = home / "Library" / "Logs" / f"{NAME}.log"
        self.log = f"tail -f {shlex.quote(str(self.log_file))}"
        self._domain = f"gui/{uid}"
        self._target = f"{self._domain}/{NAME}"
        self.start_command = f"launchctl kickstart {self._target}"

    def text(self, plan: Plan) -> str:
        return agent(plan, NAME, self.log_file)

    def start(self) -> None:
        self.stop()
        _run(["launchctl", "bootstrap", self._domain, str(self.file)])

    def stop(self) -> None:
        """End the agent, if it is loaded. It ends in the background, and until then no other can be loaded."""
        deadline = time.monotonic() + PATIENCE
        if self._printed() is None:
            return
        _run(["launchctl", "bootout", self._target])
        while self._printed() is not None:
            if time.monotonic() > deadline:
                raise ManagerError(f"{self._target} has not ended within {PATIENCE:.0f} s")
            time.sleep(LOOK)

    def forget(self) -> None:
        """Do nothing: launchd reads the file when it is loaded."""

    def state(self) -> State:
        printed = self._printed()
        if printed is None:
            return State("not loaded", runs=False, is_enabled=False, pid=0)
        word = re.search(r"^\s*state = (.+)$", printed, re.MULTILINE)
        pid = re.search(r"^\s*pid = (\d+)$", printed, re.MULTILINE)
        what = word[1] if word else "loaded"
        return State(what, runs=pid is not None, is_enabled=True, pid=int(pid[1]) if pid else 0)

    def last_lines(self) -> str:
        try:
            return "".join(self.log_file.read_text(errors="replace").splitlines(keepends=True)[-5:])
        except OSError as error:
            raise ManagerError(str(error)) from None

    def _printed(self) -> str | None:
        try:
            return _run(["launchctl", "print", self._target])
        except ManagerError:
            return None


def manager(platform: str, environ: Mapping[str, str], home: Path, uid: int) -> Manager:
    """Return the manager of this machine. Raises ManagerError if there is none."""
    if platform == "darwin" and shutil.which("launchctl"):
        return Launchd(home, uid)
    if platform.startswith("linux") and shutil.which("systemctl"):
        return Systemd(environ, home)
    what = "launchctl" if platform == "darwin" else "systemctl"
    raise ManagerError(f"there is no {what} here: a service needs systemd or launchd. Other ways: docs/running.md")


def own_manager() -> Manager:
    """Return the manager of this user, on this machine. Raises ManagerError if there is none."""
    return manager(sys.platform, os.environ, Path.home(), os.getuid() if os.name == "posix" else 0)


def start_of_service(pid: int) -> str:
    """Return the command that starts the service, if a process is that of the service; otherwise an empty text."""
    try:
        managed = own_manager()
        return managed.start_command if managed.file.exists() and managed.state().pid == pid else ""
    except (ManagerError, OSError):
        return ""
