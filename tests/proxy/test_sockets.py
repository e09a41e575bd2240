"""What the end of a socket says of its identity, without a proxy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from codexpool.pool.identity import Asked, Status
from codexpool.pool.states import DOUBTS
from codexpool.proxy.sockets import OpenSocket, Pending, Sockets
from tests.pool.pools import RESPONSES, ready_pool


@pytest.mark.parametrize(
    ("code", "rests"),
    [
        *((code, True) for code in (1006, 1008, 1011, None)),
        # too long, or nothing that the backend takes: that is what the client has sent
        *((code, False) for code in (1003, 1007, 1009)),
        *((code, False) for code in (1000, 1001, 1012, 1013)),
    ],
)
def test_a_close_counts_only_if_it_may_be_the_identitys_fault(code: int | None, rests: bool) -> None:
    pool = ready_pool("one", "two")
    one = pool.identities["one"]
    attempt = SimpleNamespace(name="one", bearer=SimpleNamespace(fingerprint=one.fingerprint))
    exchange: Any = SimpleNamespace(asked=Asked("s", RESPONSES), named="s", attempt=attempt)
    flow: Any = SimpleNamespace(websocket=SimpleNamespace(closed_by_client=False, close_code=code))
    flows = SimpleNamespace(keeper=SimpleNamespace(pool=pool), serves=True)
    nothing: Any = None
    sockets = Sockets(flows, nothing, nothing, nothing, nothing)  # type: ignore[arg-type]

    for _ in range(DOUBTS):
        OpenSocket(flow, exchange, sockets, [Pending()]).on_close()

    assert one.status is (Status.RESTING if rests else Status.READY)
