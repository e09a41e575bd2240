"""The models of an account, asked as a client of some version asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codexpool.credentials.account_api import AccountApi, UnreadError
from codexpool.credentials.http_client import MAX_ANSWER, Route
from codexpool.pool.identity import Metadata
from codexpool.protocol.models import LONGEST_LIST
from codexpool.tokens.bearer import Bearer
from tests.running import pat
from tests.standin import CLOUDFLARE_PAGE, MODELS, Answer, StandIn, model_info

TOKEN = pat("gov", fedramp=True, origin="https://gov.chatgpt.com", routing_override="us_cr", models=("a", "b"))
ACCOUNT = Metadata(TOKEN.account_id, TOKEN.user_id, TOKEN.plan, True, TOKEN.origin, "us_cr")
LIST = {"models": [model_info("c")]}


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([TOKEN], folder=tmp_path) as standin:
        yield standin


async def read(standin: StandIn, etag: str = "") -> tuple[list[str], str] | None:
    api = AccountApi(Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file)))
    came = await api.models(Bearer.of(TOKEN.token), ACCOUNT, "0.171.0", etag)
    return None if came is None else ([entry.slug for entry in came[0]], came[1])


async def test_a_list_is_read_where_the_workspace_is_and_not_again_while_it_is_the_same(standin: StandIn) -> None:
    came = await read(standin)
    assert came is not None
    assert came[0] == ["a", "b"]

    assert await read(standin, came[1]) is None

    assert (standin.refusals, standin.leaks) == ([], [])
    for seen in standin.requests(MODELS):
        assert (seen.host, seen.query, seen.header("version")) == (
            "gov.chatgpt.com",
            "client_version=0.171.0",
            "0.171.0",
        )


async def test_a_list_longer_than_other_answers_is_read(standin: StandIn) -> None:
    long = {"models": [{**model_info("c"), "base_instructions": 2 * MAX_ANSWER * "a"}]}
    standin.plan(Answer(path=MODELS, status=200, body=long, headers={"etag": '"long"'}))

    assert await read(standin) == (["c"], '"long"')


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=401, body={"error": {"code": "token_revoked", "message": "no"}}),
        Answer(status=403, body=CLOUDFLARE_PAGE),
        Answer(status=200, body=CLOUDFLARE_PAGE),
        Answer(status=200, body=LIST, headers={"cf-mitigated": "challenge"}),
        Answer(status=304),
        Answer(status=500),
        Answer(status=200, body={"models": []}),
        Answer(status=200, body=b'{"models": [{"slug": "c", "priority": NaN}]}'),
        Answer(status=200, body={"models": [{**model_info("c"), "base_instructions": LONGEST_LIST * "a"}]}),
        Answer(cut="body", status=200, body=LIST),
    ],
    ids=["401", "403", "page", "mitigated", "304", "500", "empty", "NaN", "huge", "cut"],
)
async def test_any_other_answer_is_no_list(standin: StandIn, answer: Answer) -> None:
    standin.plan(answer)

    with pytest.raises(UnreadError):
        await read(standin)


@pytest.mark.parametrize("etag", ["", 300 * "a", "a\tb"])
async def test_an_etag_that_could_not_be_sent_back_is_not_kept(standin: StandIn, etag: str) -> None:
    standin.plan(Answer(path=MODELS, status=200, body=LIST, headers={"etag": etag} if etag else {}))

    assert await read(standin) == (["c"], "")
