"""What the status document of a proxy shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codexpool.doctor import proxy_status
from codexpool.doctor.findings import Finding, Level
from tests.cli.fakeproxy import DEAD, NOW, identity, status

POOL = Path("/home/me/.config/codexpool/pool.toml")

GOOD: dict[str, Any] = {"identities": [identity()]}


def findings(**changes: Any) -> list[Finding]:
    return list(proxy_status.findings(status(**{**GOOD, **changes}), "127.0.0.1:8080", POOL))


def trouble(**changes: Any) -> list[tuple[Level, str]]:
    return [(finding.level, finding.text) for finding in findings(**changes) if finding.level is not Level.OK]


def test_a_proxy_that_serves_is_ok() -> None:
    assert trouble() == []


@pytest.mark.parametrize(
    ("proxy", "members", "words"),
    [
        ({"access": "members"}, [{"name": "ann"}, {"name": "bob"}], "serves members (2 of them)"),
        ({"access": "members"}, None, "serves members"),
        ({"access": "anyone"}, [], "serves anyone who reaches it"),
        ({}, None, "does not report whom it serves"),
    ],
)
def test_it_says_whom_the_proxy_serves(proxy: dict[str, Any], members: Any, words: str) -> None:
    assert words in findings(proxy=proxy, members=members)[0].text


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"proxy": {"closed": "pool.toml:4: is not TOML"}}, Level.WRONG, "refuses all requests: pool.toml:4"),
        ({"proxy": {"observe": True}}, Level.NOTE, "only observes"),
        ({"proxy": {"version": "0.0.1"}}, Level.NOTE, "is codexpool 0.0.1"),
        ({"proxy": {"installed": "0.2.0"}}, Level.WRONG, "0.1.0 runs, 0.2.0 is installed"),
        ({"proxy": {"pool": "/etc/codexpool/pool.toml"}}, Level.NOTE, "uses /etc/codexpool/pool.toml"),
        ({"breaker": {"open": True, "until": None, "names": ["work"]}}, Level.WRONG, "(work)"),
        ({"identities": []}, Level.WRONG, "no request can be served"),
        ({"proxy": {"pool": None}, "identities": []}, Level.WRONG, "requests keep the client's own credential"),
        (
            {"pool_file": {"path": "/p", "read_at": NOW, "missing": False, "problem": "it is invalid: /p:3"}},
            Level.WRONG,
            "uses its pool.toml as it was at 2025-11-24 16:00: it is invalid: /p:3",
        ),
        (
            {"pool_file": {"path": "/p", "read_at": None, "missing": False, "problem": "/p cannot be used"}},
            Level.WRONG,
            "/p cannot be used",
        ),
        ({"identities": [identity(), DEAD]}, Level.WRONG, "spare is needs_replacement (401 token_revoked"),
        ({"identities": [identity(), identity("two", status="paused")]}, Level.NOTE, "two is paused"),
        (
            {"identities": [identity(), identity("two", status="limited", until=NOW + 60)]},
            Level.NOTE,
            "two is limited; it serves again at 2025-11-24 16:01:00",
        ),
        ({"identities": [identity(), identity("two", status="suspect")]}, Level.NOTE, "two is suspect"),
        ({"identities": [identity(reminder="its token is expected to expire")]}, Level.NOTE, "expected to expire"),
    ],
)
def test_each_problem_has_its_finding(changes: dict[str, Any], level: Level, words: str) -> None:
    (found,) = trouble(**changes)

    assert found[0] is level
    assert words in found[1]


def test_an_identity_has_its_remedy() -> None:
    found = findings(identities=[identity(), DEAD])

    assert found[-1].remedy == DEAD["needs"]


def test_a_closed_proxy_has_no_finding_about_identities() -> None:
    assert [finding.about for finding in findings(proxy={"closed": "no"}, identities=[])] == ["proxy", "proxy"]
