"""`just release`: all of it, or nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from codexpool import __version__
from tests.running import ROOT
from tools import release
from tools.release import CHANGELOG, UNRELEASED, VERSION_FILE, ReleaseError, number, with_section, with_version

TODAY = date(2026, 12, 1)
NEXT = "9.0.0"


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    return subprocess.run(
        ("git", "-C", str(root), *identity, *arguments), check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the two files that a release changes."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(name, "a")
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@example.com")
    root = tmp_path / "checkout"
    (root / "codexpool").mkdir(parents=True)
    (root / ".gitignore").write_text("dist/\n")
    (root / VERSION_FILE).write_text('__version__ = "0.1.0"\n')
    (root / CHANGELOG).write_text("# Changelog\n\n## Unreleased\n\n- one\n\n## 0.1.0\n\n- zero\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    return root


class Machine:
    """Runs git; of everything else it notes that it ran, and pretends that ``fails`` does not work."""

    def __init__(self, root: Path, fails: str = "") -> None:
        self.root, self.fails, self.ran = root, fails, list[str]()

    def __call__(self, command: Sequence[str]) -> None:
        self.ran.append(" ".join(command[:2]))
        if self.fails and self.fails in " ".join(command):
            raise ReleaseError(f"{command} failed")
        if command[0] == "git":
            subprocess.run(command, check=True, capture_output=True)
        if command[0] == "uv":
            dist = self.root / "dist"
            dist.mkdir()
            for name in (f"codexpool-{NEXT}-py3-none-any.whl", f"codexpool-{NEXT}.tar.gz"):
                (dist / name).touch()


def test_a_release_is_a_commit_with_a_tag_and_two_files(checkout: Path) -> None:
    machine = Machine(checkout)

    files = release.release(NEXT, checkout, TODAY, machine)

    assert [path.is_file() for path in files] == [True, True]
    assert git(checkout, "describe", "--exact-match") == f"v{NEXT}"
    assert git(checkout, "status", "--porcelain") == ""
    assert (checkout / VERSION_FILE).read_text() == f'__version__ = "{NEXT}"\n'
    assert (checkout / CHANGELOG).read_text() == (
        f"# Changelog\n\n## Unreleased\n\n## {NEXT} - 2026-12-01\n\n- one\n\n## 0.1.0\n\n- zero\n"
    )
    assert machine.ran[: len(release.CHECKS)] == [f"just {check}" for check in release.CHECKS]


@pytest.mark.parametrize("fails", [*(f"just {check}" for check in release.CHECKS), "uv build", "commit"])
def test_a_step_that_fails_leaves_everything_as_it_was(checkout: Path, fails: str) -> None:
    before = git(checkout, "rev-parse", "HEAD")

    with pytest.raises(ReleaseError):
        release.release(NEXT, checkout, TODAY, Machine(checkout, fails))

    assert git(checkout, "status", "--porcelain") == ""
    assert (git(checkout, "rev-parse", "HEAD"), git(checkout, "tag")) == (before, "")


def test_changes_that_are_not_committed_are_not_released(checkout: Path) -> None:
    (checkout / CHANGELOG).open("a").write("- more\n")
    with pytest.raises(ReleaseError, match="not committed"):
        release.release(NEXT, checkout, TODAY, Machine(checkout))


def test_a_tag_that_exists_is_not_made_again(checkout: Path) -> None:
    git(checkout, "tag", f"v{NEXT}")
    with pytest.raises(ReleaseError, match="exists"):
        release.release(NEXT, checkout, TODAY, Machine(checkout))


@pytest.mark.parametrize("version", ["1", "1.2", "v1.2.3", "1.2.3rc1", "01.2.3", "1.2.3\n", ""])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(ReleaseError, match="no version"):
        number(version)


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9"])
def test_a_version_comes_after_the_present_one(version: str) -> None:
    with pytest.raises(ReleaseError, match="does not come after"):
        with_version('__version__ = "0.1.0"\n', version)


@pytest.mark.parametrize("text", ["# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- zero\n", "# Changelog\n"])
def test_a_release_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ReleaseError, match="nothing under"):
        with_section(text, NEXT, TODAY)


def test_this_checkout_can_be_released() -> None:
    package = with_version((ROOT / VERSION_FILE).read_text(encoding="utf-8"), NEXT)
    assert package.count(NEXT) == 1
    assert __version__ not in package
    changelog = (ROOT / CHANGELOG).read_text(encoding="utf-8")
    # Just after a release, which runs this test, too, nothing is unreleased.
    assert NEXT in with_section(changelog.replace(f"{UNRELEASED}\n", f"{UNRELEASED}\n\n- one\n"), NEXT, TODAY)
