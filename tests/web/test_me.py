"""`http://codex.pool/me`: what a member may use, and has used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codexpool.config.model import MemberSpec, PreviousKey
from codexpool.members.ledger import Ledger
from codexpool.members.register import Member, Register
from codexpool.members.turn_queue import TurnQueue
from codexpool.pool.pool import Pool
from codexpool.protocol.token_usage import Tokens
from codexpool.tokens.member_key import hashed
from codexpool.web import me
from tests.pool.pools import NOW
from tests.web.test_site import answer, request
from tests.web.views import many

KEY, OLD = "at-pool-new", "at-pool-old"


def member(key: str = KEY, **more: Any) -> Member:
    spec = MemberSpec("ann", hashed(KEY), 1, **more)
    _, found = Register([spec, MemberSpec("bob", hashed("at-pool-bob"), 9)], ["i0", "i1"]).holder(key, NOW)
    assert found is not None
    return found


def use(pool: Pool | None = None, of: Member | None = None) -> dict[str, Any]:
    ledger = Ledger(lambda account, spent: None)
    for name in ("ann", "ann", "bob"):
        ledger.count_begun(name, NOW)
    ledger.count_served("ann", "i0", "m", Tokens(100, 80, 7, 3), NOW)
    queue = TurnQueue()
    queue.acquire_now("ann", 3)
    queue.acquire_now("bob", 3)
    return me.document(of or member(turns_a_day=500, turns_at_once=3), pool or many(2), queue, ledger, NOW)


def test_a_member_sees_its_own_bounds_and_use() -> None:
    document = use()

    assert (document["turns_today"], document["turns_a_day"]) == (2, 500)
    assert (document["turns_under_way"], document["turns_at_once"]) == (1, 3)
    assert document["tokens_today"] == {"input": 100, "cached": 80, "output": 7}
    assert document["day_ends_at"] % 86_400 == 0
    assert 0 < document["day_ends_at"] - NOW <= 86_400
    assert "bob" not in json.dumps(document)


def test_a_member_sees_only_identities_that_may_serve_it() -> None:
    document = use(of=member(identities=("i1",)))

    assert [identity["name"] for identity in document["identities"]] == ["i1"]


def test_a_replaced_key_says_until_when_it_works() -> None:
    previous = PreviousKey(hashed(OLD), NOW + 3600)

    old, new = (use(of=member(key, previous=previous)) for key in (OLD, KEY))

    assert (old["key_valid_until"], old["key_is_replaced"]) == (NOW + 3600, True)
    assert (new["key_valid_until"], new["key_is_replaced"]) == (None, False)
    assert "ask the operator" in me.text(old)


def test_a_person_gets_text() -> None:
    text = me.text(use())

    assert "ann: this key does not expire" in text
    assert "2 of 500" in text
    assert "1 of 3" in text
    assert "2 of 2 ready" in text


def test_no_bound_is_said_to_be_none() -> None:
    assert "2, without a limit" in me.text(use(of=member()))


@pytest.mark.parametrize("peer", [("127.0.0.1", 1), ("192.168.1.7", 1)], ids=str)
@pytest.mark.parametrize(("accept", "kind"), [("*/*", "text/plain"), ("application/json", "application/json")])
async def test_every_machine_may_ask_and_programs_get_json(peer: Any, accept: str, kind: str) -> None:
    got = await answer(request("/me", peer=peer, headers={"accept": accept}))

    assert got.status_code == 401
    assert got.headers["content-type"].startswith(kind)
    assert b"send your member key" in (got.content or b"")
