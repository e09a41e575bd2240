"""`codexpool reset`: a credit is spent once, by a person, and nothing unclear is repeated by itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from codexpool.cli.commands import reset
from codexpool.cli.common import open_the_state
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Status
from codexpool.state.notes import RESET, USAGE
from tests.cli.pools import Pool
from tests.e2e.logins import login_of, owner
from tests.running import pat
from tests.standin import CONSUME, RESPONSES, Answer, StandIn

KEY = IdentityKey("acc-work", "user-work")
WORK = pat("work")


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        made = Pool(standin, tmp_path, monkeypatch)
        made.add(replace(WORK))  # A reset changes it.
        yield made


def spent(pool: Pool, name: str = "work") -> list[dict[str, Any]]:
    """Return the bodies of the requests that spend a credit."""
    return [json.loads(request.body or b"") for request in pool.standin.requests(CONSUME, name)]


def limit(pool: Pool, credits: int = 2) -> None:
    """Give the identity's account credits, and have it reach its limit, as a proxy has seen it."""
    until = time.time() + 7200
    pool.standin.grant(WORK.token, credits)
    pool.standin.limit(WORK.token, until)
    fingerprint = pool.list()["work"]["fingerprint"]
    with open_the_state() as state:
        evidence = Evidence(time.time(), "POST", RESPONSES, 429, "usage_limit_reached")
        state.put_condition(fingerprint, Condition(Status.LIMITED, time.time(), until, evidence))
        window = ["codex", 300, 100.0, until, time.time()]
        state.put_note(USAGE, json.dumps(KEY), {"windows": [window], "limited": {"codex": until}})


def told(result: Result) -> str:
    """Return what a person is told, without the folds of long lines."""
    return " ".join(result.stderr.split())


def note(kind: str) -> Any:
    with open_the_state() as state:
        return state.load().notes.get((kind, json.dumps(KEY)))


