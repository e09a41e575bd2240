"""Signals and children: nothing that was started outlives the command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codexpool.cli import processes
from codexpool.cli.processes import Children, InterruptedBySignal, Signals
from tests.running import until


@pytest.fixture
def signals() -> Iterator[Signals]:
    with Signals() as signals:
        yield signals


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize("number", processes.ENDING)
def test_a_signal_ends_the_work(signals: Signals, number: signal.Signals) -> None:
    with pytest.raises(InterruptedBySignal) as ended:
        interrupt(number)

    assert ended.value.number == number


def test_a_held_signal_interrupts_afterwards(signals: Signals) -> None:
    done = []

    def work() -> None:
        with signals.held(), signals.held():
            interrupt()
            done.append("all of it")

    with pytest.raises(InterruptedBySignal):
        work()

    assert done == ["all of it"]


def test_a_second_signal_does_not_interrupt_the_clean_up(signals: Signals) -> None:
    with pytest.raises(InterruptedBySignal):
        interrupt()

    interrupt()


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in processes.ENDING]

    with Signals():
        pass

    assert [signal.getsignal(number) for number in processes.ENDING] == before


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen(["sleep", "60"])
with open(sys.argv[1] + "~", "w") as file:
    file.write(str(grandchild.pid))
os.rename(sys.argv[1] + "~", sys.argv[1])
time.sleep(60)
"""


def test_a_stubborn_child_and_its_own_children_are_ended(
    signals: Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 1.0)
    note = tmp_path / "grandchild"
    with (tmp_path / "output").open("wb") as out, Children(signals) as children:
        command = [sys.executable, "-c", STUBBORN, str(note)]
        child = children.start(command, environ=dict(os.environ), folder=tmp_path, out=out, err=out)
        until(note.exists, 20, "the child to have a child")

    assert child.returncode == -signal.SIGKILL
    until(lambda: not running(int(note.read_text())), 5, "the grandchild to be gone")


def running(pid: int) -> bool:
    """Whether a process is there and no zombie: in a container nobody may collect those."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
