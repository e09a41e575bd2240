"""A file is replaced as a whole or not at all, and what would prevent it is known before anything is at stake."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from codexpool.common.atomic_replace import Replacement, locked
from tests.config.conftest import needs_a_plain_user


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_new_content_takes_the_place_and_mode_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text("a long old content")
    path.chmod(0o640)
    with Replacement(path) as new:
        assert new.put(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == {"auth.json"}


def test_what_was_not_put_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), Replacement(path):
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == {"auth.json"}


def test_a_file_that_is_another_one_by_now_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text("old")
    with Replacement(path) as new:
        path.write_text("of somebody else")
        assert not new.put(b"new", instead_of=b"old")
    assert path.read_text() == "of somebody else"


def test_a_full_disk_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "auth.json"
    path.write_text("old")

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"), Replacement(path):
        pytest.fail("it was entered")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"auth.json"}


def test_a_file_system_that_cannot_reserve_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "auth.json"
    path.write_text("old")

    def unable(descriptor: int, offset: int, size: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
    with Replacement(path) as new:
        new.put(b"new")
    assert path.read_bytes() == b"new"


@needs_a_plain_user
def test_a_read_only_folder_is_found_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "auth.json").write_text("old")
    folder.chmod(0o500)
    try:
        with pytest.raises(PermissionError), Replacement(folder / "auth.json"):
            pytest.fail("it was entered")
    finally:
        folder.chmod(0o700)


def test_a_lock_is_waited_for_only_so_long(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "auth.json"
    path.write_text("old")
    refused: list[BaseException] = []

    def second() -> None:
        try:
            with locked(path, 0.05):
                pass
        except TimeoutError as error:
            refused.append(error)

    with locked(path, 1):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(10)
    assert len(refused) == 1
    with locked(path, 1):
        pass
