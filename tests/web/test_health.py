"""`/healthz`: what anybody may ask, and what is said of the proxy there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from codexpool.pool.pool import Pool
from codexpool.web import site
from tests.pool.pools import NOW, condemn, pool_of, ready_pool, unverified, vouch
from tests.web.test_site import Proxy

ELSEWHERE = ("192.168.1.7", 40_000)


async def asked(path: str, reason: str, peer: Any = ELSEWHERE, method: str = "GET") -> http.Response:
    flow = tflow.tflow()
    flow.request = http.Request.make(method, f"http://codex.pool{path}")
    flow.client_conn.peername = peer
    await site.Site(Proxy(reason=reason)).answer(flow)
    assert flow.response is not None
    return flow.response


OWN_REASONS = (site.STARTING, site.SHUTTING_DOWN, site.REFUSING, site.NO_POOL, site.UNVERIFIED)


@pytest.mark.parametrize(
    ("path", "reason", "status"),
    [
        *(("/healthz", reason, 200) for reason in (*OWN_REASONS, site.NO_IDENTITY)),
        *(("/healthz/ready", reason, 503) for reason in OWN_REASONS),
        # It is the same at all proxies of the pool: a balancer must not take out all of them.
        ("/healthz/ready", site.NO_IDENTITY, 200),
    ],
)
async def test_a_proxy_that_others_can_stand_in_for_is_alive_but_not_ready(
    path: str, reason: str, status: int
) -> None:
    ready, unready = await asked(path, ""), await asked(path, reason)

    assert (ready.status_code, json.loads(ready.content or b"")) == (200, {"status": "ok", "ready": True, "probe": 2})
    assert unready.status_code == status
    assert json.loads(unready.content or b"") == {
        "status": "ok",
        "ready": False,
        "probe": 2,
        "reason": reason,
    }


@pytest.mark.parametrize("peer", [ELSEWHERE, ("127.0.0.1", 1), ("fe80::1%eth0", 1, 0, 3), None], ids=str)
async def test_other_machines_may_ask_for_health_only(peer: Any) -> None:
    assert (await asked("/healthz", "", peer)).status_code == 200
    assert (await asked("/healthz?verbose", "", peer)).status_code == 200
    assert (await asked("/healthz", "", peer, "HEAD")).content == b""
    assert (await asked("/healthz", "", peer, "POST")).status_code == 405
    if peer == ELSEWHERE:
        for path in (
            "/healthz/",
            "/healthz/ready/x",
            "/healthz/../api/status",
            "/%68ealthz",
            "//healthz",
            "/metrics",
        ):
            assert (await asked(path, "", peer)).status_code == 403


def condemned() -> Pool:
    pool = ready_pool("alice@corp")
    condemn(pool, "alice@corp", NOW)
    return pool


def half_verified() -> Pool:
    pool = pool_of(unverified("alice@corp"), unverified("bob@corp"))
    vouch(pool, "alice@corp", NOW - 1)
    condemn(pool, "alice@corp", NOW)
    return pool


@pytest.mark.parametrize(
    ("pool", "more", "reason"),
    [
        (lambda: ready_pool("alice@corp"), {}, ""),
        (lambda: ready_pool("alice@corp"), {"leaves": True}, site.SHUTTING_DOWN),
        (condemned, {}, site.NO_IDENTITY),
        (lambda: pool_of(unverified("alice@corp")), {}, site.UNVERIFIED),
        (half_verified, {}, site.NO_IDENTITY),
        (lambda: None, {}, site.NO_POOL),
        (lambda: None, {"is_closed": True}, site.REFUSING),
        (lambda: None, {"observes": True}, ""),
        (lambda: None, {"observes": True, "leaves": True}, site.SHUTTING_DOWN),
    ],
    ids=["ready", "leaves", "condemned", "unverified", "half", "no pool", "closed", "observes", "observes, leaves"],
)
def test_it_is_ready_with_a_ready_identity_until_the_shutdown(
    pool: Callable[[], Pool | None], more: dict[str, bool], reason: str
) -> None:
    assert site.unready(pool(), **{"is_closed": False, "observes": False, "leaves": False, **more}) == reason
