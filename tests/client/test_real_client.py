"""The real Codex CLI through the proxy to a strict stand-in: what a person sees."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.client.conftest import Make
from tests.client.logins import oauth_login
from tests.running import CLIENT, answered, pat, trouble, until
from tests.standin import CLOUDFLARE_PAGE, RESPONSES, WHOAMI, Answer, Token

pytestmark = pytest.mark.real_client

WORK, SPARE, THIRD = (lambda: pat("work")), (lambda: pat("spare")), (lambda: pat("third"))
NO_MATCHING_RULE = {"error": {"code": "no_matching_rule", "message": "no rule for this endpoint", "type": "auth"}}


def test_a_pat_dead_at_the_start_goes_unseen(make: Make, transport: str) -> None:
    dead = pat("work", alive=False)
    world = make(dead, pat("spare"), transport=transport, wait=False)

    run = world.client.exec("say hi echo:banana")

    assert answered(run, "banana") == "spare"
    assert world.standin.requests(RESPONSES, "work") == []
    world.check()


def test_a_pat_that_dies_between_two_turns_goes_unseen(make: Make, transport: str) -> None:
    world = make(pat("work"), pat("spare"), transport=transport)
    first = answered(world.client.exec("say hi echo:banana"), "banana")

    world.standin.kill(next(token.token for token in world.tokens if token.name == first))
    run = world.client.exec("resume", "--last", "and now echo:apple")

    other = "spare" if first == "work" else "work"
    assert answered(run, "apple") == other
    assert len(world.confirmations(first)) == 1
    refused = [seen for seen in world.standin.seen if seen.name == first and seen.status == 401]
    assert max(sum(r.path == path for r in refused) for path in {r.path for r in refused}) <= 2
    assert len(world.model_calls(401, first)) <= 1
    until(lambda: "needs_replacement" in world.pool, 20, "the flag in pool.toml")
    assert f'name = "{first}"\ntoken = "at-test-{first}' in world.pool
    world.check()


def test_a_pat_refused_only_at_the_model_goes_unseen(make: Make, transport: str) -> None:
    # given PATs that only the model refuses, once each
    world = make(pat("work"), pat("spare"), transport=transport)
    revoked = {"error": {"code": "token_revoked", "message": "revoked", "type": "invalid_request_error"}}
    for token in world.tokens:
        world.standin.plan(Answer(path=RESPONSES, token=token.token, times=1, status=401, body=revoked))

    run = world.client.exec("say hi echo:cherry")

    # then the first refusal moves the session, the second moves it back: whoami finds both valid
    answered(run, "cherry")
    assert "needs_replacement" not in world.pool
    world.check()


@pytest.mark.parametrize(("transport", "login"), [("websocket", "oauth"), ("http", "pat")])
def test_with_all_dead_the_client_shows_what_each_needs(make: Make, transport: str, login: str) -> None:
    """It shows this at once."""
    own = (lambda home: oauth_login(home, "acc-own", 86400)) if login == "oauth" else None
    world = make(pat("work"), pat("spare"), transport=transport, login=own)
    for token in world.tokens:
        world.standin.kill(token.token)

    begun = time.monotonic()
    run = world.client.exec("say hi")

    assert time.monotonic() - begun < 10
    assert run.returncode == 1
    line = next(
        line for line in run.stderr.splitlines() if line.startswith("ERROR") and "no identity can serve" in line
    )
    assert "work: replace its PAT (401 token_revoked" in line
    assert "spare: replace its PAT (401 token_revoked" in line
    assert trouble(run) == []
    assert world.standin.requests("/oauth/token") == []
    for token in world.tokens:
        assert len(world.standin.requests(RESPONSES, token.name)) <= 1
    assert world.standin.leaks == []


def test_a_healthy_pat_survives_an_endpoint_scoped_401(make: Make, transport: str) -> None:
    world = make(pat("work"), pat("spare"), transport=transport)
    world.standin.plan(Answer(path="/backend-api/codex/models", times=None, status=401, body=NO_MATCHING_RULE))
    asked = len(world.standin.requests(WHOAMI))

    for word in ("banana", "apple"):
        answered(world.client.exec(f"say hi echo:{word}"), word)

    assert "needs_replacement" not in world.pool
    # no identity is in doubt: whoami was not asked about the pool's tokens again
    pool = [seen for seen in world.standin.requests(WHOAMI)[asked:] if seen.name != CLIENT.name]
    assert pool == []
    assert "rests until" not in world.proxy.log


def test_a_healthy_pat_survives_a_page_of_the_content_network(make: Make) -> None:
    world = make(pat("work"), pat("spare"), transport="http")
    world.standin.plan(Answer(path=RESPONSES, method="POST", times=1, status=403, body=CLOUDFLARE_PAGE))
    world.standin.plan(Answer(path=RESPONSES, method="POST", times=1, status=401, body=CLOUDFLARE_PAGE))

    run = world.client.exec("say hi echo:banana")

    assert run.returncode == 0, run.stderr
    assert "banana" in run.stdout
    assert "needs_replacement" not in world.pool
    assert "whoami" not in world.proxy.log


@pytest.mark.parametrize(
    "whoami",
    [
        Answer(path=WHOAMI, after=0, times=None, delay=30),
        Answer(path=WHOAMI, times=None, status=403, body=CLOUDFLARE_PAGE),
    ],
    ids=["time-out", "page"],
)
def test_a_healthy_pat_survives_an_unclear_whoami(make: Make, whoami: Answer) -> None:
    # given two ready identities, and a whoami that no longer answers about the pool's tokens
    world = make(pat("work"), pat("spare"))
    refused = {"error": {"code": "token_expired", "message": "expired", "type": "auth"}}
    for token in world.tokens:
        world.standin.plan(replace(whoami, token=token.token))
    world.standin.plan(Answer(path=RESPONSES, times=1, status=401, body=refused))

    # when one is refused, once
    run = world.client.exec("say hi echo:banana")

    # then the other one serves, and neither is flagged
    answered(run, "banana")
    world.proxy.says("stays suspect: whoami ", 30)  # the timeout is ten seconds
    assert "needs_replacement" not in world.pool
    assert "needs_replacement" not in world.proxy.log


@pytest.mark.parametrize(
    ("transport", "expires_in"), [("websocket", 86400), ("http", -3600)], ids=["made up", "expired"]
)
def test_a_client_without_a_valid_login_works(make: Make, transport: str, expires_in: float) -> None:
    world = make(pat("work"), transport=transport, login=lambda home: oauth_login(home, "acc-own", expires_in))

    run = world.client.exec("say hi echo:banana")

    assert answered(run, "banana") == "work"
    assert {seen.name for seen in world.standin.requests(RESPONSES)} == {"work"}
    assert world.standin.leaks == []


def test_an_identity_of_another_origin_is_served_from_there(make: Make, transport: str) -> None:
    gov = pat("gov", fedramp=True, origin="https://gov.chatgpt.com", routing_override="us_cr")
    world = make(gov, transport=transport)

    for word in ("banana", "apple"):
        assert answered(world.client.exec(f"say hi echo:{word}"), word) == "gov"

    calls = world.standin.requests(RESPONSES)
    assert {seen.host for seen in calls} == {"gov.chatgpt.com"}
    world.check()


def test_a_session_keeps_its_identity_over_a_restart(make: Make, transport: str) -> None:
    world = make(*(pat(name) for name in ("a", "b", "c", "d")), transport=transport)
    first = answered(world.client.exec("say hi echo:one"), "one")

    assert answered(world.client.exec("resume", "--last", "echo:two"), "two") == first
    world.proxy.stop()
    world.proxy.start()
    world.client.environ["HTTPS_PROXY"] = world.proxy.url
    assert answered(world.client.exec("resume", "--last", "echo:three"), "three") == first
    world.check()


def test_a_flagged_pat_is_not_tried_after_a_restart(make: Make) -> None:
    """A new token is used."""
    # given a flagged PAT
    world = make(pat("work", alive=False), wait=False)
    until(lambda: "needs_replacement" in world.pool, 30, "the flag")
    world.proxy.stop()
    before = len(world.standin.seen)

    # when the proxy restarts, the flagged token is not used at all
    world.proxy.start()
    world.client.environ["HTTPS_PROXY"] = world.proxy.url
    run = world.client.exec("say hi")
    assert run.returncode == 1
    assert [seen for seen in world.standin.seen[before:] if seen.name == "work"] == []

    # and when a person enters a new token, it serves and the flag disappears
    new = Token("at-test-new-work-00112233445566778899", "acc-work", "user-work", name="new")
    world.standin.add(new)
    world.proxy.pool.write_text(world.pool.replace(world.tokens[0].token, new.token))
    world.proxy.says("work is ready", 20)
    assert answered(world.client.exec("say hi echo:banana"), "banana") == "new"
    until(lambda: "needs_replacement" not in world.pool, 20, "the flag to disappear")
