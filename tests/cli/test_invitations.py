"""`codexpool member add --invite`: one private file with all that a member's client needs, or none."""

from __future__ import annotations

import os
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codexpool.cli import invitation
from codexpool.cli.commands.member import member
from codexpool.config import editing
from codexpool.local import ca_files
from codexpool.tokens.member_key import PREFIX, hashed
from tests.cli import fakeproxy


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's, with a pool and a CA."""
    for name, value in {
        "HOME": tmp_path,
        "XDG_CONFIG_HOME": tmp_path / "config",
        "CODEXPOOL_STATE": tmp_path / "state.sqlite3",
        "CODEXPOOL_CONFIG": tmp_path / "pool.toml",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("CODEXPOOL_PROXY", raising=False)
    (tmp_path / "pool.toml").touch(mode=0o600)
    monkeypatch.setattr(ca_files, "SETTLING", 0)
    ca_files.prepare(tmp_path / ".mitmproxy")
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(member, list(arguments))
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert PREFIX not in result.output
    return result


def sourced(invitation: Path, home: Path, **environ: str) -> tuple[dict[str, str], str]:
    """Return the environment of a member's shell after it has read an invitation, and what it printed.

    The shell is strict: it ends at an error, and replaces no file (noclobber).
    """
    done = subprocess.run(
        ["sh", "-euCc", f". '{invitation}'; env"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line), done.stderr


def test_an_invitation_sets_up_the_members_shell(home: Path, tmp_path: Path) -> None:
    file = home / "ann's invitation.sh"

    said = run("add", "ann", "--invite", str(file), "--proxy", "http://team:8080")

    theirs = tmp_path / "ann"
    theirs.mkdir()
    file.rename(theirs / "invitation.sh")
    for _ in range(2):  # also in the next shell
        found, printed = sourced(theirs / "invitation.sh", theirs)
    (entry,) = tomllib.loads((home / "pool.toml").read_text())["member"]
    authority = ca_files.certificate(home / ".mitmproxy" / ca_files.CERTIFICATE)
    assert printed == ""
    assert found["HTTPS_PROXY"] == "http://team:8080"
    assert hashed(found["CODEX_ACCESS_TOKEN"]) == entry["key"]
    assert ca_files.certificate(Path(found["CODEX_CA_CERTIFICATE"])).fingerprint == authority.fingerprint
    assert Path(found["CODEX_CA_CERTIFICATE"]).is_relative_to(theirs)
    text = (theirs / "invitation.sh").read_text()
    assert authority.fingerprint in text
    assert "contains the key of ann" in text
    assert "PRIVATE" not in text
    assert said.stdout == ""
    assert authority.fingerprint in said.stderr
    assert "contains the key" in said.stderr


@pytest.mark.parametrize(
    ("value", "bypasses"),
    [
        ("intranet, .ChatGPT.com", True),
        ("*", True),
        ("openai.com:443", True),
        ("com", True),
        ("intranet,127.0.0.0/8,*.local,company", False),
    ],
)
def test_an_invitation_lets_no_key_past_the_proxy(home: Path, tmp_path: Path, value: str, bypasses: bool) -> None:
    file = home / "ann.sh"
    run("add", "ann", "--invite", str(file), "--proxy", "http://team:8080")

    found, printed = sourced(file, tmp_path, NO_PROXY=value, no_proxy="intranet")

    assert (found.get("NO_PROXY") == value) is not bypasses
    assert ("no_proxy" in found) is not bypasses
    assert ("NO_PROXY would lead" in printed) is bypasses


@pytest.mark.parametrize("name", invitation.CONFLICTS)
def test_an_invitation_warns_of_what_wins_over_the_key(home: Path, tmp_path: Path, name: str) -> None:
    file = home / "ann.sh"
    run("add", "ann", "--invite", str(file), "--proxy", "http://team:8080")

    assert f" {name}" in sourced(file, tmp_path, **{name: ""})[1]


@pytest.mark.skipif("os.name != 'posix'", reason="there are no such modes")
def test_an_invitation_is_private(home: Path) -> None:
    before = os.umask(0)
    try:
        run("add", "ann", "--invite", str(home / "ann.sh"), "--proxy", "http://team:8080")
    finally:
        os.umask(before)

    assert stat.S_IMODE((home / "ann.sh").stat().st_mode) == 0o600


@pytest.mark.parametrize("command", ["add", "rotate"])
def test_an_invitation_replaces_no_file(home: Path, command: str) -> None:
    if command == "rotate":
        run("add", "ann", "--invite", str(home / "first.sh"), "--proxy", "http://team:8080")
    (home / "ann.sh").write_text("mine")
    before = (home / "pool.toml").read_text()

    run(command, "ann", "--invite", str(home / "ann.sh"), "--proxy", "http://team:8080", code=2)

    assert (home / "ann.sh").read_text() == "mine"
    assert (home / "pool.toml").read_text() == before


def test_no_invitation_is_left_if_the_member_was_not_added(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, change: object) -> None:
        raise editing.EditError(path, "the disk is full", "make room")

    monkeypatch.setattr(editing, "edit", failing)

    said = run("add", "ann", "--invite", str(home / "ann.sh"), "--proxy", "http://team:8080", code=1)

    assert "Nothing was changed" in said.stderr
    assert list(home.glob("*ann.sh*")) == []


def test_no_member_is_added_if_the_invitation_cannot_be_written(home: Path) -> None:
    said = run("add", "ann", "--invite", str(home / "none" / "ann.sh"), "--proxy", "http://team:8080", code=1)

    assert "cannot write" in said.stderr
    assert "ann" not in (home / "pool.toml").read_text()


def test_an_invitation_needs_the_proxys_authority(home: Path) -> None:
    (home / ".mitmproxy" / ca_files.CERTIFICATE).unlink()

    said = run("add", "ann", "--invite", str(home / "ann.sh"), "--proxy", "http://team:8080", code=1)

    assert "codexpool setup" in said.stderr
    assert not (home / "ann.sh").exists()


def test_address_and_authority_are_for_invitations_only(home: Path) -> None:
    assert "--invite" in run("add", "ann", "--proxy", "http://team:8080", code=2).stderr


@pytest.mark.parametrize(
    ("listens", "proxy", "doubt"),
    [
        ("192.0.2.7:8080", "http://192.0.2.7:8080", ""),
        ("0.0.0.0:8080", "http://gateway:8080", "this machine's name"),
        ("*:8080", "http://gateway:8080", "this machine's name"),
        ("127.0.0.1:8080", "http://127.0.0.1:", "only this machine"),
    ],
)
def test_the_address_is_that_of_the_running_proxy(
    home: Path, monkeypatch: pytest.MonkeyPatch, listens: str, proxy: str, doubt: str
) -> None:
    monkeypatch.setattr(invitation.socket, "gethostname", lambda: "gateway")  # type: ignore[attr-defined]
    with fakeproxy.running() as running:
        running.status["proxy"]["listens"] = [listens]
        monkeypatch.setenv("CODEXPOOL_PROXY", running.url)

        said = run("add", "ann", "--invite", str(home / "ann.sh"))

    assert f"export HTTPS_PROXY={proxy}" in (home / "ann.sh").read_text()
    assert doubt in said.stderr


def test_without_a_running_proxy_its_address_is_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEXPOOL_PROXY", "http://127.0.0.1:9")

    said = run("add", "ann", "--invite", str(home / "ann.sh"), code=1)

    assert "--proxy http://HOST:PORT" in said.stderr
    assert "ann" not in (home / "pool.toml").read_text()


def test_an_invitation_can_be_printed(home: Path) -> None:
    """For a proxy in a container, out of which a file would have to be copied."""
    result = CliRunner().invoke(member, ["add", "ann", "--invite", "-", "--proxy", "http://team:8080"])

    file = home / "ann.sh"
    file.write_text(result.stdout)
    (entry,) = tomllib.loads((home / "pool.toml").read_text())["member"]
    assert hashed(sourced(file, home)[0]["CODEX_ACCESS_TOKEN"]) == entry["key"]
    assert PREFIX not in result.stderr
    assert not (home / "-").exists()


def test_a_rotated_key_can_be_an_invitation_too(home: Path) -> None:
    run("add", "ann", "--invite", str(home / "old.sh"), "--proxy", "http://team:8080")

    run("rotate", "ann", "--invite", str(home / "new.sh"), "--proxy", "http://team:8080")

    (entry,) = tomllib.loads((home / "pool.toml").read_text())["member"]
    found, _ = sourced(home / "new.sh", home)
    assert hashed(found["CODEX_ACCESS_TOKEN"]) == entry["key"]