def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`reset` asks; what it reads is the input that a test gives."""
    monkeypatch.setattr(reset, "can_ask", lambda: True)


def test_a_person_is_told_what_it_does_and_asked(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(pool)
    at_a_terminal(monkeypatch)

    result = pool.run("reset", "work", stdin="y\n")

    shown = told(result)
    assert "work has 2 reset credits. The one to spend" in shown
    assert re.search(r'The one to spend is called "Full reset.*", and expires 20', shown)
    assert "Used: 100 % of 5 h (resets in" in shown
    assert "It is gone then, however little was used" in shown
    assert result.stdout == "work was reset, and can be used again; 1 reset credit left\n"
    assert len(spent(pool)) == 1
    assert pool.list()["work"]["status"] == "ready"
    assert note(USAGE)["limited"] == {}
    assert note(USAGE)["windows"] == []
    listed = pool.list()["work"]["reset_credits"]
    assert listed["available"] == 1
    assert listed["expires_at"] is not None
    assert note(RESET)["at"] == pytest.approx(time.time(), abs=60)  # For proxies that run.


@pytest.mark.parametrize("answer", ["\n", "n\n", ""])
def test_without_a_yes_nothing_is_spent(pool: Pool, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    limit(pool)
    at_a_terminal(monkeypatch)

    said = pool.run("reset", "work", stdin=answer, code=1).stderr

    assert said.endswith("\ncodexpool: no credit was spent\n")
    assert spent(pool) == []
    assert note(RESET) is None


def test_ctrl_c_at_the_question_ends_it_as_it_ends_other_commands(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(pool)
    at_a_terminal(monkeypatch)

    def interrupted(*_: object, **__: object) -> bool:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort  # noqa: B904 - as click does it

    monkeypatch.setattr(click, "confirm", interrupted)

    pool.run("reset", "work", code=130)

    assert spent(pool) == []


def test_a_script_has_to_say_yes(pool: Pool) -> None:
    limit(pool)

    result = pool.run("reset", "work", code=2)
    assert "add --yes" in result.stderr
    assert spent(pool) == []

    document = json.loads(pool.run("reset", "work", "--yes", "--json").stdout)
    assert document["outcome"] == "reset"
    assert (document["name"], document["windows_reset"], document["credits_left"]) == ("work", 2, 1)
    assert [document["request"], document["credit"]] == list(spent(pool)[0].values())


def test_the_credit_that_expires_first_is_spent(pool: Pool) -> None:
    pool.standin.grant(WORK.token, 1, lifetime=86_400)
    pool.standin.grant(WORK.token, 1, lifetime=3_600)
    pool.standin.limit(WORK.token, time.time() + 600)
    [late, early] = pool.standin.backend.credits._credits[("acc-work", "user-work")]

    pool.run("reset", "work", "--yes")

    assert [body["credit_id"] for body in spent(pool)] == [early.id] != [late.id]


def test_without_a_credit_or_a_use_for_one_nothing_is_sent(pool: Pool) -> None:
    unused = replace(pat("unused"), used_percent=0, weekly_percent=0, family_percent=0)
    pool.add(unused)
    pool.standin.grant(unused.token)

    assert "work has no reset credit" in pool.run("reset", "work", "--yes", code=1).stderr
    assert "nothing to reset" in pool.run("reset", "unused", "--yes", code=1).stderr
    assert "no identity" in pool.run("reset", "nobody", "--yes", code=2).stderr

    assert spent(pool) == spent(pool, "unused") == []


def test_after_a_lost_answer_the_next_run_cannot_spend_a_second_credit(pool: Pool) -> None:
    limit(pool)
    pool.standin.plan(Answer(path=CONSUME, cut="head"))

    result = pool.run("reset", "work", "--yes", code=1)
    assert "it is not clear whether work was reset" in result.stderr
    assert len(spent(pool)) == 1
    assert pool.list()["work"]["status"] == "limited"

    result = pool.run("reset", "work", "--yes")
    assert "no other credit was spent; 1 reset credit left" in result.stdout
    [first, second] = spent(pool)
    assert first == second
    assert pool.list()["work"]["status"] == "ready"

    pool.standin.limit(WORK.token, time.time() + 600)  # And later it is another request.
    pool.run("reset", "work", "--yes")
    assert spent(pool)[2] not in (first, second)
    assert "work has no reset credit" in pool.run("reset", "work", "--yes", code=1).stderr


def test_a_request_that_never_arrived_is_sent_again_as_it_was(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(pool)
    at_a_terminal(monkeypatch)
    pool.standin.plan(Answer(path=CONSUME, status=503))
    pool.run("reset", "work", "--yes", code=1)

    result = pool.run("reset", "work", stdin="y\n")

    assert "got no clear answer. It is sent again" in told(result)
    assert result.stdout == "work was reset, and can be used again; 1 reset credit left\n"
    assert spent(pool)[0] == spent(pool)[1]


def test_a_day_later_the_listed_credits_count_and_not_the_unclear_request(pool: Pool) -> None:
    limit(pool)
    pool.standin.plan(Answer(path=CONSUME, status=503))
    pool.run("reset", "work", "--yes", code=1)
    with open_the_state() as state:
        state.put_note(RESET, json.dumps(KEY), {**note(RESET), "asked_at": time.time() - 90_000})

    pool.run("reset", "work", "--yes")

    first, second = (body["redeem_request_id"] for body in spent(pool))
    assert first != second


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(path=CONSUME, status=200, body={"code": "no_credit"}), "no longer has this credit: none was spent"),
        (Answer(path=CONSUME, status=200, body={"code": "nothing_to_reset"}), "has no limit to reset"),
        (Answer(path=CONSUME, status=403, body={"detail": {"code": "nope"}}), "not reset, and no credit was spent"),
    ],
)
def test_a_clear_no_leaves_nothing_open(pool: Pool, answer: Answer, said: str) -> None:
    limit(pool)
    pool.standin.plan(answer)

    assert said in pool.run("reset", "work", "--yes", code=1).stderr

    assert note(RESET) == {"at": None}
    assert pool.list()["work"]["status"] == "limited"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(path=CONSUME, status=200, body={"code": "something_new"}),
        Answer(path=CONSUME, status=200, body="<html>"),
        Answer(path=CONSUME, status=429, body={"error": {"code": "slow_down"}}),
    ],
)
def test_an_answer_that_is_not_understood_is_unclear(pool: Pool, answer: Answer) -> None:
    limit(pool)
    pool.standin.plan(answer)

    document = json.loads(pool.run("reset", "work", "--yes", "--json", code=1).stdout)

    assert (document["outcome"], document["credits_left"]) == ("unclear", None)
    assert note(RESET)["request"] == document["request"]
    assert len(spent(pool)) == 1


def test_a_login_whose_token_is_refused_is_renewed_first(pool: Pool) -> None:
    login = login_of(pool.standin, pool.folder, owner("spare"))
    pool.run("add", "spare", "--auth-json", str(login.path))
    [access] = [token for token, known in pool.standin.backend.pool.items() if known.name == "spare"]
    pool.standin.grant(access)
    pool.standin.limit(access, time.time() + 600)
    pool.standin.kill(access)

    pool.run("reset", "spare", "--yes")

    assert len(spent(pool, "spare")) == 1


def test_a_dead_token_spends_nothing(pool: Pool) -> None:
    pool.standin.kill(WORK.token)

    assert "No credit was spent" in pool.run("reset", "work", "--yes", code=1).stderr
