"""A limit is a state of a token's account: while it lasts, model calls are refused, on every transport alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.standin import COMPACT, DISCOVERY, MODELS, StandIn
from tests.standin.clients import WORK, ask, dressed, http, post, prompt, say, spare, text_in, websocket, work

SPARK = {"x-codex-routing-hint": "model=gpt-spark;tier=fast"}
SOON = 600.0


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    families = {"gpt-spark": "codex_spark"}
    with StandIn([work(), spare()], folder=tmp_path, alpn=("h2", "http/1.1"), families=families) as standin:
        yield standin
    assert (standin.refusals, standin.troubles) == ([], [])


def refused_upgrade(standin: StandIn, **headers: str) -> httpx.Response:
    """The answer to an upgrade that is none."""
    with pytest.raises(InvalidStatus) as refused, websocket(standin, work(), **headers):
        pass
    response = refused.value.response
    return httpx.Response(
        response.status_code, headers=list(response.headers.raw_items()), content=bytes(response.body)
    )


def assert_limited(status: int, headers: Any, error: dict[str, Any], resets_at: int) -> None:
    assert (status, error["type"], error["code"]) == (429, "usage_limit_reached", "usage_limit_reached")
    assert (error["plan_type"], error["resets_at"]) == ("business", resets_at)
    assert 0 < error["resets_in_seconds"] <= SOON
    assert headers["x-codex-active-limit"] == "premium"  # as the live backend calls the main one
    assert float(headers["x-codex-primary-used-percent"]) == 100
    assert headers["x-codex-primary-window-minutes"] == "300"
    assert headers["x-codex-primary-reset-at"] == str(resets_at)
    assert float(headers["x-codex-secondary-used-percent"]) == 3


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_limit_affects_requests_upgrades_and_messages(standin: StandIn, http2: bool) -> None:
    resets_at = int(time.time() + SOON)
    with http(standin, http2=http2) as client, websocket(standin, work()) as connection:
        assert text_in(say(connection))
        # when
        standin.limit(WORK, resets_at)
        posted, [frame], upgrade = ask(client, work()), say(connection), refused_upgrade(standin)
        compact = client.post(f"https://chatgpt.com{COMPACT}", json=prompt("hi"), headers=dressed(work()))
        # then
        for response in (posted, upgrade, compact):
            assert_limited(response.status_code, response.headers, response.json()["error"], resets_at)
        assert_limited(frame["status"], frame["headers"], frame["error"], resets_at)
        # when
        standin.unlimit(WORK)
        # then: the socket was open all the time
        assert text_in(say(connection))
        assert ask(client, work()).status_code == 200


def test_a_limit_concerns_model_calls_of_its_account_alone(standin: StandIn) -> None:
    standin.limit(WORK, time.time() + SOON)
    with http(standin) as client:
        others = ask(client, spare())
        asked = [client.get(f"https://chatgpt.com{path}", headers=dressed(work())) for path in (MODELS, DISCOVERY)]
    assert [response.status_code for response in (others, *asked)] == [200, 200, 200]


def test_a_new_login_of_the_account_is_limited_with_the_old_one(standin: StandIn) -> None:
    standin.limit(WORK, time.time() + SOON)
    renewed = work()
    renewed.token = standin.login(work())["tokens"]["access_token"]
    with http(standin) as client:
        assert ask(client, renewed).status_code == 429


def test_a_limit_ends_at_its_time_and_not_before(standin: StandIn) -> None:
    standin.limit(WORK, time.time() + 0.1)
    with http(standin) as client:
        limited = ask(client, work())
        ends = limited.json()["error"]["resets_at"]
        while time.time() < ends:
            time.sleep(0.01)
        assert ask(client, work()).status_code == 200
    assert limited.status_code == 429


def test_a_weekly_limit_shows_in_the_weekly_window(standin: StandIn) -> None:
    standin.limit(WORK, 2_000_000_000, window=10080, code="usage_not_included")
    with http(standin) as client:
        response = ask(client, work())
    error, headers = response.json()["error"], response.headers
    assert (error["type"], error["code"]) == ("usage_not_included", "usage_not_included")
    assert float(headers["x-codex-secondary-used-percent"]) == 100
    assert headers["x-codex-secondary-reset-at"] == "2000000000"
    assert float(headers["x-codex-primary-used-percent"]) == 12


def test_the_limit_of_a_family_concerns_its_models_alone(standin: StandIn) -> None:
    standin.limit(WORK, 2_000_000_000, family="codex_spark")
    with http(standin) as client, websocket(standin, work()) as connection:
        posted, main = post(client, work(), prompt("hi", model="gpt-spark")), ask(client, work())
        upgrade = refused_upgrade(standin, **SPARK)
        [frame], main_frames = say(connection, model="gpt-spark"), say(connection)
    for status, headers in (
        (posted.status_code, posted.headers),
        (upgrade.status_code, upgrade.headers),
        (frame["status"], frame["headers"]),
    ):
        assert (status, headers["x-codex-active-limit"]) == (429, "codex_spark")
        assert float(headers["x-codex-spark-primary-used-percent"]) == 100
        assert headers["x-codex-spark-primary-window-minutes"] == "300"
        assert headers["x-codex-spark-primary-reset-at"] == "2000000000"
        assert float(headers["x-codex-primary-used-percent"]) == 100  # the plain ones repeat the family's
    assert main.status_code == 200
    assert main.headers["x-codex-active-limit"] == "premium"
    assert float(main.headers["x-codex-primary-used-percent"]) == 12
    assert text_in(main_frames)


def test_the_main_limit_concerns_the_models_of_families_too(standin: StandIn) -> None:
    standin.limit(WORK, time.time() + SOON)
    with http(standin) as client:
        response = post(client, work(), prompt("hi", model="gpt-spark"))
    assert response.status_code == 429
    assert response.headers["x-codex-active-limit"] == "premium"


def test_good_answers_have_the_limit_of_their_model(standin: StandIn) -> None:
    token = standin.backend.pool[WORK]
    token.weekly_percent, token.family_percent, token.resets_at = 41.5, 77.0, 2_000_000_000.0
    with http(standin) as client, websocket(standin, work(), **SPARK) as connection:
        posted = post(client, work(), prompt("hi", model="gpt-spark"))
        frames = [frame for frame in say(connection, model="gpt-spark") if frame["type"] == "codex.rate_limits"]
    assert connection.response is not None
    for headers in (posted.headers, connection.response.headers):
        assert headers["x-codex-active-limit"] == "codex_spark"
        assert float(headers["x-codex-spark-primary-used-percent"]) == 77
        assert float(headers["x-codex-primary-used-percent"]) == 77
        assert headers["x-codex-primary-reset-at"] == headers["x-codex-spark-primary-reset-at"] == "2000000000"
    assert [frame.get("metered_limit_name") for frame in frames] == [None, "codex_spark"]
    assert frames[0]["rate_limits"]["secondary"]["used_percent"] == 41.5
    assert frames[1]["rate_limits"]["primary"] == {
        "used_percent": 77.0,
        "window_minutes": 300,
        "reset_at": 2_000_000_000,
    }


def test_a_limit_that_could_never_apply_is_a_mistake_of_the_test(standin: StandIn) -> None:
    with pytest.raises(ValueError, match="no model"):
        standin.limit(WORK, time.time() + SOON, family="codex_other")
    with pytest.raises(KeyError):
        standin.limit("at-test-nobody", time.time() + SOON)
