"""No valid identity is flagged, whatever whoami, discovery, the token endpoint or a gateway answers."""

from __future__ import annotations

import json
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.e2e.logins import DAY, TOKEN_ENDPOINT, a_login_world, owner
from tests.e2e.world import World, served_by, socket_turn
from tests.running import pat, until
from tests.standin import CLOUDFLARE_PAGE, DISCOVERY, RESPONSES, WHOAMI, Answer, error_body
from tests.standin.endpoints import discovery

CLOUDFLARE = {"cloudflare_error": True, "error_code": 1020, "title": "Error 1020: Access denied"}
MITIGATED = {"cf-mitigated": "challenge"}
UNAUTHORIZED = {"detail": "Unauthorized"}
EXPIRED = -60.0

NO_WORD = {
    "challenge": (Answer(status=403, headers=MITIGATED, body=CLOUDFLARE), "whoami answers 403"),
    "proxy": (Answer(status=401, body=UNAUTHORIZED), "whoami answers 401"),
    "address": (
        Answer(status=403, body=error_body("ip_not_authorized", "no")),
        "whoami answers 403 ip_not_authorized",
    ),
    "page": (Answer(status=401, body=CLOUDFLARE_PAGE), "whoami answers 401"),
    "drips": (Answer(status=401, body=b"{", endless=0.1), "whoami cannot be reached (no whole answer within"),
}
"""What is no word on a token, and what the log says of it."""

THREE = ("work", "spare", "third")


def flags(world: World) -> int:
    return world.proxy.pool.read_text().count("needs_replacement")


def all_serve(world: World, names: set[str]) -> None:
    """Every identity is ready by itself, within half a minute of being well again, and clients are served."""
    until(lambda: all(f"{name} is ready" in world.proxy.log for name in names), 35, "all to be ready")
    with world.proxy.client() as client:
        served = {served_by(world.turn(client, f"well-{number}")) for number in range(4 * len(names))}
    assert served <= names


@pytest.mark.parametrize("how", NO_WORD)
def test_only_the_backends_own_answers_condemn_at_the_start(make: Make, how: str) -> None:
    # given a whoami that says this of every identity, from the first start on
    answer, said = NO_WORD[how]
    world = make(*map(pat, THREE), plan=(replace(answer, path=WHOAMI, times=None),), ready=0)
    for name in THREE:
        world.proxy.says(f"{name} stays unverified: {said}")
    with world.proxy.client() as client:
        answered = world.turn(client)
    assert answered.status_code == 400
    if how != "drips":
        assert f"work: not verified yet ({said}" in answered.text

    world.standin.unplan()

    all_serve(world, set(THREE))
    assert flags(world) == 0
    # it was said once for each, however often it was asked
    assert world.proxy.log.count("work stays unverified") == 1


def test_only_a_single_token_refused_by_whoami_is_flagged(make: Make) -> None:
    # given one token that is dead, and from the next start on a whoami that says so of the two others as well
    world = make(*(pat(name, alive=name != "work") for name in THREE))
    until(lambda: flags(world) == 1, 20, "the flag of the one")
    world.proxy.stop()
    world.proxy.state.unlink()
    revoked = Answer(path=WHOAMI, times=None, status=401, body=error_body("token_revoked", "no"))
    world.standin.plan(revoked)
    world.proxy.ready = 0
    world.proxy.start()
    for name in ("spare", "third"):
        world.proxy.says(f"{name} stays unverified: 401 token_revoked on whoami")
    until(lambda: len(world.standin.requests(WHOAMI, "spare")) >= 4, 30, "several askings")

    world.standin.unplan()

    all_serve(world, {"spare", "third"})
    assert flags(world) == 1


ELSEWHERE = discovery(owner("elsewhere"))


def with_origin(origin: str) -> dict[str, object]:
    return {
        **ELSEWHERE,
        "accounts": [{**discovery(pat(name))["accounts"][0], "workspace_backend_origin": origin} for name in THREE],
    }


@pytest.mark.parametrize("answer", [ELSEWHERE, with_origin("http://chatgpt.com")], ids=["others", "no https"])
def test_a_discovery_wrong_for_all_causes_no_conflict(make: Make, answer: dict[str, object]) -> None:
    wrong = Answer(path=DISCOVERY, times=None, status=200, body=answer)
    world = make(*map(pat, THREE), plan=(wrong,), ready=0)
    for name in THREE:
        world.proxy.says(f"{name} stays unverified: ")

    world.standin.unplan()

    all_serve(world, set(THREE))
    assert "conflict" not in world.proxy.log


