"""A secret is read only if its file is closed to all who must not read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from codexpool.common.private_files import UnusableError, private_folder, read_private

ROOT, POOL, OTHER = 0, 10001, 12345


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pool.toml"
    path.write_text("secret")
    return path


def is_read(file: Path, owner: int, mode: int, by: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether ``read_private`` takes a file of an owner and a mode, if the process runs as ``by``."""
    status = list(file.stat())
    status[stat.ST_UID], status[stat.ST_MODE] = owner, stat.S_IFREG | mode
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(status))
    monkeypatch.setattr(os, "geteuid", lambda: by)
    try:
        return read_private(file) == "secret"
    except UnusableError as error:
        return "is open to other users" not in error.what


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize(
    ("owner", "mode", "by", "expected"),
    [
        (POOL, 0o600, POOL, True),
        (POOL, 0o400, POOL, True),
        (POOL, 0o640, POOL, False),
        (POOL, 0o440, POOL, False),
        (OTHER, 0o440, POOL, False),
        # As Kubernetes mounts a secret for a process that is not root: no other mode lets that read it.
        (ROOT, 0o440, POOL, True),
        (ROOT, 0o640, POOL, True),
        (ROOT, 0o660, POOL, False),
        (ROOT, 0o444, POOL, False),
        (ROOT, 0o642, POOL, False),
        (ROOT, 0o440, ROOT, False),
        (ROOT, 0o400, ROOT, True),
    ],
)
def test_a_group_may_read_a_secret_of_root_only(
    file: Path, owner: int, mode: int, by: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_read(file, owner, mode, by, monkeypatch) is expected


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_all_new_folders_are_private_and_old_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o755)

    made = private_folder(tmp_path / "old" / "state" / "codexpool")

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "old", made.parent, made)]
    assert modes == [0o755, 0o700, 0o700]
    assert private_folder(made) == made
