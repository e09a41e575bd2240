"""Events on the disk: whole lines, in order, whatever becomes of the disk, the file and the process."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.traces import journal as module
from codexpool.traces.events import Event, Kind
from codexpool.traces.journal import BATCH, KEPT, Journal, append
from codexpool.traces.trace import Trace
from tests.running import ROOT, until

posix = pytest.mark.skipif(os.name != "posix", reason="modes and locks of POSIX")

PRELUDE = """
import json, logging, sys, time
from pathlib import Path
from codexpool.traces import journal
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(levelname)s %(message)s")
path, name = Path(sys.argv[1]), sys.argv[2]
class event:
    def __init__(self, number):
        self.number = number
    @property
    def json(self):
        made = {"version": 1, "number": self.number, "event": "request", "text": name + "x" * (self.number % 997)}
        return json.dumps(made, separators=(",", ":")).encode()
"""

WRITES_FOREVER = (
    PRELUDE
    + """
journal.LINGER = 0.001
events = journal.Journal(path)
print("begun", flush=True)
for number in range(10**9):
    events.write(event(number))
    while len(events._waiting) > journal.KEPT // 2:
        time.sleep(0.001)
"""
)

WRITES_5000 = (
    PRELUDE
    + """
journal.LINGER = 0.001
events = journal.Journal(path)
for number in range(5000):
    events.write(event(number))
    if number % 20 == 0:
        time.sleep(0.0005)
    while len(events._waiting) > journal.KEPT // 2:
        time.sleep(0.001)
events.stop(30)
assert events.lost == 0
"""
)

FILLS_THE_DISK = (
    PRELUDE
    + """
import resource
journal.RETRY, journal.LINGER, journal.KEPT = (0.02, 0.05), 0.01, 100
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(20_000)
events = journal.Journal(path)
for number in range(1, 501):
    events.write(event(number))
    time.sleep(0.0005)
assert events.lost > 0
content = path.read_bytes()
assert len(content) <= 20_000 and content.endswith(b"\\n"), content[-100:]
limit(resource.RLIM_INFINITY)
while events._waiting:
    time.sleep(0.01)
events.write(event(501))
events.stop(10)
print("LOST", events.lost)
"""
)


def line(document: Any) -> bytes:
    """A document as the file has it."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def event(number: int, text: str = "") -> Event:
    return Event(Kind.START, 1_800_000_000.0, text=text, number=number)


def a_trace() -> Trace:
    return Trace("id", 0.0, "127.0.0.1", "POST", "https", "chatgpt.com", "/", "swap", "", ())


