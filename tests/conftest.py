"""What all tests share."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings
from mitmproxy.log import MitmLogHandler

from tests.running import codex

settings.register_profile("any machine", deadline=None)  # what is slow today says nothing about the code
settings.register_profile("quick", settings.get_profile("any machine"), max_examples=30)  # .ci/run, which says so
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the configuration, the state or the proxy settings of the person who runs it."""
    for name in (
        "CODEXPOOL_CONFIG",
        "CODEX_AUTHAPI_BASE_URL",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "NO_PROXY",
        "CODEXPOOL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "unused-state.sqlite3"))


@pytest.fixture(autouse=True)
def _no_log_handler_left_behind() -> None:
    """A master of mitmproxy, which some tests make, leaves a handler that belongs to a loop long closed."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, MitmLogHandler):
            root.removeHandler(handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the real client its tests are skipped, except in CI, which has to have it."""
    if codex() is not None or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason="needs the real Codex CLI: npm install @openai/codex, or set CODEXPOOL_CODEX")
    for item in items:
        if "real_client" in item.keywords:
            item.add_marker(skip)
