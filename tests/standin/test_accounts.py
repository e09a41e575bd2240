"""What an account has left, may use and can spend: asked for, it is what model calls meet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standin import CONSUME, MODELS, RESET_CREDITS, USAGE, Answer, StandIn, unsupported
from tests.standin.clients import SPARE, WORK, ask, dressed, http, post, prompt, say, spare, text_in, websocket, work

OF_THE_POOL = {"user-agent": "codexpool/1"}
PAID = ("gpt-paid", "gpt-free")


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    pool = [work(models=PAID), spare(models=("gpt-free",))]
    with StandIn(pool, folder=tmp_path, families={"gpt-spark": "codex_spark"}) as standin:
        yield standin
    assert standin.troubles == []


@pytest.fixture
def client(standin: StandIn) -> Iterator[httpx.Client]:
    with http(standin) as client:
        yield client


def get(client: httpx.Client, path: str, **headers: str) -> httpx.Response:
    return client.get(f"https://chatgpt.com{path}", headers=dressed(work()) | OF_THE_POOL | headers)


def consume(client: httpx.Client, key: str, **more: Any) -> dict[str, Any]:
    body = {"redeem_request_id": key, **more}
    answer = client.post(f"https://chatgpt.com{CONSUME}", json=body, headers=dressed(work()) | OF_THE_POOL)
    assert answer.status_code == 200
    return dict(answer.json())


def test_usage_says_what_model_calls_meet(standin: StandIn, client: httpx.Client) -> None:
    resets_at = int(time.time() + 600)
    free = get(client, USAGE).json()
    standin.limit(WORK, resets_at, window=10080)
    limited = get(client, USAGE).json()
    standin.unlimit(WORK)
    lifted = get(client, USAGE).json()

    assert (free["account_id"], free["plan_type"]) == ("acc-work", "business")
    assert (free["rate_limit"]["allowed"], free["rate_limit"]["limit_reached"]) == (True, False)
    assert free["rate_limit"]["primary_window"]["used_percent"] == 12
    assert free["rate_limit"]["primary_window"]["limit_window_seconds"] == 18000
    assert [limit["metered_feature"] for limit in free["additional_rate_limits"]] == ["codex_spark"]
    assert (limited["rate_limit"]["allowed"], limited["rate_limit"]["limit_reached"]) == (False, True)
    window = limited["rate_limit"]["secondary_window"]
    assert (window["used_percent"], window["reset_at"]) == (100, resets_at)
    assert limited["additional_rate_limits"][0]["rate_limit"]["allowed"] is True
    assert lifted["rate_limit"]["allowed"] is True


def test_turns_use_the_window_up(standin: StandIn, client: httpx.Client) -> None:
    token = standin.backend.pool[WORK]
    token.used_percent, token.turn_percent = 0.0, 50.0

    statuses, used = [], []
    for _ in range(3):
        statuses.append(post(client, work(), prompt("hi", model="gpt-free")).status_code)
        used.append(get(client, USAGE).json()["rate_limit"]["primary_window"]["used_percent"])

    assert (statuses, used) == ([200, 200, 429], [50, 100, 100])


def test_the_list_of_models_is_sent_once_per_etag(client: httpx.Client) -> None:
    first = get(client, MODELS)
    again = get(client, MODELS, **{"if-none-match": first.headers["etag"]})
    turn = post(client, work(), prompt("hi", model="gpt-paid"))

    assert [model["slug"] for model in first.json()["models"]] == list(PAID)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert turn.headers["x-models-etag"] == first.headers["etag"]


def test_a_model_that_the_account_lacks_is_refused(standin: StandIn, client: httpx.Client) -> None:
    answer = post(client, spare(), prompt("hi", model="gpt-paid"))
    with websocket(standin, spare()) as socket:
        [frame] = say(socket, model="gpt-paid")
        served = say(socket, model="gpt-free")

    assert (answer.status_code, answer.json()) == (400, unsupported("gpt-paid"))
    assert (frame["type"], frame["status"], frame["detail"]) == ("error", 400, unsupported("gpt-paid")["detail"])
    assert text_in(served)


def test_a_credit_lifts_the_limit_once(standin: StandIn, client: httpx.Client) -> None:
    standin.grant(WORK, 2)
    standin.grant(SPARE)
    standin.limit(WORK, time.time() + 600)

    listed = get(client, RESET_CREDITS).json()
    counts = [get(client, USAGE).json()["rate_limit_reset_credits"]["available_count"]]
    codes = [consume(client, "one")["code"], consume(client, "one")["code"], consume(client, "two")["code"]]
    counts.append(get(client, USAGE).json()["rate_limit_reset_credits"]["available_count"])
    served = post(client, work(), prompt("hi", model="gpt-free"))

    assert [credit["status"] for credit in listed["credits"]] == ["available"] * 2
    assert listed["available_count"] == 2
    assert codes == ["reset", "already_redeemed", "nothing_to_reset"]
    assert counts == [2, 1]
    assert served.status_code == 200
    assert float(served.headers["x-codex-primary-used-percent"]) == 0
    statuses = [credit["status"] for credit in get(client, RESET_CREDITS).json()["credits"]]
    assert sorted(statuses) == ["available", "redeemed"]


def test_a_credit_that_is_not_there_is_not_spent(standin: StandIn, client: httpx.Client) -> None:
    standin.grant(WORK, lifetime=-1)
    assert [consume(client, "one")["code"], consume(client, "two", credit_id="other")["code"]] == ["no_credit"] * 2


def test_a_lost_answer_has_spent_the_credit(standin: StandIn, client: httpx.Client) -> None:
    standin.grant(WORK)
    standin.plan(Answer(path=CONSUME, cut="head"))

    with pytest.raises(httpx.HTTPError):
        consume(client, "one")

    assert consume(client, "one")["code"] == "already_redeemed"
    assert len(standin.requests(CONSUME, "work")) == 2


def test_reset_credits_are_not_for_requests_of_clients(standin: StandIn, client: httpx.Client) -> None:
    """A client's request under an identity would spend what belongs to a person's own account."""
    answer = client.get(f"https://chatgpt.com{RESET_CREDITS}", headers=dressed(work()))

    assert answer.status_code == 401
    assert [leak.path for leak in standin.leaks] == [RESET_CREDITS]


def test_an_account_without_a_list_may_use_any_model(tmp_path: Path) -> None:
    with StandIn([work()], folder=tmp_path) as standin, http(standin) as client:
        assert get(client, MODELS).json() == {"models": []}
        assert ask(client, work()).status_code == 200
