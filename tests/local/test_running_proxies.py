"""The notes by which commands find the proxies that run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codexpool.local import running_proxies
from codexpool.local.running_proxies import Announcement, addresses, announced
from tests.running import ROOT, until

OTHER = """
import sys, time
from pathlib import Path
from codexpool.local.running_proxies import announce
announce(Path(sys.argv[1]), ["127.0.0.1:9"])
print("announced", flush=True)
time.sleep(60)
"""


@pytest.fixture
def note(tmp_path: Path) -> Iterator[Path]:
    """The note of this process, as if it were a proxy."""
    note = running_proxies.announce(tmp_path, ["127.0.0.1:8080", "[::1]:8080"])
    yield note
    running_proxies.withdraw(note)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has announced itself."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], env=environ, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"announced\n"
        yield process
        process.kill()


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "proxies").iterdir()}


def test_what_is_announced_is_found(tmp_path: Path, note: Path) -> None:
    (found,) = announced(tmp_path)

    assert found.pid == os.getpid()
    assert found.listens == ("127.0.0.1:8080", "[::1]:8080")
    assert found.mitmproxy
    assert found.addon


def test_a_note_has_the_form_that_was_agreed_upon(note: Path) -> None:
    document = json.loads(note.read_text())

    assert set(document) == {"version", "pid", "listens", "started_at", "mitmproxy", "addon"}
    assert document["version"] == 1


def test_a_note_has_the_absolute_path_of_the_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    note = running_proxies.announce(tmp_path, ["127.0.0.1:8080"], "~/.mitmproxy")

    (found,) = announced(tmp_path)

    assert found.confdir == tmp_path / ".mitmproxy"
    assert json.loads(note.read_text())["confdir"] == str(tmp_path / ".mitmproxy")
    running_proxies.withdraw(note)


@pytest.mark.parametrize("confdir", ["absent", None, "", 1])
def test_a_note_without_the_path_of_the_ca_is_read(tmp_path: Path, note: Path, confdir: object) -> None:
    """One of an older release, which may run beside this one, does not."""
    document = json.loads(note.read_text())
    if confdir != "absent":
        document["confdir"] = confdir
    note.write_text(json.dumps(document))

    (found,) = announced(tmp_path)

    assert found.confdir is None


@pytest.mark.skipif(os.name != "posix", reason="there are no such modes")
def test_a_note_is_private(note: Path) -> None:
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700


def test_nothing_is_found_where_nothing_was_announced(tmp_path: Path) -> None:
    assert announced(tmp_path) == []


def test_what_is_withdrawn_leaves_nothing_behind(tmp_path: Path) -> None:
    note = running_proxies.announce(tmp_path, ["127.0.0.1:8080"])

    running_proxies.withdraw(note)

    assert announced(tmp_path) == []
    assert names(tmp_path) == set()


def test_withdrawing_twice_does_no_harm(tmp_path: Path) -> None:
    note = running_proxies.announce(tmp_path, [])

    running_proxies.withdraw(note)
    running_proxies.withdraw(note)


def test_a_proxy_can_announce_itself_again(tmp_path: Path, note: Path) -> None:
    running_proxies.announce(tmp_path, ["127.0.0.1:8081"])

    assert [one.listens for one in announced(tmp_path)] == [("127.0.0.1:8081",)]


def test_another_process_is_found_while_it_lives(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    assert [one.pid for one in announced(tmp_path)] == [other.pid]


def test_the_note_of_a_killed_process_is_removed(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait(10)

    assert announced(tmp_path) == []
    assert names(tmp_path) == set()


def test_a_reused_process_id_is_not_mistaken_for_a_proxy(tmp_path: Path) -> None:
    folder = tmp_path / "proxies"
    folder.mkdir()
    document = {"version": 1, "pid": os.getpid(), "listens": [], "started_at": 1.0, "mitmproxy": "1", "addon": "1"}
    (folder / f"{os.getpid()}.json").write_text(json.dumps(document))

    assert announced(tmp_path) == []


def test_the_newest_comes_first(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    note = running_proxies.announce(tmp_path, [])

    assert [one.pid for one in announced(tmp_path)] == [os.getpid(), other.pid]

    running_proxies.withdraw(note)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "pid": "1"}', "\x00\xff", "[" * 100_000]
)
def test_a_note_that_is_none_is_left_out(tmp_path: Path, note: Path, text: str) -> None:
    note.write_text(text)

    assert announced(tmp_path) == []


def test_other_files_are_left_alone(tmp_path: Path, note: Path) -> None:
    (note.parent / "readme.json").write_text("mine")

    announced(tmp_path)

    assert "readme.json" in names(tmp_path)


def test_without_locks_the_process_id_has_to_do(
    tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lockless:
        def acquire(self, timeout: float) -> None:
            raise NotImplementedError

    monkeypatch.setattr(running_proxies, "_lock", lambda note: Lockless())
    found_alive = announced(tmp_path)
    other.kill()
    other.wait(10)

    assert [one.pid for one in found_alive] == [other.pid]
    assert announced(tmp_path) == []


def test_where_no_note_can_be_left_that_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "proxies").write_text("a file where the folder should be")

    with pytest.raises(OSError, match="proxies"):
        running_proxies.announce(tmp_path, [])


def test_a_file_system_without_locks_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(OSError, match="has no locks"):
        running_proxies.announce(tmp_path, [])


@pytest.mark.skipif(os.name != "posix", reason="folders have owners there")
def test_notes_in_a_folder_of_another_user_are_ignored(
    tmp_path: Path, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = note.parent.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)

    assert announced(tmp_path) == []


def test_a_note_is_never_half_written(tmp_path: Path, note: Path) -> None:
    """Each reading of a note that is written again and again finds a whole one."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    reader = (
        "import sys\nfrom pathlib import Path\nfrom codexpool.local.running_proxies import announced\n"
        "print('reads', flush=True)\n"
        "found = [len(announced(Path(sys.argv[1]))) for _ in range(300)]\n"
        "print(set(found))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", reader, str(tmp_path)], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reads\n"
        until(
            lambda: running_proxies.announce(tmp_path, ["127.0.0.1:8080"]) and process.poll() is not None,
            30,
            "the reader to end",
        )
        assert process.stdout.read() == "{1}\n"


@pytest.mark.parametrize(
    ("listens", "expected"),
    [
        (["127.0.0.1:8080"], [("127.0.0.1", 8080)]),
        (["[::1]:8080"], [("::1", 8080)]),
        (["0.0.0.0:8080"], [("127.0.0.1", 8080)]),
        (["[::]:8080"], [("::1", 8080)]),
        (["*:8080", ":81"], [("127.0.0.1", 8080), ("127.0.0.1", 81)]),
        (["localhost:8080"], [("localhost", 8080)]),
        (["192.168.1.5:8080"], [("192.168.1.5", 8080)]),
        (["nonsense", "127.0.0.1:0", "127.0.0.1:99999"], []),
    ],
)
def test_where_to_connect_to(listens: list[str], expected: list[tuple[str, int]]) -> None:
    assert list(addresses(Announcement(1, tuple(listens), 0.0, "", ""))) == expected
