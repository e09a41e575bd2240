"""Fixtures of the tests of commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.fakeproxy import FakeProxy, running


@pytest.fixture
def fake() -> Iterator[FakeProxy]:
    with running() as fake:
        yield fake
