"""`codexpool setup`: what an operator learns about the proxy's certificate authority."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codexpool.cli import running_proxy
from codexpool.cli.commands.env import env
from codexpool.cli.commands.setup import setup
from codexpool.local import ca_files
from codexpool.local.ca_files import CERTIFICATE, KEY, certificate
from codexpool.local.running_proxies import Announcement
from tests.cli.fakeproxy import FakeProxy, running
from tests.standin.certificates import Authority

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`codexpool setup` of somebody with an empty home, on a machine without a proxy."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "state.sqlite3"))
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.delenv(running_proxy.VARIABLE, raising=False)
    monkeypatch.setattr(running_proxy, "DEFAULT", "http://127.0.0.1:1")
    monkeypatch.setattr(ca_files, "SETTLING", 0)

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(setup, list(arguments))
        assert result.exit_code == code, result.output
        assert "PRIVATE KEY" not in result.output
        return result

    return run


def test_setup_explains_what_to_share_and_what_to_keep(run: Run, tmp_path: Path) -> None:
    said = run().output

    made = certificate(tmp_path / ".mitmproxy" / CERTIFICATE)
    assert str(made.path) in said
    assert made.fingerprint in said
    assert f"{made.expires:%Y-%m-%d}" in said
    assert f"Never give away {KEY} or mitmproxy-ca.p12" in said
    assert "codexpool run\n" in said


def test_next_steps_name_a_custom_confdir(run: Run, tmp_path: Path) -> None:
    said = run("--confdir", str(tmp_path / "team ca")).stderr

    assert f"codexpool run --set 'confdir={tmp_path}/team ca'" in said
    assert f"codexpool env --ca '{tmp_path}/team ca/{CERTIFICATE}'" in said


def test_a_second_setup_prints_the_same(run: Run) -> None:
    first, second = (json.loads(run("--json").stdout) for _ in range(2))

    assert [first.pop("is_new"), second.pop("is_new")] == [True, False]
    assert first == second
    assert set(first) == {"version", "confdir", "certificate", "sha256", "holds_until", "mended", "proxy"}


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


# -- beside a proxy that runs


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeProxy, Path]]:
    """A proxy that runs here, of another user or in a container, and its certificate."""
    (tmp_path / "other").mkdir()
    theirs = Authority(tmp_path / "other").ca_file
    with running() as fake:
        fake.answers["/ca.pem"] = (200, theirs.read_text())
        monkeypatch.setattr(running_proxy, "DEFAULT", fake.url)
        yield fake, theirs


def announce(monkeypatch: pytest.MonkeyPatch, port: int, folder: Path) -> None:
    one = Announcement(4711, (f"127.0.0.1:{port}",), 1.0, "12.3.1", "0.1.0", folder)
    monkeypatch.setattr(running_proxy, "announced", lambda _: [one])


def test_no_second_authority_is_made_beside_a_proxy(run: Run, other: tuple[FakeProxy, Path], tmp_path: Path) -> None:
    fake, theirs = other

    said, document = run().output, json.loads(run("--json").stdout)

    assert not (tmp_path / ".mitmproxy").exists()
    assert certificate(theirs).fingerprint in said
    assert "docker cp" in said
    assert "http://codex.pool/ca.pem" in said
    assert f'eval "$(codexpool env --ca {CERTIFICATE})" && codex' in said
    assert (document["certificate"], document["proxy"]) == (None, f"127.0.0.1:{fake.port}")
    assert document["sha256"] == certificate(theirs).fingerprint


def test_the_folder_of_ones_own_proxy_is_shown(
    run: Run, other: tuple[FakeProxy, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, _ = other
    run("--confdir", str(tmp_path / "own"))
    own = certificate(tmp_path / "own" / CERTIFICATE)
    fake.answers["/ca.pem"] = (200, own.path.read_text())
    announce(monkeypatch, fake.port, tmp_path / "own")

    said = run().output

    assert own.fingerprint in said
    assert "The proxy has a certificate authority." in said
    assert "codexpool run" not in said
    assert not (tmp_path / ".mitmproxy").exists()


def test_an_authority_that_was_changed_under_a_proxy_is_told(
    run: Run, other: tuple[FakeProxy, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--confdir", str(tmp_path / "own"))
    announce(monkeypatch, other[0].port, tmp_path / "own")

    assert "has to be restarted" in run().stderr


def test_env_leads_no_client_to_a_proxy_with_another_authority(
    run: Run, other: tuple[FakeProxy, Path], tmp_path: Path
) -> None:
    run("--confdir", str(tmp_path / ".mitmproxy"))

    refused = CliRunner().invoke(env, [])
    named = CliRunner().invoke(env, ["--ca", str(other[1])])

    assert (refused.exit_code, named.exit_code) == (1, 0)
    assert "codexpool setup" in refused.stderr
    assert refused.stdout == "false\n"


@pytest.mark.parametrize("answer", [(404, {"error": {}}), (200, "<html>"), (403, {"error": {}})], ids=str)
def test_a_proxy_that_does_not_say_its_authority_is_no_obstacle(
    run: Run, other: tuple[FakeProxy, Path], answer: tuple[int, object], tmp_path: Path
) -> None:
    other[0].answers["/ca.pem"] = answer

    run()

    assert (tmp_path / ".mitmproxy" / CERTIFICATE).exists()
