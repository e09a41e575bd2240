from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standin import StandIn
from tests.standin.clients import client_token, spare, work


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([work(), spare()], clients=[client_token()], folder=tmp_path, alpn=("h2", "http/1.1")) as standin:
        yield standin
    assert standin.troubles == []