def test_the_last_discovery_stays_in_force(make: Make) -> None:
    gov = pat("gov", origin="https://gov.chatgpt.com", routing_override="us_cr")
    world = make(gov)
    with world.proxy.client() as client:
        served_by(world.turn(client))
    world.standin.plan(Answer(path=DISCOVERY, times=None, status=200, body=ELSEWHERE))
    world.standin.plan(Answer(path=RESPONSES, times=1, status=401, body=error_body("token_revoked", "no")))

    # when it is refused once, and looked at again; and after a restart
    with world.proxy.client() as client:
        served_by(world.turn(client, "again"))
    world.proxy.stop()
    world.proxy.start()
    with world.proxy.client() as client:
        served_by(world.turn(client, "after the restart"))

    assert {seen.host for seen in world.standin.requests(RESPONSES)} == {"gov.chatgpt.com"}
    world.check()


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_one_request_refused_by_all_flags_nobody(make: Make, transport: str) -> None:
    """Whoami is not reliable meanwhile."""
    # given a running pool of five, a backend that answers 401 to each, and a content network in place of whoami
    names = {f"i{number}" for number in range(5)}
    world = make(*map(pat, sorted(names)))
    world.standin.plan(
        Answer(path=WHOAMI, times=None, status=403, headers=MITIGATED, body={"cloudflare_error": True})
    )
    world.standin.plan(
        Answer(path=RESPONSES, times=None, status=401, body=error_body("token_revoked", "Your token was revoked."))
    )
    if transport == "http":
        with world.proxy.client() as client:
            assert world.turn(client, "one").status_code >= 400
    else:
        with pytest.raises(Exception, match="rejected"):
            async with world.socket("one"):
                pass
    world.standin.unplan()

    # then no identity is flagged, and all serve again soon after the failure
    def is_served() -> bool:
        with world.proxy.client() as client:
            return world.turn(client, f"{time.monotonic()}").status_code == 200

    until(is_served, 20, "clients to be served")
    assert flags(world) == 0
    assert "needs_replacement" not in world.proxy.log
    async with world.socket("two") as socket:
        served_by(await socket_turn(socket))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=401, body=UNAUTHORIZED),
        Answer(status=401, headers=MITIGATED, body=error_body("unauthorized", "no")),
        Answer(status=200, body=b" ", endless=0.1),
    ],
    ids=["401", "challenge", "drips"],
)
def test_a_confused_token_endpoint_costs_no_login(tmp_path: Path, answer: Answer) -> None:
    # given a login that is refused, so that it has to be renewed, and something else in the token endpoint's place
    with a_login_world(tmp_path, (owner("spare"), 10 * DAY)) as world:
        world.standin.plan(replace(answer, path=TOKEN_ENDPOINT))
        world.standin.kill(world.login.first["tokens"]["access_token"])
        with world.proxy.client() as client:
            world.turn(client)

        until(lambda: world.login.was_renewed, 45, "the renewal")
        with world.proxy.client() as client:
            until(lambda: world.turn(client, f"{time.monotonic()}").status_code == 200, 20, "it to serve")
        assert "needs_login" not in world.proxy.log


def test_a_refresh_token_replaces_an_unusable_access_token(tmp_path: Path) -> None:
    with a_login_world(tmp_path, (owner("spare"), EXPIRED), plan=(), ready=0) as world:
        world.proxy.says("spare is ready")
        tokens = world.standin.login(owner("spare"))["tokens"]
        unusable = {"access_token": "un\u00e9sendable\n", "refresh_token": tokens["refresh_token"]}
        world.standin.plan(Answer(path=TOKEN_ENDPOINT, status=200, body=unusable))
        world.standin.kill(world.login.document["tokens"]["access_token"])

        with world.proxy.client() as client:
            assert served_by(world.turn(client)) == "spare"

        world.proxy.says("its new refresh token is kept for the next try")
        spent = [json.loads(seen.body or b"")["refresh_token"] for seen in world.standin.requests(TOKEN_ENDPOINT)]
        assert spent[-1] == tokens["refresh_token"]
        assert "needs_login" not in world.proxy.log


def test_foreign_tokens_at_the_first_start_are_a_conflict(
    tmp_path: Path,
) -> None:
    """The file is kept."""
    # given a pool that has never seen this login, whose access token has ended
    with a_login_world(tmp_path, (owner("spare"), EXPIRED), started=False) as world:
        before = world.login.path.read_text()
        world.standin.backend.refresh_tokens.hand_over(
            world.login.first["tokens"]["refresh_token"], owner("stranger")
        )
        world.proxy.start()

        world.proxy.says("spare is in conflict: its token is of account acc-stranger, user user-stranger; expected")
        [kept] = world.login.path.parent.glob("auth.json.before-*")
        world.proxy.says(f"the previous auth.json is kept in {kept}")
        assert kept.read_text() == before
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        # nor is it taken for the stranger's after a restart
        world.proxy.stop()
        world.proxy.start()
        until(lambda: world.proxy.log.count("spare is in conflict") == 2, 20, "the conflict to be found again")
        assert world.standin.requests(RESPONSES) == []
