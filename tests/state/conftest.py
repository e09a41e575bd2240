"""The engines that every promise of the state is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.state.engines import Engine, SqliteEngine


@pytest.fixture(params=["sqlite"])
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty database, of which each test opens as many states as it needs."""
    made = SqliteEngine(tmp_path / "s.sqlite3")
    yield made
    made.close()
