"""Edits of pool.toml are atomic, also while others write to the file."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import filelock
import pytest

from codexpool.config import editing
from codexpool.config.editing import EditError, edit, flagged, unflagged
from codexpool.config.files import Watcher
from codexpool.config.model import Flag
from codexpool.config.read import load
from tests.config.conftest import WritePrivate, needs_a_plain_user

TEXT = '# mine\n[[identity]]\nname = "a"\ntoken = "at-test-1"   # one\n\n# next\n[[identity]]\nname="b"\ntoken="x"\n'
FLAG = Flag(datetime(2026, 11, 20, 14, 2, 11, tzinfo=UTC), "401", "sha256:1a2b3c4d5e6f")


def flag(path: Path, name: str, flag: Flag) -> None:
    edit(path, lambda text: flagged(text, name, flag))


def unflag(path: Path, name: str) -> None:
    edit(path, lambda text: unflagged(text, name))


def round_robin(text: str) -> str:
    return text + '[pool]\nselection = "round-robin"\n'


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip(), TEXT.replace("\n", "\r\n"), "\ufeff" + TEXT])
def test_flag_then_unflag_gives_back_the_same_bytes(write: WritePrivate, text: str) -> None:
    path = write("pool.toml", text)

    flag(path, "a", FLAG)

    assert [identity.flag for identity in load(path).identities] == [FLAG, None]
    unflag(path, "a")
    assert path.read_bytes() == text.encode()


def test_mode_and_symlinks_survive_an_edit(write: WritePrivate, tmp_path: Path) -> None:
    real = write("real.toml", TEXT)
    real.chmod(0o400)
    link = tmp_path / "pool.toml"
    link.symlink_to(real)

    flag(link, "a", FLAG)

    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o400
    assert b"needs_replacement" in real.read_bytes()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away")
def test_an_edit_as_root_keeps_the_owner(write: WritePrivate, tmp_path: Path) -> None:
    path = write("pool.toml", TEXT)
    os.chown(path, 12345, 54321)

    flag(path, "a", FLAG)

    assert {(f.stat().st_uid, f.stat().st_gid) for f in tmp_path.iterdir()} == {(12345, 54321)}


def test_only_the_lock_file_remains(write: WritePrivate, tmp_path: Path) -> None:
    path = write("pool.toml", TEXT)
    flag(path, "a", FLAG)
    assert {file.name for file in tmp_path.iterdir()} <= {"pool.toml", ".pool.toml.lock"}


def test_an_edit_that_changes_nothing_does_not_write(write: WritePrivate) -> None:
    path = write("pool.toml", TEXT)
    watcher = Watcher([path])
    unflag(path, "a")
    edit(path, lambda text: text)
    assert not watcher.changed()


def test_an_edit_that_makes_the_file_invalid_is_refused(write: WritePrivate) -> None:
    path = write("pool.toml", TEXT)

    with pytest.raises(EditError, match=r"would be invalid after the edit: .*has no token"):
        edit(path, lambda text: '[[identity]]\nname = "a"\n')
    assert path.read_text() == TEXT


def test_an_exception_of_the_change_writes_nothing(write: WritePrivate) -> None:
    path = write("pool.toml", TEXT)

    def fail(text: str) -> str:
        raise OSError("mine")

    with pytest.raises(OSError, match=r"^mine$"):
        edit(path, fail)
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.encode().replace(b'"a"', b'"c"'), "there is no identity"),
        (b"[[identity", "is not TOML"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_flagged_is_left_alone(write: WritePrivate, content: bytes, said: str) -> None:
    path = write("pool.toml", content)
    with pytest.raises(EditError, match=said):
        flag(path, "a", FLAG)
    assert path.read_bytes() == content


def test_a_missing_file_is_an_edit_error(tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"pool\.toml: cannot be edited: No such file"):
        flag(tmp_path / "pool.toml", "a", FLAG)


@needs_a_plain_user
def test_a_folder_that_cannot_be_written_is_an_edit_error(write: WritePrivate, tmp_path: Path) -> None:
    path = write("pool.toml", TEXT)
    tmp_path.chmod(0o500)
    try:
        assert load(path).is_read_only
        with pytest.raises(EditError, match=r"cannot be written \(Permission denied\); change it where"):
            flag(path, "a", FLAG)
    finally:
        tmp_path.chmod(0o700)
    assert path.read_text() == TEXT
    assert not load(path).is_read_only


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY])
@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_file_that_must_not_be_written_is_told_from_a_disk_that_fails(
    write: WritePrivate, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    """A single file that is mounted cannot be replaced (EBUSY), although its folder can be written to."""
    path = write("pool.toml", TEXT)
    kept = getattr(os, call)

    def refuse(source: object, *more: object, **named: object) -> object:
        if str(source).endswith(".pool.toml.new"):
            raise OSError(code, os.strerror(code))
        return kept(source, *more, **named)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(EditError, match=re.escape(os.strerror(code))) as raised:
        flag(path, "a", FLAG)
    assert raised.value.is_unwritable
    assert path.read_text() == TEXT


def test_a_disk_that_fails_leaves_the_old_file(write: WritePrivate, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("pool.toml", TEXT)

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(EditError, match="No space left") as raised:
        flag(path, "a", FLAG)
    assert not raised.value.is_unwritable
    assert path.read_text() == TEXT
    assert {file.name for file in path.parent.iterdir()} <= {"pool.toml", ".pool.toml.lock"}


def test_waiting_for_a_locked_file_ends(write: WritePrivate, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("pool.toml", TEXT)
    monkeypatch.setattr(editing, "LOCK_TIMEOUT", 0.05)
    with filelock.FileLock(path.with_name(".pool.toml.lock")), pytest.raises(EditError, match="another process"):
        in_a_thread(lambda: flag(path, "a", FLAG))
    assert path.read_text() == TEXT


def test_an_editor_that_saves_in_between_loses_nothing(write: WritePrivate) -> None:
    path = write("pool.toml", TEXT)
    saves = iter(["# saved once\n", "# saved twice\n"])

    def change(text: str) -> str:
        if line := next(saves, None):
            path.write_text(line + path.read_text())
        return round_robin(text)

    edit(path, change)

    assert path.read_text().startswith("# saved twice\n# saved once\n" + TEXT)
    assert load(path).selection == "round-robin"


def test_a_file_that_keeps_changing_is_given_up(write: WritePrivate, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("pool.toml", TEXT)
    monkeypatch.setattr(editing, "PAUSE", 0)

    def change(text: str) -> str:
        path.write_text(path.read_text() + "#\n")
        return round_robin(text)

    with pytest.raises(EditError, match="was changed by another program at each attempt"):
        edit(path, change)
    assert path.read_text() == TEXT + "#\n" * editing.TRIES


def test_processes_that_flag_at_once_all_succeed(write: WritePrivate) -> None:
    names = [f"i{n}" for n in range(12)]
    path = write("pool.toml", "".join(f'[[identity]]\nname = "{n}"\ntoken = "x"\n' for n in names))
    program = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from codexpool.config.model import Flag\nfrom codexpool.config.editing import edit, flagged\n"
        "flag = Flag(datetime.now(UTC), 'x', 'sha256:' + '0' * 12)\n"
        "for name in sys.argv[2:]:\n"
        "    edit(Path(sys.argv[1]), lambda text: flagged(text, name, flag))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, path, *names[n::3]]) for n in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert all(identity.flag for identity in load(path).identities)


def test_a_killed_editor_leaves_a_whole_file(write: WritePrivate) -> None:
    text = TEXT + "# padding\n" * 20_000
    path = write("pool.toml", text)
    program = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from codexpool.config.model import Flag\nfrom codexpool.config.editing import edit, flagged, unflagged\n"
        "flag = Flag(datetime.now(UTC), 'x', 'sha256:' + '0' * 12)\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    edit(Path(sys.argv[1]), lambda text: flagged(text, 'a', flag))\n"
        "    edit(Path(sys.argv[1]), lambda text: unflagged(text, 'a'))\n"
    )
    for delay in (0.02, 0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        until = time.monotonic() + delay
        seen = {len(path.read_bytes())}
        while time.monotonic() < until:
            seen.add(len(path.read_bytes()))
        process.kill()
        process.wait(10)
        process.stdout.close()
        assert min(seen) >= len(text)
        unflag(path, "a")
        assert path.read_text() == text
        assert {file.name for file in path.parent.iterdir()} <= {"pool.toml", ".pool.toml.lock", ".pool.toml.new"}
    flag(path, "a", FLAG)  # an edit that writes clears what a killed one left
    assert {file.name for file in path.parent.iterdir()} <= {"pool.toml", ".pool.toml.lock"}


def in_a_thread(act: Callable[[], None]) -> None:
    """Runs ``act`` as another holder of locks would, and raises what it raises."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    for error in raised:
        raise error
