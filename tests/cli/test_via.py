"""Which proxy a command reaches the backend through."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from codexpool.cli import common
from codexpool.cli.main import main
from codexpool.cli.via import hint, via_option
from codexpool.credentials.http_client import Route
from codexpool.credentials.upstream_proxy import VARIABLE


def route(arguments: list[str], environ: Mapping[str, str]) -> Route:
    """Return the way of a command's requests."""

    @click.command()
    @via_option
    def asks() -> Route:
        return common.route()

    with pytest.MonkeyPatch.context() as patch:
        for name in (VARIABLE, "NO_PROXY", "no_proxy"):
            patch.delenv(name, raising=False)
        for name, value in environ.items():
            patch.setenv(name, value)
        found: Route = asks.main(arguments, standalone_mode=False)
    return found


@pytest.mark.parametrize(
    ("arguments", "environ", "proxy", "excluded"),
    [
        ([], {}, None, ""),
        ([], {"HTTPS_PROXY": "http://127.0.0.1:8080"}, None, ""),
        ([], {VARIABLE: "corp:3128", "NO_PROXY": "corp.example"}, "http://corp:3128", "corp.example"),
        (["--via", "http://other:1"], {VARIABLE: "corp:3128", "no_proxy": "x"}, "http://other:1", "x"),
    ],
)
def test_via_comes_before_the_variable_and_https_proxy_never_counts(
    arguments: list[str], environ: dict[str, str], proxy: str | None, excluded: str
) -> None:
    assert route(arguments, environ) == Route(proxy, excluded=excluded)


@pytest.mark.parametrize(
    ("environ", "hints"),
    [
        ({"HTTPS_PROXY": "http://kim:hunter2@corp:3128"}, True),
        ({"https_proxy": "corp:3128"}, True),
        ({"HTTPS_PROXY": "http://127.0.0.1:8080"}, False),
        ({"HTTPS_PROXY": "nonsense://"}, False),
        ({}, False),
    ],
)
def test_a_companys_proxy_in_https_proxy_is_a_hint(environ: dict[str, str], hints: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE, raising=False)
        assert bool(hint(environ)) is hints
        assert "hunter2" not in hint(environ)
        patch.setenv(VARIABLE, "corp:3128")
        assert hint(environ) == "", "it is used already"


@pytest.mark.parametrize("command", ["add x", "login x", "replace x", "check", "reset x", "run"])
def test_an_invalid_one_is_wrong_usage_and_not_repeated(command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "--via", "socks5://kim:hunter2@corp:1080"])

    assert result.exit_code == 2
    assert "--via: SOCKS is not supported" in result.stderr
    assert "hunter2" not in result.output


def test_an_invalid_variable_is_wrong_usage_and_not_repeated() -> None:
    result = CliRunner().invoke(main, ["run"], env={VARIABLE: "http://kim:hunter2@corp:port"})

    assert result.exit_code == 2
    assert f"{VARIABLE}: not the URL of an HTTP proxy" in result.stderr
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("arguments", "modes"),
    [
        ([], []),
        (["--via", "http://kim:hunter2@corp:3128"], ["upstream:http://corp:3128"]),
        (["--via", "corp", "--mode", "regular"], ["regular"]),
        (["--via", "corp", "--set", "mode=regular"], []),
    ],
)
def test_run_listens_in_the_right_mode_from_the_start(
    arguments: list[str], modes: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[list[str]] = []
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("codexpool.proxy.mitm.master.run", lambda name, options, addons: given.append(options))
    monkeypatch.setattr("os.umask", lambda mask: mask)
    monkeypatch.setattr("codexpool.cli.commands.run.log_output", lambda: sys.stdout)

    result = CliRunner().invoke(main, ["run", *arguments])

    assert result.exit_code == 0, result.output
    [options] = given
    assert [after for before, after in itertools.pairwise(options) if before == "--mode"] == modes
    assert not [option for option in options if "hunter2" in option]
    assert ("hunter2" in os.environ[VARIABLE]) is ("hunter2" in str(arguments))
