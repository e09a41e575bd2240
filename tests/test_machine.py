"""No test sees the home folder, the configuration or the variables of the person who runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codexpool.cli import common
from tests import machine
from tests.e2e.logins import write_private

ROOT = Path(__file__).parent.parent

OF_A_PERSON = {
    "CODEXPOOL_CONFIG": "/of/a/person/pool.toml",
    "CODEXPOOL_STATE": "postgresql://of.a.person/state",
    "CODEXPOOL_STATE_KEY": "a key of a person",
    "CODEXPOOL_PROXY": "http://of.a.person:1",
    "CODEXPOOL_UPSTREAM_PROXY": "http://of.a.person:2",
    "CODEX_HOME": "/of/a/person/codex",
    "CODEX_ACCESS_TOKEN": "at-of-a-person",
    "CODEX_CA_CERTIFICATE": "/of/a/person/ca.pem",
    "SSL_CERT_FILE": "/of/a/person/bundle.pem",
    "HTTPS_PROXY": "http://of.a.person:3",
    "no_proxy": "*",
    "XDG_CONFIG_HOME": "/of/a/person/config",
    "XDG_STATE_HOME": "/of/a/person/state",
    "PGPASSWORD": "of-a-person",
    "COLUMNS": "31",
    "NO_COLOR": "1",
    "FORCE_COLOR": "1",
    "EDITOR": "editor-of-a-person",
    "TZ": "Asia/Kathmandu",
    "WHAT_NO_TEST_KNOWS_OF": "1",
}

PROGRAM = """
import json, os
from tests import machine
machine.hide()
print(json.dumps(dict(os.environ)))
"""


def of_a_person(home: Path) -> dict[str, str]:
    """The environment of a person who has a pool, which does not work, and a mitmproxy that cannot start."""
    for path in (".config/codexpool/pool.toml", ".mitmproxy/config.yaml", ".codex/auth.json", ".codex/config.toml"):
        write_private(home / path, "{{{ this is of a person: no test may read it")
    kept = {name: value for name, value in os.environ.items() if name not in OF_A_PERSON}
    return {**kept, **OF_A_PERSON, "HOME": str(home), "PYTHONPATH": str(ROOT)}


def test_what_tests_get_of_the_environment_is_what_they_need(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=of_a_person(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(ended.stdout)
    assert seen["TZ"] == "UTC"
    assert seen.keys().isdisjoint(OF_A_PERSON.keys() - {"TZ"})
    assert seen["HOME"] != str(tmp_path)


def test_the_home_folder_of_this_run_is_an_empty_one() -> None:
    assert Path.home().name.startswith("codexpool-home-")
    assert [
        name for name in os.environ if name.startswith(("XDG_", "CODEX_", "PG")) or name.lower().endswith("_proxy")
    ] == []
    assert os.environ["TZ"] == "UTC"


def test_a_command_finds_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    assert common.pool_places(None).find() is None
    assert not common.Pool(common.pool_path(None)).config.identities
    monkeypatch.delenv("CODEXPOOL_CONFIG")
    home = common.pool_places(None).new
    assert machine.KEPT.fullmatch("CODEXPOOL_CONFIG") is None
    assert home.is_relative_to(Path.home())
