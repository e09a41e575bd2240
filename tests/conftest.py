"""Fixtures and rules for all tests: isolation from this machine, and which tests are slow."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings
from mitmproxy.log import MitmLogHandler

from tests import machine
from tests import postgres as postgres_server
from tests.running import Proxy, codex

settings.register_profile("any machine", deadline=None)  # a busy machine is no failure
settings.register_profile("quick", settings.get_profile("any machine"), max_examples=30)  # `just test`, .ci/run
settings.load_profile("any machine")

machine.hide()


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a state of its own, and no pool: the checkout may have a config/pool.toml."""
    monkeypatch.setenv("CODEXPOOL_CONFIG", str(tmp_path / "unused-pool.toml"))
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "unused-state.sqlite3"))


@pytest.fixture(autouse=True)
def _no_stale_log_handler() -> None:
    """Remove the log handlers that mitmproxy masters leave: their event loops are closed."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, MitmLogHandler):
            root.removeHandler(handler)


@pytest.fixture
def commands_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each proxy as its users do. For tests of starting and ending; the others fork (`tests.forking`)."""
    monkeypatch.setattr(Proxy, "forks", False)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> postgres_server.Server:
    """The PostgreSQL of this run, which all its workers share."""
    if postgres_server.binaries() is None:
        reason = "needs PostgreSQL: apt-get install postgresql"
        if os.environ.get(postgres_server.VARIABLE) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    base, owner = tmp_path_factory.getbasetemp(), os.getpid()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base, owner = base.parent, os.getppid()
    return postgres_server.shared(base, owner)


@pytest.fixture
def postgres_url(postgres: postgres_server.Server) -> str:
    """The URL of an empty schema."""
    return postgres.new_schema()


TESTS = Path(__file__).parent

SLOW = (
    "client/",  # the real Codex CLI
    "soak/",
    "web/test_page.py",  # Chromium
    "upkeep/test_life.py",  # days of a pool, simulated
    "pool/test_simulation.py",
    "upkeep/test_leasing_simulated.py",
    "state/test_chaos.py",
    "state/test_postgres_chaos.py",
    "credentials/test_file_login.py::test_killed_at",
    "credentials/test_killed_shared_login.py",
    "e2e/test_attackers.py",
    "e2e/test_bombs.py",
    "e2e/test_failing_scripts.py",
    "e2e/test_fairness.py",
    "e2e/test_fleet.py",
    "e2e/test_late_writes.py",
    "e2e/test_logins.py",
    "e2e/test_memory.py",
    "e2e/test_no_false_flags.py",
    "e2e/test_operator_edits.py",
    "e2e/test_other_hosts.py",
    "e2e/test_token_commands.py",
)
"""The beginnings of the ids, below tests/, that `just test-slow` runs. Every `real_client` test is slow, too."""


def pytest_xdist_auto_num_workers() -> int:
    """Return two workers per core for `-n auto`: most tests wait for processes."""
    return 2 * (os.cpu_count() or 1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files that `-m slow` or `-m "not slow"` leaves out: importing all tests takes each worker ten seconds."""
    if not collection_path.name.startswith("test_") or not collection_path.is_relative_to(TESTS):
        return None
    path = collection_path.relative_to(TESTS).as_posix()
    slow = path.startswith(SLOW)
    if config.option.markexpr == "not slow" and slow:
        return True
    if config.option.markexpr == "slow" and not slow:
        has_some = any(start.startswith(path) for start in SLOW) or "real_client" in collection_path.read_text()
        return None if has_some else True
    return None


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests. Skip those of the real client if it is missing, except in CI."""
    skip = pytest.mark.skip(reason="needs the real Codex CLI: npm install @openai/codex, or set CODEXPOOL_CODEX")
    missing = codex() is None and not os.environ.get("CI")
    for item in items:
        real_client = "real_client" in item.keywords
        if real_client or item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if real_client and missing:
            item.add_marker(skip)
