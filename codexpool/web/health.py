"""`/healthz` and `/healthz/ready`: whether the process lives, and whether it serves.

Whoever runs proxies asks this, and may be another machine; so nothing is in it that says whose proxy it is: no name,
no path, and none of the log's words. The reasons are those of this file.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from codexpool.pool.identity import Status
from codexpool.pool.pool import Pool
from codexpool.protocol.headers import PROBE_VERSION

PATH: Final = "/healthz"
READY_PATH: Final = "/healthz/ready"

STARTS: Final = "the proxy is about to start"
LEAVES: Final = "the proxy ends, and lets turns finish"
REFUSES: Final = "requests are refused; the proxy's log says why"
NO_POOL: Final = "no pool is set up"
NOBODY: Final = "no identity can serve now"


def unready(pool: Pool | None, *, is_closed: bool, observes: bool, leaves: bool) -> str:
    """Why a proxy does not serve; empty where it does. One that only observes passes on whatever comes.

    ``is_closed``: without a pool, requests are refused, and not passed on as they came.
    """
    if leaves:
        return LEAVES
    if observes:
        return ""
    if pool is None:
        return REFUSES if is_closed else NO_POOL
    if not any(identity.status is Status.READY for identity in pool.identities.values()):
        return NOBODY
    return ""


def answer(path: str, reason: str) -> tuple[int, bytes]:
    """Status and JSON for one of the paths, where ``reason`` is what `unready` says.

    ``probe`` in it tells `codexpool doctor` of another machine that this is a proxy with the addon.
    """
    is_down = path == READY_PATH and reason
    document = {"status": "ok", "ready": not reason, "probe": PROBE_VERSION, **({"reason": reason} if reason else {})}
    status = HTTPStatus.SERVICE_UNAVAILABLE if is_down else HTTPStatus.OK
    return int(status), json.dumps(document).encode()