def lines(path: Path) -> list[dict[str, Any]]:
    """What is in the file; every line is whole, and the file ends with one."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def numbers(path: Path) -> list[int]:
    return [line["number"] for line in lines(path)]


def is_longer(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size > size


def run(program: str, path: Path, name: str = "p") -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, str(path), name], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    """One that lingers for next to no time, and tries again soon."""
    monkeypatch.setattr(module, "LINGER", 0.005)
    monkeypatch.setattr(module, "RETRY", (0.01, 0.02))
    made = Journal(path)
    yield made
    made.stop()


# -- what the documentation says


def test_the_documentation_has_every_key_and_kind() -> None:
    text = (ROOT / "docs" / "events.md").read_text()
    keys = list(event(1).document())
    table = text.partition("## One line")[2].partition("## Kinds of events")[0]
    named = re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|")))
    examples = [json.loads(one) for one in re.findall(r"^{.*}$", text, re.MULTILINE)]

    assert named == keys
    assert {tuple(example) for example in examples} == {tuple(keys)}
    assert {example["event"] for example in examples} == set(Kind)
    assert all(line(example).decode().strip() in text for example in examples)
    assert f"{KEPT} events in memory" in text


# -- what is written


def test_events_are_lines_in_order_and_stop_writes_the_last(journal: Journal) -> None:
    events = [event(number, f"the event {number}") for number in range(2 * BATCH + 10)]
    for one in events:
        journal.write(one)
    journal.stop()

    assert lines(journal.path) == [one.document() for one in events]
    assert not journal._thread.is_alive()


def test_an_event_is_there_soon_without_any_other(journal: Journal) -> None:
    journal.write(event(1))
    until(lambda: journal.path.exists() and journal.path.read_bytes(), 5, "the event")
    assert numbers(journal.path) == [1]


@given(st.text(max_size=50))
def test_a_line_is_printable_ascii_that_reads_as_it_was(text: str) -> None:
    one = event(1, text)

    assert all(0x20 <= byte < 0x7F for byte in one.json)
    assert json.loads(one.json) == one.document()


@pytest.mark.parametrize("status", [float("nan"), object()], ids=["not a number", "an object"])
def test_an_event_that_is_no_json_is_left_out(
    journal: Journal, caplog: pytest.LogCaptureFixture, status: Any
) -> None:
    broken = event(2)
    broken.status = status
    for one in (event(1), broken, event(3)):
        journal.write(one)
    journal.stop()

    assert numbers(journal.path) == [1, 3]
    assert "left out" in caplog.text


def test_nothing_is_written_after_stop(journal: Journal) -> None:
    journal.write(event(1))
    journal.stop()
    for number in range(KEPT + 1):
        journal.write(event(number))
    journal.stop()

    assert numbers(journal.path) == [1]
    assert (journal.lost, len(journal._waiting)) == (0, 0)


def test_writing_waits_for_no_disk(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(module, "append", lambda *_: let_go.wait(10))
    begun = time.perf_counter()
    for number in range(2 * KEPT):
        journal.write(event(number))
    taken = time.perf_counter() - begun
    let_go.set()

    assert taken < 1  # and not ten seconds


def test_a_waiting_event_keeps_no_trace(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "missing" / "events")
    one = event(1)
    kept = weakref.ref(trace := a_trace())
    one.request = trace.summary()
    journal.write(one)
    del one, trace
    gc.collect()

    assert kept() is None
    journal.stop()


# -- the file


@posix
def test_a_new_file_is_readable_by_its_owner_alone(journal: Journal) -> None:
    before = os.umask(0)
    try:
        journal.write(event(1))
        journal.stop()
    finally:
        os.umask(before)
    assert journal.path.stat().st_mode & 0o777 == 0o600


@posix
def test_the_mode_of_an_existing_file_stays(path: Path) -> None:
    path.touch()
    path.chmod(0o640)
    append(path, b"{}\n")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_may_be_renamed_at_any_time(journal: Journal, path: Path) -> None:
    written = 0
    for turn in range(10):
        for _ in range(30):
            journal.write(event(written := written + 1))
            time.sleep(0.0005)
        until(path.exists, 5, "the file")
        path.rename(path.with_name(f"events.{turn}"))
    journal.write(event(written := written + 1))
    journal.stop()

    rotated = [number for turn in range(10) for number in numbers(path.with_name(f"events.{turn}"))]
    assert rotated + numbers(path) == list(range(1, written + 1))
    assert journal.lost == 0


def test_a_truncated_file_is_written_from_its_beginning(journal: Journal, path: Path) -> None:
    journal.write(event(1))
    until(lambda: path.exists() and path.read_bytes(), 5, "the event")
    os.truncate(path, 0)
    journal.write(event(2))
    journal.stop()
    assert numbers(path) == [2]


@pytest.mark.parametrize("piece", [b'{"version":1,"num', b"x"])
def test_a_piece_of_a_line_is_ended_first(path: Path, piece: bytes) -> None:
    path.write_bytes(b'{"version":1}\n' + piece)
    append(path, b'{"number":2}\n')
    append(path, b'{"number":3}\n')
    assert path.read_bytes() == b'{"version":1}\n' + piece + b'\n{"number":2}\n{"number":3}\n'


@posix
def test_a_link_is_followed_at_the_start_only(tmp_path: Path) -> None:
    other, real, link = tmp_path / "other", tmp_path / "real", tmp_path / "link"
    other.write_bytes(b"somebody's\n")
    link.symlink_to(real)
    journal = Journal(link)
    assert journal.path == real
    real.symlink_to(other)  # Another user may write there, too.
    with pytest.raises(OSError, match="symbolic links"):
        append(journal.path, b"{}\n")
    real.unlink()
    journal.write(event(1))
    journal.stop()

    assert numbers(real) == [1]
    assert other.read_bytes() == b"somebody's\n"


# -- a disk that is full, slow or gone


def fails(error: int, after: int) -> Any:
    """An `os.write` that writes so many bytes, and then fails."""
    write, left = os.write, after

    def failing(descriptor: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(error, os.strerror(error))
        count = write(descriptor, data[:left])
        left -= count
        return count

    return failing


@pytest.mark.parametrize("after", [0, 1, 100, 5000])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failed_batch_leaves_nothing_in_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: int, after: int
) -> None:
    append(path, b'{"number":1}\n')
    batch = b"".join(b'{"number":%d}\n' % number for number in range(2, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails(error, after))
        with pytest.raises(OSError, match=re.escape(os.strerror(error))):
            append(path, batch)
    assert path.read_bytes() == b'{"number":1}\n'
    append(path, batch)
    assert numbers(path) == list(range(1, 1000))


def test_a_batch_that_stays_in_part_is_followed_by_a_new_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails(errno.EIO, 5))
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.EIO))):
            append(path, b'{"number":1}\n')
    append(path, b'{"number":1}\n')
    assert path.read_bytes() == b'{"num\n{"number":1}\n'


@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without locks"])
@pytest.mark.parametrize("another_writes", [True, False], ids=["another writes", "no other writes"])
def test_lines_of_another_process_are_never_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool, another_writes: bool
) -> None:
    failing = fails(errno.ENOSPC, 5)

    def write(descriptor: int, data: bytes) -> int:
        try:
            return int(failing(descriptor, data))
        except OSError:
            if another_writes:
                with path.open("ab") as other:
                    other.write(b"\n{}\n")
            raise

    monkeypatch.setattr(module, "_locked", lambda _: locks)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        append(path, b'{"number":1}\n')
    expected = b'{"num\n{}\n' if another_writes else b"" if locks else b'{"num'
    assert path.read_bytes() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_a_full_disk_is_logged_once_and_losses_are_recorded(path: Path) -> None:
    process = run(FILLS_THE_DISK, path)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    levels = [line.split()[0] for line in said.splitlines()]
    assert levels == ["WARNING", "INFO", "LOST"], said
    lost = int(said.split()[-1])

    found = lines(path)
    (at,) = (number for number, line in enumerate(found) if line["event"] == "lost")
    kept = [line["number"] for line in found if line["event"] != "lost"]
    assert found[at]["text"].startswith(f"{lost} events were lost")
    assert kept == [*range(1, at + 1), 501]
    assert len(kept) + lost == 501


@pytest.mark.parametrize("goes_on", [True, False], ids=["events follow", "none follows"])
def test_a_loss_is_recorded_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool) -> None:
    monkeypatch.setattr(module, "LINGER", 0.0)
    monkeypatch.setattr(module, "RETRY", (0.01, 0.02))
    monkeypatch.setattr(module, "KEPT", 100)
    journal = Journal(tmp_path / "folder" / "events")
    for number in range(1, 104):
        journal.write(event(number))
    until(lambda: journal.lost == 3, 5, "the loss")
    journal.path.parent.mkdir()
    until(lambda: journal.path.exists() and not journal._waiting, 5, "the others")
    if goes_on:
        journal.write(event(104))
    else:
        until(lambda: numbers(journal.path)[-1] is None, 5, "the line for the loss")
    journal.stop()

    found = lines(journal.path)
    assert [line["number"] for line in found] == [*range(1, 101), None, *([104] if goes_on else [])]
    loss = found[100]
    assert loss.keys() == event(1).document().keys()
    assert (loss["event"], loss["text"].split()[0]) == ("lost", "3")


def test_events_lost_while_the_disk_hangs_are_counted(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, let_go = threading.Event(), threading.Event()
    really = append

    def hanging(path: Path, content: bytes) -> None:
        hangs.set()
        let_go.wait(10)
        really(path, content)

    monkeypatch.setattr(module, "append", hanging)
    monkeypatch.setattr(module, "KEPT", 50)
    journal.write(event(0))
    assert hangs.wait(5)
    for number in range(1, 55):
        journal.write(event(number))
    assert journal.lost == 5
    let_go.set()
    journal.stop()

    found = lines(journal.path)
    assert [line["number"] for line in found if line["event"] != "lost"] == list(range(50))
    assert [line["text"].split()[0] for line in found if line["event"] == "lost"] == ["5"]


def test_a_folder_that_goes_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "LINGER", 0.005)
    monkeypatch.setattr(module, "RETRY", (0.01, 0.02))
    monkeypatch.setattr(module, "BATCH", 2)
    batches: list[int] = []

    def counting(path: Path, content: bytes) -> None:
        batches.append(content.count(b"\n"))
        append(path, content)

    monkeypatch.setattr(module, "append", counting)
    journal = Journal(tmp_path / "folder" / "events")
    for number in range(5):
        journal.write(event(number))
        time.sleep(0.02)
    journal.path.parent.mkdir()
    until(journal.path.exists, 5, "the file")
    journal.stop()

    assert numbers(journal.path) == list(range(5))
    assert max(batches) == 2
    said = [record.getMessage() for record in caplog.records if record.name == "codexpool"]
    assert [line.split(":")[0] for line in said] == ["events", "events"]
    assert f"there is no folder {tmp_path / 'folder'}; create it" in said[0]
    assert said[1].endswith("is written again")


def test_stop_does_not_wait_long_for_a_disk_that_hangs(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(module, "append", lambda *_: let_go.wait(20))
    journal.write(event(1))
    until(lambda: journal._waiting, 5, "the line")
    journal.write(event(2))
    begun = time.monotonic()
    journal.stop(0.2)
    taken = time.monotonic() - begun
    let_go.set()

    assert 0.2 <= taken < 5
    assert "the last 2 could not be written" in caplog.text


def test_stop_tries_once_more_and_logs_what_was_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "missing" / "events")
    journal.write(event(1))
    begun = time.monotonic()
    journal.stop()

    assert time.monotonic() - begun < module.ENDS_WITHIN
    assert f"the last 1 could not be written to {journal.path}" in caplog.text
    assert not journal._thread.is_alive()


@pytest.mark.parametrize("hangs", [True, False], ids=["the disk hangs", "the disk is quick"])
def test_a_burst_takes_bounded_memory(journal: Journal, monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    let_go = threading.Event()
    really = append

    def slow(path: Path, content: bytes) -> None:
        let_go.wait(60)
        really(path, content)

    if hangs:
        monkeypatch.setattr(module, "append", slow)
    one = event(1, "a line of some words " * 10)
    size = len(line(one.document()))
    tracemalloc.start()
    try:
        for _ in range(100_000):
            journal.write(one)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    let_go.set()
    journal.stop(30)

    assert most < 2 * (KEPT + 2 * BATCH) * size
    written = [line["event"] for line in lines(journal.path)]
    assert journal.lost > 0 or not hangs
    assert written.count("start") + journal.lost == 100_000


# -- several processes


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3])
def test_a_kill_cuts_one_line_at_most(path: Path, delay: float) -> None:
    mark = b'{"number":-1,"event":"mark"}\n'
    for _ in range(2):
        process = run(WRITES_FOREVER, path)
        assert process.stdout
        process.stdout.readline()
        until(partial(is_longer, path, path.stat().st_size if path.exists() else 0), 20, "the first lines")
        time.sleep(delay)
        process.kill()
        process.wait(10)
        process.stdout.close()
        append(path, mark)

    first, second, rest = path.read_bytes().split(mark)
    assert rest == b""
    for written in (first, second):
        *whole, last = written.splitlines()
        count = len(whole)
        assert [json.loads(one)["number"] for one in whole] == list(range(count))
        text = "p" + "x" * (count % 997)
        assert line({"version": 1, "number": count, "event": "request", "text": text}).startswith(last)


def test_lines_of_processes_that_share_a_file_never_mix(path: Path) -> None:
    processes = [run(WRITES_5000, path, name) for name in ("a", "b", "c")]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        assert process.stdout
        process.stdout.close()

    found = lines(path)
    for name in ("a", "b", "c"):
        assert [line["number"] for line in found if line["text"].startswith(name)] == list(range(5000))
    assert len(found) == 15_000


@posix
def test_a_locked_file_is_waited_for(path: Path) -> None:
    import fcntl

    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=append, args=(path, b"{}\n"))
        waiting.start()
        time.sleep(0.1)
        assert path.read_bytes() == b""
    waiting.join(5)
    assert path.read_bytes() == b"{}\n"


# -- what is refused at the start


@posix
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/events", "there is no folder"),
        ("file/events", "there is no folder"),
        ("folder", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("other.toml", "contains something other than events; name a new file"),
        ("loop", "is not a regular file"),
    ],
)
def test_an_unfit_file_is_refused_with_the_option_and_a_fix(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other.toml").write_text('selection = "headroom"\n')
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        Journal.check(tmp_path / name)

    assert str(error.value).startswith("codexpool_events: ")
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "other.toml").read_text() == 'selection = "headroom"\n'


def test_a_place_that_may_not_be_written_to_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ValueError, match=r"Permission denied; make it writable for the proxy's user"):
        Journal.check(path)


@pytest.mark.parametrize("before", [b"", b'{"version":1,"number":1}\n', b'{"ver'])
def test_a_file_of_events_is_gone_on_with(path: Path, before: bytes) -> None:
    path.write_bytes(before)
    Journal.check(path)
    assert path.read_bytes() == before


def test_what_the_journal_writes_it_takes_for_events(journal: Journal) -> None:
    journal.write(event(1))
    journal.stop()
    Journal.check(journal.path)


def test_home_is_where_a_tilde_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Journal.check(Path("~/events"))
    assert (tmp_path / "events").exists()
