"""`/healthz` and `/healthz/ready`: whether the process runs, and whether it can serve.

Other machines may ask (a load balancer, Kubernetes), so an answer contains no name, no path and no text of the log.
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

STARTING: Final = "the proxy is starting"
SHUTTING_DOWN: Final = "the proxy is shutting down and finishing its turns"
REFUSING: Final = "requests are refused; see the proxy's log"
NO_POOL: Final = "no pool is configured"
NO_IDENTITY: Final = "no identity can serve now"


def unready(pool: Pool | None, *, is_closed: bool, observes: bool, leaves: bool) -> str:
    """Return why a proxy cannot serve; empty if it can. A proxy that only observes relays everything.

    ``is_closed``: without a pool, requests are refused instead of relayed.
    """
    if leaves:
        return SHUTTING_DOWN
    if observes:
        return ""
    if pool is None:
        return REFUSING if is_closed else NO_POOL
    if not any(identity.status is Status.READY for identity in pool.identities.values()):
        return NO_IDENTITY
    return ""


def answer(path: str, reason: str) -> tuple[int, bytes]:
    """Return status and JSON for a path; ``reason`` is what `unready` returned.

    ``probe`` tells `codexpool doctor` on another machine that this is a proxy with the addon.
    """
    document = {"status": "ok", "ready": not reason, "probe": PROBE_VERSION, **({"reason": reason} if reason else {})}
    status = HTTPStatus.SERVICE_UNAVAILABLE if path == READY_PATH and reason else HTTPStatus.OK
    return int(status), json.dumps(document).encode()
