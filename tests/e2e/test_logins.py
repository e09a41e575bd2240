"""OAuth logins: renewed once, in time or after a 401, and without loss."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from codexpool.config import editing
from codexpool.config.tables import with_key, without_key
from tests.e2e.logins import DAY, TOKEN_ENDPOINT, LoginWorld, a_login_world, auth_entry, login_of, owner
from tests.e2e.world import MODEL, E2EProxy, World, served_by
from tests.running import pat, pool_toml, until
from tests.standin import CLOUDFLARE_PAGE, DISCOVERY, RESPONSES, Answer, error_body
from tests.standin.endpoints import discovery

EXPIRED = -60.0
REFUSED = error_body("token_expired", "Your authentication token has expired.")


def turn(world: World, session: str = "s") -> str:
    with world.proxy.client() as client:
        return served_by(world.turn(client, session))


async def turns(world: World, number: int) -> list[str]:
    """So many at once, each of a session of its own."""
    async with world.proxy.async_client() as client:

        async def one(session: int) -> str:
            body, headers = {"model": "m", "input": "x"}, {"thread-id": f"many-{session}"}
            return served_by(await client.post(MODEL, json=body, headers=headers))

        return await asyncio.gather(*(one(session) for session in range(number)))


def all_is_well(world: LoginWorld) -> None:
    world.check()
    assert world.login.is_whole()
    assert "rt_test" not in world.proxy.log
    assert "eyJ" not in world.proxy.log


async def test_an_expired_login_is_renewed_once_before_it_serves(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), EXPIRED)) as world:
        assert set(await turns(world, 12)) == {"spare"}

        assert world.renewals == 1
        assert world.login.was_renewed
        assert [seen.status for seen in world.standin.requests(RESPONSES)] == [200] * 12
        all_is_well(world)


def test_a_login_is_renewed_five_minutes_before_its_end(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 312.0)) as world:
        before = world.login.first["tokens"]["access_token"]
        assert turn(world) == "spare"
        if world.renewals == 0:
            assert world.login.document["tokens"]["access_token"] == before
        until(lambda: world.renewals, 80, "the renewal in time")
        until(lambda: world.login.was_renewed, 5, "the new tokens")
        assert turn(world) == "spare"
        assert [
            json.loads(seen.body or b"")["refresh_reason"] for seen in world.standin.requests(TOKEN_ENDPOINT)
        ] == ["proactive_expiry"]
        all_is_well(world)


async def test_many_refusals_at_once_cost_one_renewal(tmp_path: Path) -> None:
    """No session moves."""
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"),), head=DRAIN_FIRST) as world:
        assert set(await turns(world, 12)) == {"spare"}
        world.standin.kill(world.login.first["tokens"]["access_token"])

        assert set(await turns(world, 12)) == {"spare"}

        assert world.renewals == 1
        assert json.loads(world.standin.requests(TOKEN_ENDPOINT)[0].body or b"")["refresh_reason"] == (
            "unauthorized_recovery"
        )
        assert world.login.was_renewed
        all_is_well(world)


DRAIN_FIRST = '[pool]\nselection = "drain-first"\n'


def test_a_token_from_the_disk_is_used_before_a_renewal(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"),), head=DRAIN_FIRST) as world:
        assert turn(world) == "spare"
        newer = login_of(world.standin, tmp_path / "elsewhere", owner("spare"))
        world.standin.kill(world.login.first["tokens"]["access_token"])
        world.login.path.write_text(newer.path.read_text())

        assert turn(world) == "spare"

        assert world.renewals == 0
        assert world.login.document == newer.document
        all_is_well(world)


def test_a_used_up_refresh_token_moves_the_turn(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"),), head=DRAIN_FIRST) as world:
        assert turn(world) == "spare"
        tokens = world.login.first["tokens"]
        world.standin.backend.refresh_tokens.renew(tokens["refresh_token"])
        world.standin.kill(tokens["access_token"])

        assert turn(world) == "work"
        assert turn(world, "another") == "work"

        world.proxy.says("spare needs_login: its refresh token was already used, by another program")
        assert f"{world.login.path} has two owners" in world.proxy.log
        assert "Log in again: codexpool login spare" in world.proxy.log
        assert world.renewals == 1
        assert world.login.document == world.login.first

        # it is not tried again after a restart either; another login is
        world.proxy.stop()
        world.proxy.ready = 1
        world.proxy.start()
        assert turn(world, "after the restart") == "work"
        assert world.renewals == 1
        newer = login_of(world.standin, tmp_path / "elsewhere", owner("spare"))
        world.login.path.write_text(newer.path.read_text())
        world.proxy.says("spare is ready")
        until(lambda: turn(world, f"{time.monotonic()}") == "spare", 10, "the new login to serve")


@pytest.mark.parametrize(
    "failure",
    [
        Answer(path=TOKEN_ENDPOINT, times=2, status=503, body={"error": "busy"}),
        Answer(path=TOKEN_ENDPOINT, times=2, status=401, body=CLOUDFLARE_PAGE),
    ],
    ids=["503", "page"],
)
def test_a_failing_token_endpoint_condemns_nobody(tmp_path: Path, failure: Answer) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"),), head=DRAIN_FIRST) as world:
        assert turn(world) == "spare"
        world.standin.plan(failure)
        world.standin.kill(world.login.first["tokens"]["access_token"])

        assert turn(world) == "work"  # it does not wait for the next try

        if failure.cut:
            # The refresh token is spent, and the answer was lost: that login is gone, and it is said so.
            world.proxy.says("spare: the token endpoint cannot be reached")
            return
        until(lambda: world.login.was_renewed, 20, "the renewal")
        world.proxy.says("spare has a new token")
        until(lambda: turn(world, f"{time.monotonic()}") == "spare", 10, "the login to serve")
        assert world.renewals == 3
        assert "needs_login" not in world.proxy.log
        all_is_well(world)


def test_a_valid_token_serves_without_the_token_endpoint(tmp_path: Path) -> None:
    failure = Answer(path=TOKEN_ENDPOINT, times=None, status=503, body={"error": "busy"})
    with a_login_world(tmp_path, (owner("spare"), 120.0), plan=(failure,)) as world:
        for number in range(3):
            assert turn(world, f"s-{number}") == "spare"
        until(lambda: world.renewals > 1, 20, "another try")
        world.standin.unplan()
        until(lambda: world.login.was_renewed, 30, "the renewal")
        assert turn(world) == "spare"
        all_is_well(world)


def test_a_refused_new_token_is_not_renewed_again(tmp_path: Path) -> None:
    refused = Answer(path=RESPONSES, times=None, status=401, body=REFUSED)
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY)) as world:
        world.standin.plan(refused)
        with world.proxy.client() as client:
            answer = world.turn(client)
            again = world.turn(client)

        assert (answer.status_code, again.status_code) == (400, 400)
        assert world.renewals == 1
        assert "spare: resting until" in answer.text
        world.standin.unplan()
        until(lambda: turn_or_none(world) == "spare", 15, "the rest to end")
        assert "needs_login" not in world.proxy.log


def turn_or_none(world: World) -> str | None:
    with world.proxy.client() as client:
        answer = world.turn(client)
        return served_by(answer) if answer.status_code == 200 else None


def test_a_renewal_for_another_workspace_is_a_conflict(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"),), head=DRAIN_FIRST) as world:
        assert turn(world) == "spare"
        tokens = world.login.first["tokens"]
        world.standin.backend.refresh_tokens.hand_over(tokens["refresh_token"], owner("stranger"))
        world.standin.kill(tokens["access_token"])

        assert turn(world) == "work"

        world.proxy.says("spare is in conflict: its token is of account acc-stranger, user user-stranger; expected")
        assert world.standin.requests(RESPONSES, "stranger") == []
        # nor is it after a restart
        world.proxy.stop()
        world.proxy.ready = 1
        world.proxy.start()
        until(lambda: world.proxy.log.count("spare is in conflict") == 2, 20, "the conflict to be found again")
        assert turn(world, "after the restart") == "work"
        assert world.standin.requests(RESPONSES, "stranger") == []


def test_a_lost_login_is_not_tried_after_a_restart(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), DAY), others=(pat("work"),)) as world:
        world.proxy.stop()
        world.proxy.ready = 1
        ended = login_of(world.standin, tmp_path / "ended", owner("spare"), EXPIRED)
        world.standin.backend.refresh_tokens.revoke(ended.first["tokens"]["refresh_token"])
        world.login.path.write_text(ended.path.read_text())
        world.proxy.start()
        world.proxy.says("spare needs_login", 20)
        assert world.renewals == 1
        for _ in range(2):
            world.proxy.stop()
            world.proxy.start()
            assert turn(world, f"{time.monotonic()}") == "work"
        assert world.renewals == 1


def test_a_file_that_is_half_written_costs_no_healthy_login(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY)) as world:
        whole = world.login.path.read_text()
        world.login.path.write_text(whole[:100])
        world.proxy.says("its previous token stays in use", 10)
        assert turn(world) == "spare"
        world.login.path.write_text(whole)
        assert turn(world, "after") == "spare"


def test_a_foreign_login_stays_a_conflict(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"),), head=DRAIN_FIRST) as world:
        assert turn(world) == "spare"
        for number in range(2):
            foreign = login_of(world.standin, tmp_path / f"foreign-{number}", owner("stranger"))
            world.login.path.write_text(foreign.path.read_text())
            until(lambda n=number: world.proxy.log.count("spare is in conflict") == n + 1, 10, "the conflict")  # type: ignore[misc]
        for change in (lambda t: with_key(t, "spare", "paused", True), lambda t: without_key(t, "spare", "paused")):
            changes = world.proxy.log.count("was reloaded")
            editing.edit(world.proxy.pool, change)
            until(lambda n=changes: world.proxy.log.count("was reloaded") > n, 10, "the change")  # type: ignore[misc]
        assert turn(world, "s-2") == "work"
        assert world.standin.requests(RESPONSES, "stranger") == []


def test_a_removed_name_can_be_used_again(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"),), head=DRAIN_FIRST) as world:
        assert turn(world) == "spare"
        world.proxy.stop()
        world.proxy.start()  # by now it is known from an earlier run
        pool_toml(tmp_path, pat("work"))
        world.proxy.says("was reloaded")
        another = login_of(world.standin, tmp_path / "another", owner("another"))
        world.login.path.write_text(another.path.read_text())
        pool_toml(tmp_path, pat("work"), head=DRAIN_FIRST + auth_entry("spare", world.login.path))
        until(lambda: turn(world, f"{time.monotonic()}") == "another", 10, "the other login to serve")
        assert "in conflict" not in world.proxy.log


def test_a_login_of_another_account_is_a_conflict(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), DAY), others=(pat("work"),)) as world:
        entry = auth_entry("spare", world.login.path, 'account_id = "acc-other"\n')
        pool_toml(tmp_path, pat("work"), head=entry)
        world.proxy.says("spare is in conflict: its token is of account acc-spare, user user-spare; expected")
        assert {turn(world, f"s-{number}") for number in range(4)} == {"work"}
        # corrected, it serves again
        pool_toml(tmp_path, pat("work"), head=auth_entry("spare", world.login.path, 'account_id = "acc-spare"\n'))
        until(lambda: turn(world, f"{time.monotonic()}") == "spare", 10, "it to serve")


def with_origin(origin: str) -> dict[str, object]:
    document = discovery(owner("spare"))
    return {**document, "accounts": [{**document["accounts"][0], "workspace_backend_origin": origin}]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (discovery(owner("elsewhere")), "routing discovery does not list the account acc-spare: this login has lost"),
        (with_origin("http://chatgpt.com"), "not an https origin: 'http://chatgpt.com'"),
    ],
    ids=["other accounts", "no https"],
)
def test_an_implausible_discovery_condemns_nobody(tmp_path: Path, answer: dict[str, object], said: str) -> None:
    # given the only identity of a pool, of which discovery says this at first, again and again
    wrong = Answer(path=DISCOVERY, times=3, status=200, body=answer)
    with a_login_world(tmp_path, (owner("spare"), DAY), plan=(wrong,), ready=0) as world:
        world.proxy.says(f"spare stays unverified: {said}")
        world.proxy.says("spare is ready")
        assert turn(world) == "spare"
        assert "in conflict" not in world.proxy.log
        # it is said once, however often it was asked
        assert world.proxy.log.count("spare stays unverified") == 1


def test_a_pat_never_causes_a_renewal(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY), others=(pat("work"), pat("third"))) as world:
        for token in world.tokens:
            world.standin.kill(token.token)
        assert {turn(world, f"s-{number}") for number in range(6)} == {"spare"}
        assert world.renewals == 0


async def test_two_proxies_refused_at_the_same_moment_renew_once(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY)) as world:
        other_folder = tmp_path / "other"
        other_folder.mkdir()
        other_proxy = E2EProxy(world.standin, other_folder, ready=1)
        pool_toml(other_folder, head=auth_entry("spare", world.login.path))
        other_proxy.start()
        try:
            other = World(world.standin, other_proxy, ())
            assert set(await turns(world, 2) + await turns(other, 2)) == {"spare"}
            world.standin.plan(Answer(path=TOKEN_ENDPOINT, times=None, delay=0.5))
            world.standin.kill(world.login.first["tokens"]["access_token"])

            answers = await asyncio.gather(turns(world, 4), turns(other, 4))

            assert {name for names in answers for name in names} == {"spare"}
            assert world.renewals == 1
            all_is_well(world)
        finally:
            other_proxy.stop()


def test_a_login_that_a_client_may_use_too_is_noticed(tmp_path: Path) -> None:
    home = tmp_path / "codex-home"
    with a_login_world(tmp_path, (owner("spare"), DAY), environ={"CODEX_HOME": str(home)}) as world:
        clients = login_of(world.standin, tmp_path, owner("client"))
        home.mkdir()
        clients.path.rename(home / "auth.json")
        pool_toml(tmp_path, head=auth_entry("spare", world.login.path) + auth_entry("mine", home / "auth.json"))
        world.proxy.says("two programs that renew one login break it")
        assert "codexpool login mine" in world.proxy.log
        world.proxy.says("mine is ready")  # it is said, not refused
