"""A command of the first hour ends with what comes next, unless something else leads on."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from codexpool.cli import running_proxy
from codexpool.cli.next_steps import GUIDED, say_next
from codexpool.local.running_proxies import Announcement
from tests.cli.pools import Pool
from tests.running import pat
from tests.standin import StandIn

RUNS = Announcement(4711, ("127.0.0.1:8080",), 1.0, "12.3.1", "0.1.0")


@pytest.mark.parametrize(("running", "is_told"), [([], True), ([RUNS], False)], ids=["no proxy", "a proxy"])
def test_after_the_first_token_a_proxy_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: list[Announcement], is_told: bool
) -> None:
    monkeypatch.setattr(running_proxy, "announced", lambda _: running)
    monkeypatch.setenv("SHELL", "/bin/bash")
    (tmp_path / "standin").mkdir()
    with StandIn([], folder=tmp_path / "standin") as standin:
        pool = Pool(standin, tmp_path, monkeypatch)
        said = pool.add(pat("work"))
        assert "Next" not in pool.add(pat("spare")).stderr
        other = pool.add(pat("other"), "--config", str(tmp_path / "another pool.toml"))

    run = "  codexpool run\n" if is_told else ""
    assert f'Next:\n{run}  eval "$(codexpool env)" && codex\n' in said.stderr
    assert "Next" not in said.stdout
    assert (f"codexpool run --config '{tmp_path}/another pool.toml'\n" in other.stderr) is is_told


@pytest.mark.parametrize("is_guided", [True, False])
def test_nothing_is_said_while_init_leads_on(capsys: pytest.CaptureFixture[str], is_guided: bool) -> None:
    with click.Context(click.Command("add")) as context:
        context.meta[GUIDED] = is_guided
        say_next("codexpool run")

    assert ("codexpool run" in capsys.readouterr().err) is not is_guided
