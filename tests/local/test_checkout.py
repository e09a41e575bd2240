"""`codexpool --version` tells the commit of a checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from codexpool import __version__
from codexpool.cli.main import main
from codexpool.local import checkout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    (tmp_path / "addon").touch()
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for arguments in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "first")):
        subprocess.run(("git", "-C", str(tmp_path), *identity, *arguments), check=True)
    return tmp_path


def test_a_checkout_has_a_commit_and_says_if_it_was_changed(repository: Path) -> None:
    run = subprocess.run(
        ("git", "-C", str(repository), "rev-parse", "HEAD"), check=True, capture_output=True, text=True
    )
    head = run.stdout.strip()[:12]

    assert checkout.commit_of(repository) == head
    (repository / "addon").write_text("changed")
    assert checkout.commit_of(repository) == f"{head}-dirty"


def test_an_installation_inside_another_repository_has_no_commit(repository: Path) -> None:
    (repository / "addon").unlink()
    assert checkout.commit_of(repository) == ""
    assert checkout.commit_of(repository / "lib") == ""


def test_a_built_package_has_the_commit_of_its_checkout(tmp_path: Path) -> None:
    assert checkout.commit(tmp_path) == ""
    (tmp_path / checkout.FILE).parent.mkdir()
    (tmp_path / checkout.FILE).write_text("0123456789ab\n")
    assert checkout.commit(tmp_path) == "0123456789ab"


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert checkout.commit_of(repository) == ""


@pytest.mark.parametrize(("commit", "shown"), [("", ""), ("0123456789ab-dirty", ", commit 0123456789ab-dirty")])
def test_the_version_is_printed_with_the_commit(commit: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "commit", lambda: commit)
    run = CliRunner().invoke(main, ["--version"])
    assert (run.exit_code, run.output) == (0, f"codexpool, version {__version__}{shown}\n")
