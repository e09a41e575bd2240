"""What a flow shows, without a proxy around it."""

from __future__ import annotations

import pytest

from benchmarks.own import StillKeeper, flow
from codexpool.exchanges import Exchanges


@pytest.mark.parametrize("session", [True, False], ids=["with a session", "without one"])
async def test_placeholder_names_the_identity_of_every_request(session: bool) -> None:
    exchanges = Exchanges(resends=True)
    exchanges.keeper = StillKeeper("first", "second")
    request = flow(1)
    if not session:
        for name in ("session-id", "thread-id"):
            del request.request.headers[name]

    exchanges.open(request)
    await exchanges.assign(request)

    assert request.request.headers["authorization"] == "Bearer <codexpool:first>"
    assert request.request.headers["chatgpt-account-id"] == "<codexpool:first>"
