"""The situations that the page has to be fit for: what a proxy says of itself in each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.web.documents import (
    DAY,
    HOUR,
    Document,
    attempt,
    by_identity,
    detail,
    event,
    flow,
    hour,
    identity,
    limit,
    member,
    proxy_of_fleet,
    session,
    status,
)

HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "x" * 500,
    "‮txet desrever⁦ علي بابا",
    "👩‍👩‍👧‍👦🏳️‍🌈" * 12,
    "a\u0000b\u001b[31m\nc​d",
    "https://evil.example/" + "%22%3E" * 60,
)
"""What clients and backends could send to break the page, or to lie to who reads it."""


@dataclass
class Scene:
    """What the proxy says of itself at a moment; ``details`` are what it says of one flow, by its id."""

    status: Document
    flows: list[Document] = field(default_factory=list)
    events: list[Document] = field(default_factory=list)
    details: dict[str, Document] = field(default_factory=dict)


def scene(name: str) -> Scene:
    """One of the situations that the page has to be fit for."""
    return SCENES[name]()


def _events_of(flows: list[Document]) -> list[Document]:
    """One event for each flow that was answered under an identity, the oldest first."""
    told = [one for one in reversed(flows) if one["attempts"] and one["answer"]["status"]]
    return [
        event(
            number,
            f"{one['method']} {one['path']}: {one['answer']['status']}, {one['attempts'][-1]['identity']}",
            ago=max(0.0, time.time() - one["at"]),
            flow=one["id"],
            status=one["answer"]["status"],
            refusals=[a["evidence"] for a in one["attempts"] if a["status"] == 401],
        )
        for number, one in enumerate(told, 1)
    ]


def _normal() -> Scene:
    now = time.time()
    flows = [flow(n) for n in range(12)]
    flows[0] = flow(0, attempt(1, "spare", None), ended_at=None, answer={**flows[0]["answer"], "status": None})
    flows[1] = flow(1, attempt(1, "work", 401), attempt(2, "spare"))
    flows[4] = flow(4, attempt(1, "spare", 429, evidence="429 usage_limit_reached"))
    flows[6] = flow(6, transport="websocket", method="GET", ended_at=None)
    flows[6]["answer"] = {**flows[6]["answer"], "status": 101}
    flows[7] = flow(7, attempt(1, "spare", 0), answer={**flows[7]["answer"], "error": "the client has left"})
    flows[9]["policy"] = {"name": "own", "row": "", "means": "the client's own"}
    flows[9].update(attempts=[], path="/backend-api/wham/settings/user", method="GET")
    events = [
        event(1, "codexpool is here, with 5 identities", "start", 600),
        *(one | {"number": one["number"] + 1} for one in _events_of(flows)),
        event(20, "socket of spare open", "socket", 41, becomes="open", flow=flows[6]["id"]),
        event(21, "turn on the socket of spare: completed", "turn", 33, flow=flows[6]["id"]),
        event(
            22,
            "session 01a1fc00-7d3e-7001-9b5a-6f0d2c4e8a01: work -> spare",
            "move",
            22,
            flow=flows[1]["id"],
            was="work",
            becomes="spare",
        ),
        event(
            23,
            "work: suspect -> needs_replacement (401 token_revoked on codex/responses, confirmed by whoami)",
            "identity",
            20,
            becomes="needs_replacement",
            identity="work",
        ),
    ]
    identities = [
        identity(
            "work",
            status="needs_replacement",
            since=now - 20,
            evidence="401 token_revoked on codex/responses, confirmed by whoami",
            needs="Put a new token at /home/you/.config/codexpool/pool.toml:4, or: codexpool replace work",
            command="codexpool replace work",
            reminder="its token is expected to expire on 2026-12-01, in 2 days",
            refusals=1,
        ),
        identity(
            "spare",
            lacks=["gpt-large"],
            headroom=0.39,
            limits=[limit(300, 74.6, 1.1 * HOUR), limit(10080, 61.4, 3.4 * DAY)],
        ),
        identity(
            "batch",
            kind="oauth",
            plan="pro",
            status="limited",
            until=now + 12 * 60,
            evidence="429 usage_limit_reached",
            headroom=0.0,
            limits=[limit(300, 100.0, 12 * 60), limit(10080, 44.0, 2 * DAY)],
            expires_at=now + 43 * 60,
            reset_credits={"available": 2, "expires_at": now + 9 * DAY},
            sessions=1,
        ),
        identity("night-shift", kind="command", status="suspect", since=now - 4, headroom=None, limits=[]),
        identity("holiday", status="paused", sessions=0, requests=0, last_used_at=None, since=now - 2 * DAY),
    ]
    sessions = [session(n, ("spare", "batch", "spare")[n % 3]) for n in range(9)]
    pins = [{"session": sessions[n]["key"], "identity": "batch", "at": now - 60 - n} for n in range(2)]
    made = status(*identities, sessions=sessions, events_last=23, pins=pins, pins_total=2)
    made["hour_by_identity"] = by_identity(made["hour"], spare=0.6, batch=0.3, work=0.1)
    return Scene(made, flows, events, {one["id"]: detail(one) for one in flows})


def _empty() -> Scene:
    made = status(proxy={"pool": None}, pool_file=None)
    made["hour"] = [
        {**minute, **dict.fromkeys(("requests", "refusals", "failures", "moves"), 0)} for minute in made["hour"]
    ]
    made["totals"] = dict.fromkeys(made["totals"], 0)
    return Scene(made)


def _with(changes: Mapping[str, Any], *identities: Document) -> Scene:
    scene_ = _normal()
    scene_.status.update(changes)
    if identities:
        scene_.status["identities"] = list(identities)
    return scene_


def _closed() -> Scene:
    reason = (
        "/home/you/.config/codexpool/pool.toml, line 7: `token` is to be a text, or a table that says where it is"
    )
    return Scene(status(proxy={"closed": reason}))


def _observe() -> Scene:
    scene_ = _normal()
    scene_.status["proxy"]["observe"] = True
    return scene_


def _breaker() -> Scene:
    dead = [
        identity(
            name,
            status="needs_login",
            kind="oauth",
            needs=f"Log in again: codexpool login {name}",
            command=f"codexpool login {name}",
        )
        for name in ("a", "b", "c")
    ]
    scene_ = _with({"breaker": {"open": True, "until": time.time() + 40, "names": ["a", "b", "c"]}}, *dead)
    scene_.status["pool_file"]["problem"] = "/home/you/.config/codexpool/pool.toml, line 7: `tokn` is no key"
    scene_.status["proxy"]["installed"] = "0.2.0"
    return scene_


def _fleet() -> Scene:
    """Three proxies, one of them silent, a database that has just been lost, and members."""
    now = time.time()
    scene_ = _normal()
    scene_.status["state"] = {
        "engine": "postgresql",
        "where": "postgresql://db.example:5432/codexpool",
        "connected": False,
        "since": now - 40,
        "waiting": 12,
    }
    scene_.status["members"] = [
        member("ann"),
        member("bob", turns_at_once=None, turns_a_day=None, expires_at=None),
        member("contractor", key="revoked", turns_under_way=0, turns_today=0, tokens_today=None),
    ]
    for number, one in enumerate(scene_.status["sessions"]):
        one["member"] = ("ann", "bob")[number % 2]
    for number, made in enumerate(scene_.flows):
        made["member"] = ("ann", "bob")[number % 2]
    silent = proxy_of_fleet("pool-c", alive=False, seen_at=now - 90, sessions=1, version="0.0.9")
    scene_.status["fleet"] = [proxy_of_fleet("pool-a", self=True), proxy_of_fleet("pool-b", pid=7), silent]
    return scene_


def _many() -> Scene:
    words = ("ready", "ready", "ready", "limited", "resting", "unverified", "needs_login", "conflict")
    identities = [
        identity(
            f"team-{n:02d}",
            status=words[n % 8],
            limits=[limit(300, n * 2.04, 5 * HOUR - n * 300), limit(10080, 100 - n, 6 * DAY)],
        )
        for n in range(50)
    ]
    sessions = [session(n, f"team-{n % 50:02d}") for n in range(100)]
    flows = [flow(n) for n in range(50)]
    events = [event(n, f"turn on the socket of team-{n % 50:02d}: completed", "turn") for n in range(1, 401)]
    made = status(*identities, sessions=sessions, sessions_total=1000, hour=hour(time.time(), 83.7), events_last=400)
    shares = {f"team-{n:02d}": 0.2 - n / 50 for n in range(6)}
    made["hour_by_identity"] = by_identity(made["hour"], **shares)
    return Scene(made, flows, events, {one["id"]: detail(one) for one in flows})


def _hostile() -> Scene:
    """Every text that somebody else has a say in is one of `HOSTILE`."""
    identities, sessions, pins, flows, events, details = [], [], [], [], [], {}
    for n, bad in enumerate(HOSTILE):
        texts = dict.fromkeys(("fingerprint", "account_id", "user_id", "plan", "origin"), bad)
        texts |= {"evidence": bad, "needs": bad, "reminder": bad, "status": ("ready", "limited", bad)[n % 3]}
        texts |= {"email": bad, "command": bad}
        limits = [limit(300, 250.0, -60, bad), limit(61, -3.0, None), limit(10080, 99.9, DAY)]
        identities.append(
            identity(f"{n}{bad}", **texts, limits=limits, limited={bad: time.time() + HOUR}, lacks=[bad])
        )
        pins.append({"session": f"{n}{bad}", "identity": bad, "at": time.time()})
        sessions.append(
            session(n, bad, key=f"{n}{bad}", client=bad, model=bad, member=bad, moves=10**9, requests=10**12)
        )
        tries = [attempt(m, bad, (401, 0, 599, None)[m % 4], evidence=bad, request_id=bad) for m in range(1, 6)]
        for one in tries:
            verdict = {"row": bad, "finding": bad, "next": bad}
            candidates = [
                {"name": f"{bad}{chosen}", "chosen": chosen, "for": [bad], "against": [bad]} for chosen in (0, 1)
            ]
            one.update(
                verdict=verdict, candidates=candidates, because=bad, origin=bad, response_headers=[[bad, bad]] * 2
            )
        made = flow(n, *tries, method=bad, host=bad, path=bad, url=bad, client=bad, time=[[bad, 1e7], [bad, 0.1]])
        made["session"] = dict.fromkeys(("key", "from", "parent", "model", "user_agent"), bad)
        made["policy"] = {"name": bad, "row": bad, "means": bad}
        made["answer"].update(
            status=(999, 403, 503)[n % 3], by="codexpool", message=bad, error=bad if n % 2 else None
        )
        made["waits"] = [{"for": bad, "milliseconds": 250.1}]
        made["turns"] = [{"at": time.time(), "milliseconds": 1.0, "bytes": 10**15, "outcome": bad}]
        flows.append(made)
        rows = [
            {"name": bad, "sign": s, "client": bad, "upstream": [bad, None, "", bad, bad], "means": bad}
            for s in "~+-=="
        ]
        details[made["id"]] = detail(made, rows, [bad, f"  {bad}"])
        events.append(event(n + 1, bad, "turn" if n % 2 else bad, flow=made["id"], status=403, refusals=[bad]))
    texts = {
        "version": HOSTILE[0],
        "mitmproxy": HOSTILE[2],
        "python": HOSTILE[3],
        "pool": HOSTILE[6],
        "closed": HOSTILE[2],
    }
    proxy = {**texts, "listens": list(HOSTILE), "observe": True}
    made_ = status(
        *identities, sessions=sessions, proxy=proxy, events_last=len(events), pins=pins, pins_total=len(pins)
    )
    made_["members"] = [member(f"{n}{bad}", key=bad, turns_today=10**12) for n, bad in enumerate(HOSTILE)]
    made_["hour_by_identity"] = by_identity(made_["hour"], **{f"{n}{bad}": 0.1 for n, bad in enumerate(HOSTILE)})
    made_["breaker"] = {"open": True, "until": time.time() - 5, "names": list(HOSTILE)}
    lost = {"engine": HOSTILE[0], "where": HOSTILE[6], "connected": False, "since": time.time(), "waiting": 10**9}
    made_["state"] = lost
    made_["pool_file"].update(problem=HOSTILE[2], path=HOSTILE[0])
    made_["fleet"] = [proxy_of_fleet(bad, version=bad, sessions=10**12) for bad in HOSTILE]
    return Scene(made_, flows, events, details)


SCENES = {
    "normal": _normal,
    "empty": _empty,
    "closed": _closed,
    "observe": _observe,
    "breaker": _breaker,
    "fleet": _fleet,
    "many": _many,
    "hostile": _hostile,
}
