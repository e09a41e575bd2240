"""The engines that every promise of the state is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.state.engines import Engine, PostgresEngine, SqliteEngine


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database, of which each test opens as many states as it needs."""
    if request.param == "sqlite":
        made: Engine = SqliteEngine(tmp_path / "s.sqlite3")
    else:
        made = PostgresEngine(request.getfixturevalue("postgres_url"))
    yield made
    made.close()
