"""The status document: true, whole, made in pieces, and without a secret."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool import __version__
from codexpool.config.model import FromAuthJson, FromCommand
from codexpool.credentials.command import CommandLine
from codexpool.members.ledger import Ledger
from codexpool.pool.identity import Asked, Condition, Evidence, Identity, IdentityKey, Kind, Metadata, Status
from codexpool.pool.pins import Pin
from codexpool.pool.pool import Pool
from codexpool.pool.usage import MAIN, Limit, ResetCredits, Usage, Window
from codexpool.protocol.token_usage import Tokens
from codexpool.state.fleet import DEAD_AFTER
from codexpool.traces.history import History
from codexpool.views.limits import WINDOWS_SHOWN
from codexpool.web.status import (
    AT_ONCE,
    IDENTITIES_CHARTED,
    PINS_SHOWN,
    PROGRAMS,
    PROXIES_SHOWN,
    SESSIONS_SHOWN,
    View,
    join,
    pieces,
)
from tests.pool.pools import NOW, Changes, condemn, ready_pool, refuse, statuses, unverified, vouch
from tests.pool.test_entitlements import list_for
from tests.redaction.planting import pieces_in, recognised
from tests.web.views import POOL_TOML, RESPONSES, config, fleet, many, member_of_fleet, request, served, view

IDENTITY_KEYS = {
    *("name", "kind", "fingerprint", "account_id", "user_id", "email", "plan", "fedramp"),
    "origin",
    *("status", "since", "until", "evidence", "needs", "command", "expires_at", "reminder"),
    *("sessions", "headroom", "limits", "limited", "reset_credits", "models", "lacks", "not_for"),
    *("requests", "refusals", "tokens_today", "last_used_at"),
}
"""What the page and `codexpool status` read of each."""


def document(looked_at: View, now: float) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b"".join(pieces(looked_at, now)))
    return found


def rows(pool: Pool, now: float = NOW, **more: Any) -> dict[str, dict[str, Any]]:
    """The identities of a document, by name."""
    return {row["name"]: row for row in document(view(pool, **more), now)["identities"]}


def usage(pool: Pool, name: str) -> Usage:
    return pool.states.usage(key(pool, name))


def key(pool: Pool, name: str) -> IdentityKey:
    metadata = pool.identities[name].metadata
    assert metadata is not None
    return metadata.key


def limit(pool: Pool, name: str, until: float, at: float = NOW) -> None:
    """Its main limit is reached."""
    pool.states.limited(
        name, key(pool, name), Limit(MAIN, until), Evidence(at, "POST", "x", 429, "usage_limit_reached")
    )


# -- an identity


def test_an_identity_has_account_status_limits_and_counts() -> None:
    pool, history = ready_pool("work", "paid"), History()
    list_for(pool, "work", "gpt-small")
    list_for(pool, "paid", "gpt-large", "gpt-small")
    known = usage(pool, "work")
    known.see(Window(MAIN, 10_080, 40.0, NOW + 86_400, NOW))
    known.see(Window(MAIN, 300, 18.0, NOW + 600, NOW))
    known.see(Window("codex_other", 300, 90.0, None, NOW))
    known.limit(Limit("codex_other", NOW + 60), NOW)
    known.credits = ResetCredits(2, NOW + 86_400, NOW, is_listed=True)
    for session, at in (("one", NOW - 4000), ("one", NOW - 5), ("two", NOW - 3)):
        served(history, request(session), ["work"], at=at)

    row = rows(pool, history=history, config=config("work"))["work"]

    assert row.keys() == IDENTITY_KEYS
    assert row == {
        "name": "work",
        "kind": "pat",
        "fingerprint": pool.identities["work"].fingerprint,
        "account_id": "account-work",
        "user_id": "user-work",
        "email": "work@example.invalid",
        "plan": "business",
        "fedramp": False,
        "origin": "https://chatgpt.com",
        "status": "ready",
        "since": NOW - 1,
        "until": None,
        "evidence": "",
        "needs": "",
        "command": "",
        "expires_at": None,
        "reminder": "",
        "sessions": 2,
        "headroom": 0.6,
        "limits": [
            {"family": "codex", "minutes": 300, "used_percent": 18.0, "resets_at": NOW + 600},
            {"family": "codex", "minutes": 10_080, "used_percent": 40.0, "resets_at": NOW + 86_400},
            {"family": "codex_other", "minutes": 300, "used_percent": 90.0, "resets_at": None},
        ],
        "limited": {"codex_other": NOW + 60},
        "reset_credits": {"available": 2, "expires_at": NOW + 86_400},
        "models": ["gpt-small"],
        "lacks": ["gpt-large"],
        "not_for": [],
        "requests": 2,  # the first of the three is more than an hour ago
        "refusals": 0,
        "tokens_today": None,
        "last_used_at": NOW - 3,
    }


def test_an_unknown_identity_has_every_key() -> None:
    pool = Pool()
    pool.replace_identities([unverified("work", kind=Kind.OAUTH)], pool.selection, NOW)
    row = rows(pool)["work"]

    assert row.keys() == IDENTITY_KEYS
    assert (row["kind"], row["status"], row["since"]) == ("oauth", "unverified", NOW)
    assert [row[name] for name in ("account_id", "user_id", "plan", "headroom", "last_used_at")] == [None] * 5
    assert (row["limits"], row["limited"], row["fedramp"], row["origin"]) == ([], {}, False, "")
    assert row["reset_credits"] is None


def test_an_unknown_user_is_null() -> None:
    pool = ready_pool("sso")
    pool.identities["sso"].metadata = Metadata("", "command:sso", "")
    row = rows(pool)["sso"]
    assert (row["account_id"], row["user_id"], row["plan"]) == (None, None, None)


def suspect(pool: Pool) -> None:
    refuse(pool, "work", NOW, NOW)


def dead(pool: Pool) -> None:
    suspect(pool)
    condemn(pool, "work", NOW)


def becomes(to: Status, **evidence: Any) -> Callable[[Pool], None]:
    def become(pool: Pool) -> None:
        identity = pool.identities["work"]
        condition = Condition(to, NOW, evidence=Evidence(NOW, **evidence))
        pool.states.condition_learned("work", identity.fingerprint, condition)

    return become


def paused(pool: Pool) -> None:
    new = replace(pool.identities["work"], paused=True)
    pool.replace_identities([new], pool.selection, NOW)


def twin(pool: Pool) -> None:
    first = unverified("first")
    pool.replace_identities([first, pool.identities["work"]], pool.selection, NOW)
    vouch(pool, "first", NOW, who="work")


def paused_twin(pool: Pool) -> None:
    paused(pool)
    twin(pool)


@pytest.mark.parametrize(
    ("happens", "status", "evidence", "needs"),
    [
        (suspect, "suspect", "401 token_revoked on codex/responses", ""),
        (
            dead,
            "needs_replacement",
            "401 token_revoked on codex/responses, confirmed by whoami",
            f"Put a new token at {POOL_TOML}:10, or: codexpool replace work",
        ),
        (
            becomes(Status.NEEDS_LOGIN, note="refresh_token_reused"),
            "needs_login",
            "refresh_token_reused",
            "Log in again: codexpool login work",
        ),
        (
            becomes(Status.CONFLICT, note="another account"),
            "conflict",
            "another account",
            f"Give it a token of its previous account, or remove it and add it again: {POOL_TOML}:10",
        ),
        (lambda pool: limit(pool, "work", NOW + 60), "limited", "429 usage_limit_reached on x", ""),
        (paused, "paused", "paused in pool.toml", "To let it serve again: codexpool resume work"),
        (
            twin,
            "paused",
            "its token is of the same account and user as that of first",
            f"Give it a token of another user, or remove it: {POOL_TOML}:10",
        ),
        (
            paused_twin,
            "paused",
            "paused in pool.toml",
            "To let it serve again: codexpool resume work",
        ),
        (
            becomes(Status.PAUSED, status=403, code="deactivated_workspace", path="x"),
            "paused",
            "403 deactivated_workspace on x",
            "Once its workspace is active again: codexpool resume work",
        ),
    ],
    ids=["suspect", "dead", "login", "conflict", "limited", "paused", "twin", "paused twin", "workspace"],
)
def test_needs_are_worded_as_in_the_log(
    happens: Callable[[Pool], None], status: str, evidence: str, needs: str
) -> None:
    pool = ready_pool("work")
    happens(pool)
    row = rows(pool, config=config("work"))["work"]
    assert (row["status"], row["evidence"], row["needs"]) == (status, evidence, needs)
    assert row["command"] == needs[needs.find("codexpool") :] if "codexpool" in needs else not row["command"]


def test_a_token_that_is_about_to_end_is_reminded_of() -> None:
    pool = ready_pool("work")
    pool.identities["work"].expires_at = NOW + 3 * 86_400
    row = rows(pool)["work"]
    assert row["expires_at"] == NOW + 3 * 86_400
    assert row["reminder"].endswith("in 3 days")

    dead(pool)

    assert rows(pool)["work"]["reminder"] == "", "its end no longer matters"


@pytest.mark.parametrize(
    ("now", "status", "since", "until"),
    [
        (NOW + 59, "limited", NOW, NOW + 60),
        (NOW + 60, "ready", NOW + 60, None),
        (NOW + 3600, "ready", NOW + 60, None),
    ],
)
def test_an_expired_status_is_shown_as_ended(now: float, status: str, since: float, until: float | None) -> None:
    changes = Changes()
    pool = ready_pool("work", changes=changes)
    limit(pool, "work", NOW + 60)
    changes.clear()
    row = rows(pool, now)["work"]

    assert (row["status"], row["since"], row["until"]) == (status, since, until)
    assert changes == []  # and looking on has changed nothing
    assert statuses(pool) == {"work": Status.LIMITED}


@given(st.sampled_from([0, 5, 20]), st.sampled_from([0, 10, 30]), st.integers(-5, 40), st.booleans())
def test_a_status_is_the_one_the_pool_would_use(rests: int, is_limited: int, after: int, is_known: bool) -> None:
    pool = ready_pool("work")
    if rests:
        evidence = Evidence(NOW, status=429, fingerprint=pool.identities["work"].fingerprint)
        pool.states.throttled("work", evidence, rests)
    if is_limited:
        limit(pool, "work", NOW + is_limited)
    if not is_known:
        pool.identities["work"].metadata = None
    row = rows(pool, NOW + after)["work"]
    pool.can_serve(Asked(None, RESPONSES), NOW + after)
    condition = pool.identities["work"].condition

    assert (row["status"], row["until"]) == (condition.status, condition.until)
    if row["status"] == "ready" and (until := is_limited or rests):  # what came last is what it was in
        assert row["since"] == NOW + min(until, after)


@pytest.mark.parametrize(
    ("windows", "left"),
    [
        ([], None),
        ([Window("codex_other", 300, 50.0, None, NOW)], None),
        ([Window(MAIN, 300, 25.0, NOW + 10, NOW)], 0.75),
        ([Window(MAIN, 300, 25.0, NOW + 10, NOW), Window(MAIN, 10_080, 120.0, NOW + 10, NOW)], 0.0),
        ([Window(MAIN, 300, 100.0, NOW - 10, NOW - 20)], 1.0),
    ],
)
def test_headroom_is_what_the_fullest_window_has_left(windows: list[Window], left: float | None) -> None:
    pool = ready_pool("work")
    for window in windows:
        usage(pool, "work").see(window)
    assert rows(pool)["work"]["headroom"] == left


def test_a_limited_identity_has_no_headroom() -> None:
    pool = ready_pool("work")
    usage(pool, "work").see(Window(MAIN, 300, 20.0, NOW + 600, NOW))
    limit(pool, "work", NOW + 60)
    assert rows(pool)["work"]["headroom"] == 0.0


def test_a_new_window_is_free_and_ends_in_time() -> None:
    pool = ready_pool("work")
    usage(pool, "work").see(Window(MAIN, 300, 80.0, NOW - 1, NOW - 60))
    usage(pool, "work").see(Window(MAIN, 10_080, 80.0, NOW + 10**9, NOW))
    assert rows(pool)["work"]["limits"] == [
        {"family": "codex", "minutes": 300, "used_percent": 0.0, "resets_at": None},
        {"family": "codex", "minutes": 10_080, "used_percent": 80.0, "resets_at": NOW + 10_080 * 60},
    ]


def test_only_some_limit_families_are_shown() -> None:
    pool = ready_pool("work")
    for number in range(1000):
        usage(pool, "work").see(Window(f"a{number}", 300, 1.0, None, NOW))
        usage(pool, "work").limit(Limit(f"a{number}", NOW + 60), NOW)
    usage(pool, "work").see(Window(MAIN, 300, 2.0, None, NOW))
    row = rows(pool)["work"]
    assert len(row["limits"]) == WINDOWS_SHOWN
    assert row["limits"][0]["family"] == MAIN
    assert len(row["limited"]) == WINDOWS_SHOWN


def test_an_unreadable_token_is_shown_with_its_place() -> None:
    made = config("work", "missing", "login", "printed")
    work, missing, login, printed = made.identities
    login = replace(login, source=FromAuthJson(POOL_TOML))
    printed = replace(printed, source=FromCommand(CommandLine(("x",), POOL_TOML)))
    found = rows(ready_pool("work"), config=replace(made, identities=(work, missing, login, printed)))

    assert list(found) == ["work", "missing", "login", "printed"]
    assert found["missing"].keys() == IDENTITY_KEYS
    assert (found["missing"]["status"], found["missing"]["evidence"]) == ("unverified", "its token cannot be read")
    assert f"{POOL_TOML}:20" in found["missing"]["needs"]
    assert [row["kind"] for row in found.values()] == ["pat", "pat", "oauth", "command"]


# -- the proxy, its sessions and its counts


def test_a_proxy_without_a_pool_shows_why_and_its_requests() -> None:
    history = History()
    served(history, request(), [])
    found = document(view(None, history, closed="pool.toml cannot be read"), NOW)

    assert found["identities"] == []
    assert found["breaker"] == {"open": False, "until": None, "names": []}
    assert found["proxy"] == {
        "pid": os.getpid(),
        **PROGRAMS,
        "installed": __version__,
        "listens": ["127.0.0.1:8080"],
        "started_at": NOW - 60,
        "pool": None,
        "observe": False,
        "access": "anyone",
        "probe": 2,
        "closed": "pool.toml cannot be read",
    }
    assert found["totals"]["requests"] == 1


def test_a_proxy_with_a_pool_is_not_closed() -> None:
    found = document(view(ready_pool("work"), closed="the pool is not set up yet"), NOW)
    assert found["proxy"]["closed"] == ""


def test_pins_are_the_newest_and_all_are_counted() -> None:
    pool = ready_pool("work")
    for number in range(PINS_SHOWN + 20):
        pool.pin(f"s{number}", Pin("work", NOW + number))

    found = document(view(pool), NOW)

    assert found["pins_total"] == PINS_SHOWN + 20
    assert len(found["pins"]) == PINS_SHOWN
    assert found["pins"][0] == {"session": f"s{PINS_SHOWN + 19}", "identity": "work", "at": NOW + PINS_SHOWN + 19}


def test_sessions_are_the_last_used_with_their_moves() -> None:
    history = History()
    for number in range(SESSIONS_SHOWN + 20):
        served(history, request(f"s{number}"), ["work"], at=NOW + number)
    served(history, request("s7", model="gpt-5", member="ann"), ["work", "spare"], at=NOW + 1000)
    found = document(view(ready_pool("work", "spare"), history), NOW + 1000)

    assert found["sessions_total"] == SESSIONS_SHOWN + 20
    assert len(found["sessions"]) == SESSIONS_SHOWN
    assert found["sessions"][0] == {
        "key": "s7",
        "identity": "spare",
        "moves": 1,
        "last_at": NOW + 1000,
        "requests": 2,
        "client": "127.0.0.1",
        "model": "gpt-5",
        "member": "ann",
    }
    assert found["sessions"][1]["key"] == f"s{SESSIONS_SHOWN + 19}"
    counts = {row["name"]: row["sessions"] for row in found["identities"]}
    assert counts == {"work": SESSIONS_SHOWN + 19, "spare": 1}


def test_the_last_hour_and_all_of_this_run_are_counted() -> None:
    history = History()
    served(history, request(), ["work"], at=NOW - 7200)
    served(history, request(), ["work", "spare"], at=NOW - 90)  # moves
    served(history, request(), ["spare"], status=500, at=NOW)
    found = document(view(ready_pool("work", "spare"), history, events_lost=3), NOW)

    hour = found["hour"]
    assert len(hour) == 60
    assert [minute["at"] for minute in hour] == [int(NOW // 60 - 59 + n) * 60 for n in range(60)]
    assert {name: sum(m[name] for m in hour) for name in ("requests", "refusals", "failures", "moves")} == {
        "requests": 2,
        "refusals": 1,
        "failures": 1,
        "moves": 1,
    }
    expected = {"requests": 3, "refusals": 1, "failures": 1, "sent_again": 1, "events_lost": 3, "under_way": 0}
    assert {name: found["totals"][name] for name in expected} == expected
    assert found["events_last"] == history.last == 4  # three requests, and a move


def test_the_hour_names_the_busiest_identities_with_their_minutes() -> None:
    history = History()
    for number in range(IDENTITIES_CHARTED + 2):
        for _ in range(number):
            served(history, request(), [f"i{number}"], at=NOW)
    for _ in range(20):
        served(history, request(), ["i0"], at=NOW - 7200)

    charted = document(view(many(AT_ONCE), history), NOW)["hour_by_identity"]

    assert [one["identity"] for one in charted] == [f"i{n}" for n in range(IDENTITIES_CHARTED + 1, 1, -1)]
    assert [len(one["requests"]) for one in charted] == [60] * IDENTITIES_CHARTED
    assert (charted[0]["requests"][-1], sum(charted[0]["requests"])) == (IDENTITIES_CHARTED + 1,) * 2


def test_tokens_of_today_are_those_an_identity_has_served() -> None:
    ledger = Ledger(lambda account, spent: None)
    ledger.count_served("ann", "work", "m", Tokens(100, 60, 20, 5), NOW)
    ledger.count_served("", "work", "n", Tokens(1, 0, 2, 0), NOW)
    ledger.count_served("ann", "work", "m", Tokens(9, 9, 9, 9), NOW - 86_400)

    found = rows(ready_pool("work", "spare"), ledger=ledger)

    assert found["work"]["tokens_today"] == {"input": 101, "cached": 60, "output": 22, "reasoning": 5}
    assert set(found["spare"]["tokens_today"].values()) == {0}


def test_an_open_breaker_shows_its_end_and_causes() -> None:
    pool = ready_pool("a", "b", "c", "d")
    for name in ("a", "b", "c"):
        refuse(pool, name, NOW, NOW)
        condemn(pool, name, NOW)
    found = document(view(pool), NOW)
    assert found["breaker"] == {"open": True, "until": NOW + 5, "names": ["a", "b", "c"]}


# -- the fleet


def test_the_fleet_is_shown_with_this_proxy_first() -> None:
    looked_at = view(fleet=fleet(member_of_fleet("b"), member_of_fleet("a"), member_of_fleet("c", DEAD_AFTER + 1)))

    found = document(looked_at, NOW)

    assert found["fleet"][0] == {
        "host": "host-a",
        "version": "1.0",
        "pid": 42,
        "started_at": NOW - 101,
        "seen_at": NOW - 3,
        "alive": True,
        "sessions": 7,
        "self": True,
    }
    assert [(row["host"], row["alive"]) for row in found["fleet"]] == [
        ("host-a", True),
        ("host-b", True),
        ("host-c", False),
    ]


def test_a_lost_state_shows_since_when_and_what_waits() -> None:
    found = document(view(fleet=fleet(is_connected=False, waiting=12)), NOW)

    assert found["state"] == {
        "engine": "postgresql",
        "where": "postgresql://db/pool",
        "connected": False,
        "since": NOW - 30,
        "waiting": 12,
    }


def test_a_proxy_without_a_state_shows_none() -> None:
    found = document(view(), NOW)
    assert (found["state"], found["fleet"]) == (None, [])


def test_a_large_fleet_is_cut_off_but_shows_this_proxy() -> None:
    others = [member_of_fleet(f"b{number}", host=f"a{number}") for number in range(PROXIES_SHOWN + 5)]
    found = document(view(fleet=fleet(*others, member_of_fleet("a", host="z"))), NOW)["fleet"]

    assert len(found) == PROXIES_SHOWN
    assert found[0]["self"]


# -- in pieces


@given(st.integers(0, 3 * AT_ONCE), st.booleans())
def test_the_pieces_are_small_and_make_the_document(count: int, has_pool: bool) -> None:
    looked_at = view(many(count) if has_pool else None)
    made = list(pieces(looked_at, NOW))

    names = [f"i{number}" for number in range(count)] if has_pool else []
    assert [row["name"] for row in json.loads(b"".join(made))["identities"]] == names
    assert all(piece.count(b'"fingerprint"') <= AT_ONCE for piece in made)


async def test_other_tasks_run_between_the_pieces() -> None:
    pool, turns = many(6 * AT_ONCE), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            if turns == 3:
                pool.replace_identities([], pool.selection, NOW)
            await asyncio.sleep(0)

    meanwhile = asyncio.create_task(others())
    made = await join(pieces(view(pool), NOW))
    meanwhile.cancel()

    assert turns >= 6
    assert len(json.loads(made)["identities"]) == 6 * AT_ONCE


# -- no secret


@given(recognised, recognised)
def test_no_secret_is_in_the_document(secret: str, other: str) -> None:
    pool, history = ready_pool("work"), History()
    identity = pool.identities["work"]
    identity.metadata = Metadata(f"acc-{secret}", f"user {secret}", secret, origin=f"https://x.test/{secret}")
    usage(pool, "work").see(Window(f"family {secret}", 300, 1.0, None, NOW))
    usage(pool, "work").limit(Limit(f"family {other}", NOW + 60), NOW)
    evidence = Evidence(NOW, "POST", f"/x?access_token={secret}", 401, f"token {other} is invalid")
    pool.states.condition_learned("work", identity.fingerprint, Condition(Status.NEEDS_LOGIN, NOW, evidence=evidence))
    pool.states.breaker.opened_at, pool.states.breaker.names = NOW, (secret,)
    served(history, request(f"session {secret}", path=f"/{other}", model=other), ["work"])
    others = fleet(member_of_fleet("b", host=secret, version=other), where=f"postgresql://{secret}@{other}/x")
    text = json.dumps(document(view(pool, history, fleet=others), NOW), ensure_ascii=False)
    text += json.dumps(document(view(None, history, closed=f"broken at {secret}"), NOW), ensure_ascii=False)

    assert pieces_in(secret, text) == []
    assert pieces_in(other, text) == []


def test_name_account_and_user_are_readable() -> None:
    pool = Pool()
    identity = Identity("team-2.eu_west", Kind.PAT, "0123456789ab", Condition(Status.READY, NOW))
    account = "0199aaaa-bbbb-7ccc-8ddd-000000000001"
    identity.metadata = Metadata(account, "user-Ab3dE5fG7hI9jK1lM3nO5pQ7", "enterprise")
    pool.replace_identities([identity], pool.selection, NOW)
    row = rows(pool)["team-2.eu_west"]
    assert (row["account_id"], row["user_id"]) == (account, "user-Ab3dE5fG7hI9jK1lM3nO5pQ7")
