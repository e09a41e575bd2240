"""What doctor says about the state and the proxies that share it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from codexpool import state
from codexpool.doctor import shared_state
from codexpool.doctor.findings import Finding, Level
from codexpool.state.fleet import DEAD_AFTER
from tests.cli.fakeproxy import fleet, status
from tests.web.views import member_of_fleet

WHERE = "postgresql://db.example/codexpool"


def of_proxy(**state: Any) -> list[Finding]:
    return list(shared_state.of_proxy(status(**fleet("pool-a", **state)), WHERE))


def test_a_state_that_the_proxy_uses_too_is_not_mentioned() -> None:
    assert of_proxy() == []


def test_an_older_proxy_says_nothing_about_its_state() -> None:
    assert list(shared_state.of_proxy({}, WHERE)) == []


def test_another_state_than_the_proxys_is_noted() -> None:
    [found] = of_proxy(where="/home/me/state.sqlite3")

    assert found.level is Level.NOTE
    assert found.text == f"the proxy uses /home/me/state.sqlite3; commands in this shell use {WHERE}"
    assert "CODEXPOOL_STATE" in found.remedy


def test_a_state_that_the_proxy_has_lost_is_wrong() -> None:
    [found] = of_proxy(connected=False, since=1_764_000_000.0)

    assert found.level is Level.WRONG
    assert "lost it since 16:00:00" in found.text


@pytest.mark.parametrize(("ahead", "words"), [(300.0, "5 min behind"), (-300.0, "5 min ahead of")])
def test_a_clock_that_differs_from_the_databases_is_noted(ahead: float, words: str) -> None:
    [found] = shared_state.of_clock(ahead)

    assert found.level is Level.NOTE
    assert f"this machine's clock is {words} the database's" in found.text


def test_clocks_that_agree_are_not_mentioned() -> None:
    assert list(shared_state.of_clock(0.2)) == []


def test_proxies_of_several_versions_are_noted() -> None:
    proxies = [member_of_fleet("a"), member_of_fleet("b", version="1.1"), member_of_fleet("c")]

    [found] = shared_state.of_versions(proxies)

    assert found.level is Level.NOTE
    assert "1.0: host-a, host-c; 1.1: host-b" in found.text


def test_a_dead_proxy_of_another_version_does_not_count() -> None:
    dead = member_of_fleet("b", silent=DEAD_AFTER + 1, version="0.9")

    assert list(shared_state.of_versions([member_of_fleet("a"), dead])) == []


def test_a_url_of_something_else_is_wrong_and_its_password_is_not_repeated() -> None:
    [found] = shared_state.findings({"CODEXPOOL_STATE": "mysql://me:hunter2@db/x"}, {})

    assert found.level is Level.WRONG
    assert "hunter2" not in found.text + found.remedy


def test_a_state_out_of_reach_is_told_for_this_shell_and_for_the_proxy() -> None:
    environ = {"CODEXPOOL_STATE": "postgresql://me:hunter2@127.0.0.1:1/pool"}
    lost = status(**fleet("pool-a", where="postgresql://127.0.0.1:1/pool", connected=False))

    here, there = shared_state.findings(environ, lost)

    assert here.text.startswith("postgresql://127.0.0.1:1/pool cannot be used")
    assert "check that the server runs" in here.remedy
    assert there.text.startswith("the proxy has lost it")
    assert "hunter2" not in f"{here} {there}"


def test_a_missing_driver_is_told_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "codexpool.state.postgres", raising=False)
    monkeypatch.delattr(state, "postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)

    [found] = shared_state.findings({"CODEXPOOL_STATE": "postgresql://me@db.example/pool"}, {})

    assert found.level is Level.WRONG
    assert "psycopg is missing" in found.text
    assert "'.[postgres]'" in found.remedy


def test_a_file_that_does_not_exist_yet_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"

    [found] = shared_state.findings({"CODEXPOOL_STATE": str(path)}, {})

    assert (found.level, found.text) == (Level.OK, f"{path} does not exist yet")
    assert not path.exists()
