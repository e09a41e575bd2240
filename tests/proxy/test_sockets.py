"""What the end of a socket says of its identity, without a proxy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from codexpool.pool.identity import Asked, Status
from codexpool.pool.states import DOUBTS
from codexpool.proxy.sockets import Sockets
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
def test_only_a_close_that_may_be_the_identitys_fault_counts_against_it(code: int | None, rests: bool) -> None:
    pool = ready_pool("one", "two")
    one = pool.identities["one"]
    attempt = SimpleNamespace(name="one", bearer=SimpleNamespace(fingerprint=one.fingerprint))
    exchange = SimpleNamespace(asked=Asked("s", RESPONSES), named="s", attempt=attempt)
    socket: Any = SimpleNamespace(exchange=exchange, asked=1, has_begun=False, has_answered=False)
    keeper: Any = SimpleNamespace(pool=pool)

    for _ in range(DOUBTS):
        Sockets._closed_by_backend(socket, code, keeper)

    assert one.status is (Status.RESTING if rests else Status.READY)
