"""`codexpool setup`: what an operator learns about the proxy's certificate authority."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codexpool.cli.commands.setup import setup
from codexpool.local import ca_files
from codexpool.local.ca_files import CERTIFICATE, KEY, certificate

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`codexpool setup` of somebody with an empty home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ca_files, "SETTLING", 0)

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(setup, list(arguments))
        assert result.exit_code == code, result.output
        assert "PRIVATE KEY" not in result.output
        return result

    return run


def test_setup_explains_what_to_share_and_what_to_keep(run: Run, tmp_path: Path) -> None:
    said = run().stdout

    made = certificate(tmp_path / ".mitmproxy" / CERTIFICATE)
    assert str(made.path) in said
    assert made.fingerprint in said
    assert f"{made.expires:%Y-%m-%d}" in said
    assert f"Never give away {KEY} or mitmproxy-ca.p12" in said
    assert "codexpool run\n" in said


def test_next_steps_name_a_custom_confdir(run: Run, tmp_path: Path) -> None:
    said = run("--confdir", str(tmp_path / "team ca")).stdout

    assert f"codexpool run --set 'confdir={tmp_path}/team ca'" in said
    assert f"codexpool env --ca '{tmp_path}/team ca/{CERTIFICATE}'" in said


def test_a_second_setup_prints_the_same(run: Run) -> None:
    first, second = (json.loads(run("--json").stdout) for _ in range(2))

    assert [first.pop("is_new"), second.pop("is_new")] == [True, False]
    assert first == second
    assert set(first) == {"version", "confdir", "certificate", "sha256", "holds_until", "mended"}


@pytest.mark.skipif("os.name != 'posix'", reason="there are no such modes")
def test_fixed_permissions_are_reported_on_standard_error(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / ".mitmproxy" / KEY).chmod(0o644)

    result = run()

    assert "mode 0644" in result.stderr
    assert "mode 0644" not in result.stdout


def test_an_unusable_folder_fails_with_a_remedy(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".mitmproxy").write_text("a file where the folder should be")

    assert "codexpool setup --confdir PATH" in run(code=1).stderr
