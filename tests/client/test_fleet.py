"""The real client with two proxies on two machines, and one PostgreSQL. One clock is five minutes ahead."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from tests.client.fleet_steps import SCENARIOS
from tests.e2e.conftest import OLD
from tests.namespaced import needs_addresses, run_in_namespace_once
from tests.postgres import VARIABLE, binaries

pytestmark = [
    pytest.mark.real_client,
    needs_addresses,
    pytest.mark.skipif(OLD, reason="this mitmproxy is for loopback only"),
    pytest.mark.skipif(
        not (shutil.which("haproxy") and binaries()) and os.environ.get(VARIABLE) != "required",
        reason="needs PostgreSQL and haproxy: apt-get install postgresql haproxy",
    ),
]


@pytest.fixture(scope="module")
def saw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_namespace_once("tests.client.fleet_steps", tmp_path_factory, seconds=240)


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_with_two_proxies(saw: dict[str, Any], scenario: str) -> None:
    assert saw[scenario] == ""


def test_no_token_went_where_it_does_not_belong(saw: dict[str, Any]) -> None:
    assert (saw["refusals"], saw["leaks"]) == ([], 0)
