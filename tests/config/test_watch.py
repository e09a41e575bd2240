"""Each change of a watched file is seen once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from codexpool.config.files import Watcher


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pool.toml"
    path.write_text("one")
    path.chmod(0o644)
    return path


def test_a_file_left_alone_has_not_changed(file: Path) -> None:
    watcher = Watcher([file])
    assert [watcher.changed(), watcher.changed()] == [False, False]


def test_each_kind_of_change_is_seen_and_seen_once(file: Path, tmp_path: Path) -> None:
    watcher = Watcher([file])

    def seen() -> tuple[bool, bool]:
        return watcher.changed(), watcher.changed()

    file.write_text("longer")
    assert seen() == (True, False)
    (tmp_path / "new").write_text("longer")
    (tmp_path / "new").replace(file)
    assert seen() == (True, False)
    os.utime(file, ns=(1, 1))
    assert seen() == (True, False)
    file.unlink()
    assert seen() == (True, False)
    file.write_text("back")
    assert seen() == (True, False)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_chmod_is_seen(file: Path) -> None:
    os.utime(file, ns=(1, 1))
    watcher = Watcher([file])
    file.chmod(0o600)
    assert watcher.changed()


def test_a_change_of_a_symlinks_target_is_seen(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    watcher = Watcher([link])
    file.write_text("longer")
    assert watcher.changed()


def mounted_secret(folder: Path, version: int, text: str) -> Path:
    """Write a secret as Kubernetes does: each version in a folder of its own, all links swapped in one step."""
    data = folder / f"..2026_11_30_{version}"
    data.mkdir()
    for name in ("pool.toml", "work.token"):
        (data / name).write_text(text)
        os.utime(data / name, ns=(1, 1))
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data", name))
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").replace(folder / "..data")
    return data


def test_each_swap_of_a_mounted_secret_is_seen_and_seen_once(tmp_path: Path) -> None:
    first = mounted_secret(tmp_path, 1, "one")
    watcher = Watcher([tmp_path / "pool.toml", tmp_path / "work.token"])
    second = mounted_secret(tmp_path, 2, "two")
    assert [watcher.changed(), watcher.changed()] == [True, False]

    # when: Kubernetes clears away what no link leads to
    shutil.rmtree(first)
    assert not watcher.changed()

    mounted_secret(tmp_path, 3, "two")
    shutil.rmtree(second)
    assert [watcher.changed(), watcher.changed()] == [True, False]


def test_a_missing_file_is_a_change_once_it_exists(tmp_path: Path, file: Path) -> None:
    token = tmp_path / "folder" / "token"
    watcher = Watcher([file, token, file / "below-a-file"])
    assert not watcher.changed()
    token.parent.mkdir()
    token.touch()
    assert watcher.changed()


def test_a_new_list_of_files_loses_no_change_of_the_old_ones(tmp_path: Path, file: Path) -> None:
    watcher = Watcher([file])
    file.write_text("longer")
    watcher.watch([file, tmp_path / "token"])
    assert watcher.changed()
    watcher.watch([tmp_path / "token"])
    file.write_text("even longer")
    assert not watcher.changed()
