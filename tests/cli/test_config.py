"""`codexpool config path`, `example` and `edit`: where pool.toml is, what may be in it, and changing it by hand."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codexpool.cli.commands import config
from codexpool.cli.main import main
from codexpool.common.atomic_replace import locked
from codexpool.config import editing
from codexpool.config.read import parse

TOKEN = "at-secret0secret0secret0secret0"
VALID = f'[[identity]]\nname = "work"\ntoken = "{TOKEN}"  # mine\n'
Run = Callable[..., Result]
Edits = Callable[[str], None]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "state.sqlite3"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "pool.toml"
    monkeypatch.setenv("CODEXPOOL_CONFIG", str(path))
    return path


@pytest.fixture
def pool(path: Path) -> Path:
    path.touch(mode=0o600)
    path.write_text(VALID)
    return path


@pytest.fixture
def run(path: Path) -> Run:
    def run(*arguments: str, code: int = 0, stdin: str = "") -> Result:
        result = CliRunner().invoke(main, ["config", *arguments], input=stdin)
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        assert TOKEN not in result.output
        assert list((path.parent / "tmp").iterdir()) == []  # No copy is left.
        return result

    return run


@pytest.fixture
def edits(path: Path, monkeypatch: pytest.MonkeyPatch) -> Edits:
    """Make lines of Python the editor; ``copy`` is the path of what it edits."""
    monkeypatch.delenv("VISUAL", raising=False)

    def edits(code: str) -> None:
        code = f"import sys, pathlib; copy = pathlib.Path(sys.argv[1]); {code}"
        monkeypatch.setenv("EDITOR", f"{sys.executable} -c {shlex.quote(code)}")

    return edits


# -- path and example


def test_path_is_the_file_in_use(run: Run, pool: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("")

    assert run("path").stdout == f"{pool}\n"
    assert run("path", "--config", str(other)).stdout == f"{other}\n"


def test_path_of_no_pool_is_where_it_would_be_created(run: Run, path: Path) -> None:
    result = run("path")

    assert result.stdout == f"{path}\n"
    assert "does not exist yet" in result.stderr
    assert '"exists": false' in run("path", "--json").stdout
    assert run("check").stdout == f"{path}: does not exist yet, 0 identities\n"


def test_the_example_is_a_valid_pool_toml(run: Run, path: Path) -> None:
    shown = run("example").stdout

    assert parse(shown, path).identities
    assert "turns_at_once" in shown


# -- edit


def test_a_valid_edit_is_saved_as_it_was_written(run: Run, pool: Path, edits: Edits) -> None:
    edits("copy.write_text(copy.read_text() + 'paused = true\\n')")

    result = run("edit")

    assert pool.read_text() == f"{VALID}paused = true\n"
    assert f"saved {pool}" in result.stdout


@pytest.mark.skipif("os.name != 'posix'", reason="there are no such modes")
def test_the_copy_of_the_tokens_is_private(run: Run, pool: Path, edits: Edits) -> None:
    seen = pool.parent / "seen"
    modes = "[oct(one.stat().st_mode)[-3:] for one in (copy, copy.parent)]"
    edits(f"print(*{modes}, file=open({str(seen)!r}, 'w')); copy.with_name('backup~').touch()")

    run("edit")

    assert seen.read_text().split() == ["600", "700"]


def test_an_invalid_edit_is_not_saved(run: Run, pool: Path, edits: Edits) -> None:
    edits("copy.write_text(copy.read_text() + 'nmae = 1\\n')")

    result = run("edit", code=1)

    assert pool.read_text() == VALID
    assert f"{pool}:4" in result.stderr
    assert "Nothing was changed" in result.stderr


def test_an_invalid_edit_can_be_gone_on_with(
    run: Run, pool: Path, edits: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits("t = copy.read_text(); copy.write_text(t.replace('nmae', '# name') if 'nmae' in t else t + 'nmae = 1\\n')")
    monkeypatch.setattr(config, "can_ask", lambda: True)

    run("edit", stdin="y\n")

    assert pool.read_text() == f"{VALID}# name = 1\n"


def test_an_invalid_file_can_be_repaired(run: Run, pool: Path, edits: Edits) -> None:
    pool.write_text("[[identity")
    edits("copy.write_text('# empty\\n')")

    run("edit")

    assert pool.read_text() == "# empty\n"


@pytest.mark.parametrize("code", ["pass", "copy.write_text(copy.read_text())"])
def test_an_edit_without_a_change_writes_nothing(run: Run, path: Path, edits: Edits, code: str) -> None:
    edits(code)

    assert "nothing was changed" in run("edit").stdout
    assert not path.exists()


def test_a_first_edit_creates_a_private_file(run: Run, path: Path, edits: Edits) -> None:
    edits("copy.write_text(copy.read_text() + '[pool]\\n')")

    run("edit")

    assert path.read_text() == f"{editing.HEADER}[pool]\n"
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_change_by_others_meanwhile_is_kept(run: Run, pool: Path, edits: Edits) -> None:
    """A proxy may flag an identity while a person edits the file."""
    edits(f"pathlib.Path({str(pool)!r}).write_text('# flagged\\n'); copy.write_text('# mine\\n')")

    result = run("edit", code=1)

    assert pool.read_text() == "# flagged\n"
    (kept,) = pool.parent.glob("pool.toml.edited-*")
    assert kept.read_text() == "# mine\n"
    assert str(kept) in result.stderr
    assert os.name != "posix" or stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("editor", "said"), [("/no/such/editor", "EDITOR"), ("false", "EDITOR"), ("vi '", "not a command line")]
)
def test_an_editor_that_fails_changes_nothing(
    run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch, editor: str, said: str
) -> None:
    monkeypatch.setenv("VISUAL", editor)

    result = run("edit", code=1)

    assert said in result.stderr
    assert "Nothing was changed" in result.stderr
    assert pool.read_text() == VALID


def test_what_was_edited_is_kept_if_it_cannot_be_saved(
    run: Run, pool: Path, edits: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits('copy.write_text("# mine\\n")')
    monkeypatch.setattr(editing, "LOCK_TIMEOUT", 0.0)
    with locked(pool.resolve(), 1):
        result = run("edit", code=1)

    [kept] = pool.parent.glob("pool.toml.edited-*")
    assert kept.read_text() == "# mine\n"
    assert f"is being edited by another process; try again. Your text is in {kept}" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs signals of a terminal")
@pytest.mark.parametrize(("ends_with", "code"), [("0", 0), ("1", 130)])
def test_ctrl_c_is_left_to_the_editor(run: Run, pool: Path, edits: Edits, ends_with: str, code: int) -> None:
    """vim, for one, goes on after it. Only an editor that fails then was interrupted."""
    edits(
        "import os, signal; copy.write_text('# mine\\n'); "
        f"os.kill(os.getppid(), signal.SIGINT); sys.exit({ends_with})"
    )

    run("edit", code=code)

    assert pool.read_text() == (VALID if code else "# mine\n")


def test_an_identity_without_a_token_is_reported_after_saving(run: Run, pool: Path, edits: Edits) -> None:
    edits('copy.write_text(\'[[identity]]\\nname = "work"\\ntoken = { env = "NOT_SET_HERE" }\\n\')')

    result = run("edit")

    assert "NOT_SET_HERE" in pool.read_text()
    assert "NOT_SET_HERE" in result.stderr
