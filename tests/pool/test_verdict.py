from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.identity import Kind
from codexpool.pool.verdict import (
    ENDPOINT_CODES,
    LIMIT_CODES,
    OVERLOAD_CODES,
    TABLE,
    TASK_CODES,
    Answer,
    Finding,
    Next,
    Verdict,
    classify,
    is_held,
)

UNSUPPORTED = "The 'gpt-x' model is not supported when using Codex with a ChatGPT account."

said = st.text() | st.sampled_from(
    [
        *ENDPOINT_CODES,
        *LIMIT_CODES,
        *OVERLOAD_CODES,
        *TASK_CODES,
        "invalid_encrypted_content",
        "token_revoked",
        "Missing scopes: model.request",
        UNSUPPORTED,
        "deactivated_workspace",
        "",
    ]
)
answers = st.builds(
    Answer,
    status=st.integers(100, 599) | st.sampled_from([0, 200, 400, 401, 402, 403, 429, 502, 503, 504]),
    current=st.booleans(),
    from_edge=st.booleans(),
    code=said,
    message=said,
    kind=st.sampled_from(Kind),
    repeatable=st.booleans(),
    lightens=st.booleans(),
    side=st.booleans(),
    own=st.booleans(),
)

# docs/protocol.md, section 9, row by row: the answer, its row, the finding, what becomes of the request.
ROWS = [
    (Answer(200), "1", Finding.OK, Next.RELAY),
    (Answer(101), "1", Finding.OK, Next.RELAY),
    (Answer(304), "1", Finding.OK, Next.RELAY),
    (Answer(200, current=False, from_edge=True), "1", Finding.OK, Next.RELAY),
    (Answer(401, current=False), "2", Finding.STALE, Next.SAME),
    (Answer(403, current=False), "2", Finding.STALE, Next.SAME),
    (Answer(401, current=False, code="no_matching_rule"), "2", Finding.STALE, Next.SAME),
    (Answer(401, current=False, from_edge=True), "2", Finding.STALE, Next.SAME),
    (Answer(403, from_edge=True), "3", Finding.EDGE, Next.RELAY),
    (Answer(503, from_edge=True), "3", Finding.EDGE, Next.RELAY),
    (Answer(401, from_edge=True), "3a", Finding.EDGE, Next.OTHER),
    (Answer(401, from_edge=True, code="token_revoked"), "3a", Finding.EDGE, Next.OTHER),
    (Answer(401, code="no_matching_rule"), "4", Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    (Answer(401, code="rejected_by_access_enforcement"), "4", Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    (Answer(401, message="Missing scopes: api.responses.write"), "4", Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    (Answer(401), "7", Finding.REFUSED, Next.OTHER),
    (Answer(401, code="token_revoked"), "7", Finding.REFUSED, Next.OTHER),
    (Answer(401, code="a_code_nobody_knows"), "7", Finding.REFUSED, Next.OTHER),
    (Answer(401, kind=Kind.OAUTH), "6", Finding.REFUSED, Next.RENEWED),
    (Answer(401, kind=Kind.OAUTH, current=False), "2", Finding.STALE, Next.SAME),
    (Answer(401, kind=Kind.OAUTH, code="no_matching_rule"), "4", Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    (Answer(401, kind=Kind.COMMAND), "8", Finding.REFUSED, Next.RENEWED),
    (Answer(401, kind=Kind.AGENT), "8a", Finding.REFUSED, Next.RENEWED),
    (Answer(401, kind=Kind.AGENT, code="task_expired"), "8a", Finding.REFUSED, Next.RENEWED),
    (Answer(401, kind=Kind.AGENT, code="task_not_found", side=True), "8a", Finding.REFUSED, Next.RENEWED),
    (Answer(401, kind=Kind.AGENT, side=True), "8b", Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    (Answer(403, code="no_matching_rule"), "4", Finding.NOT_FOR_THIS_CREDENTIAL, Next.OTHER),
    (Answer(400, message=UNSUPPORTED), "4a", Finding.NOT_FOR_THIS_MODEL, Next.OTHER),
    (Answer(400, message=UNSUPPORTED.replace("gpt-x", "")), "4a", Finding.NOT_FOR_THIS_MODEL, Next.OTHER),
    (Answer(400, message=f"Invalid value: {UNSUPPORTED}"), "14", Finding.OWN, Next.RELAY),
    (Answer(404, message=UNSUPPORTED), "14", Finding.OWN, Next.RELAY),
    (Answer(403), "4b", Finding.UNCLEAR, Next.ONCE),
    (Answer(403, code="a_code_nobody_knows"), "4b", Finding.UNCLEAR, Next.ONCE),
    (Answer(403, message="Codex is not enabled for this workspace"), "4b", Finding.UNCLEAR, Next.ONCE),
    (Answer(403, code="unsupported_country_region_territory"), "3b", Finding.OWN, Next.RELAY),
    (Answer(402, side=True), "5b", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(403, side=True), "5b", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(403, side=True, code="workspace_x"), "5b", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(429, side=True, code="usage_limit_reached"), "5b", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(429, side=True), "5b", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(401, side=True), "7", Finding.REFUSED, Next.OTHER),
    (Answer(401, side=True, is_usage=True), "4c", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(401, side=True, is_usage=True, kind=Kind.OAUTH), "4c", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(401, side=True, is_usage=True, current=False), "2", Finding.STALE, Next.SAME),
    (Answer(429, side=True, is_usage=True, own=True), "4c", Finding.NOT_ON_THIS_ENDPOINT, Next.OTHER),
    (Answer(429, side=True, own=True), "5a", Finding.OWN, Next.ELSEWHERE),
    (Answer(402, own=True), "5a", Finding.OWN, Next.ELSEWHERE),
    (Answer(403, own=True, code="deactivated_workspace"), "5a", Finding.OWN, Next.ELSEWHERE),
    (Answer(403, own=True), "4b", Finding.UNCLEAR, Next.ONCE),
    (Answer(401, own=True), "7", Finding.REFUSED, Next.OTHER),
    (Answer(429, own=True, code="usage_limit_reached"), "10", Finding.LIMITED, Next.OTHER),
    (Answer(429, own=True), "11", Finding.THROTTLED, Next.OTHER),
    (Answer(400), "14", Finding.OWN, Next.RELAY),
    (Answer(404, from_edge=True), "14", Finding.OWN, Next.RELAY),
    (Answer(429, from_edge=True), "3", Finding.EDGE, Next.RELAY),
    (Answer(402), "5", Finding.WORKSPACE, Next.OTHER),
    (Answer(402, code="deactivated_workspace"), "5", Finding.WORKSPACE, Next.OTHER),
    (Answer(403, code="workspace_not_authorized_in_region"), "5", Finding.WORKSPACE, Next.OTHER),
    (Answer(403, code="deactivated_workspace", from_edge=True), "3", Finding.EDGE, Next.RELAY),
    (Answer(429, code="usage_limit_reached"), "10", Finding.LIMITED, Next.OTHER),
    (Answer(429, code="usage_not_included"), "10", Finding.LIMITED, Next.OTHER),
    (Answer(429, code="usage_limit_reached", current=False), "10", Finding.LIMITED, Next.OTHER),
    (Answer(429), "11", Finding.THROTTLED, Next.OTHER),
    (Answer(429, code="rate_limit_exceeded"), "11", Finding.THROTTLED, Next.OTHER),
    (Answer(400, code="invalid_encrypted_content", lightens=True), "12", Finding.NOT_PORTABLE, Next.LIGHTER),
    (Answer(400, code="invalid_encrypted_content"), "14", Finding.OWN, Next.RELAY),
    (Answer(400, lightens=True), "14", Finding.OWN, Next.RELAY),
    (Answer(503, code="server_is_overloaded", repeatable=True), "13a", Finding.OVERLOADED, Next.RELAY),
    (Answer(503, code="slow_down"), "13a", Finding.OVERLOADED, Next.RELAY),
    (Answer(503, repeatable=True), "13", Finding.UPSTREAM, Next.AGAIN),
    (Answer(502, repeatable=True, from_edge=True), "13", Finding.UPSTREAM, Next.AGAIN),
    (Answer(504, repeatable=True), "13", Finding.UPSTREAM, Next.AGAIN),
    (Answer(0, repeatable=True), "13", Finding.UPSTREAM, Next.AGAIN),
    (Answer(0), "13b", Finding.UPSTREAM, Next.RELAY),
    (Answer(503, current=False), "13b", Finding.UPSTREAM, Next.RELAY),
    (Answer(500, repeatable=True), "14", Finding.OWN, Next.RELAY),
]


@pytest.mark.parametrize(("answer", "row", "finding", "following"), ROWS)
def test_answer_gets_the_verdict_of_its_row(answer: Answer, row: str, finding: Finding, following: Next) -> None:
    assert classify(answer) == Verdict(row, finding, following)


def test_every_row_of_the_table_is_exercised() -> None:
    assert {row.number for row in TABLE} == {row for _, row, _, _ in ROWS}


@given(answers)
def test_every_answer_gets_the_first_row_that_fits(answer: Answer) -> None:
    verdict = classify(answer)

    numbers = [row.number for row in TABLE]
    before = TABLE[: numbers.index(verdict.row)]
    assert not any(row.fits(answer) for row in before)
    assert TABLE[len(before)].fits(answer)


@given(answers)
def test_client_is_never_shown_a_401(answer: Answer) -> None:
    assert classify(replace(answer, status=401)).next not in (Next.RELAY, Next.ONCE, Next.ELSEWHERE)


@given(answers, st.sampled_from([400, 401, 402, 403, 429, 500, 502, 503, 504]))
def test_whatever_is_acted_upon_was_held(answer: Answer, status: int) -> None:
    assert is_held(status)
    nothing_came = answer.status == 0
    assert nothing_came or is_held(answer.status) or classify(answer).next is Next.RELAY


@given(answers, st.integers(100, 399))
def test_good_answer_is_streamed_and_relayed(answer: Answer, status: int) -> None:
    assert not is_held(status)
    assert classify(replace(answer, status=status)) == Verdict("1", Finding.OK, Next.RELAY)


@given(answers)
def test_only_a_401_of_the_present_token_casts_doubt_on_it(answer: Answer) -> None:
    """The backend itself must have sent it."""
    of_the_endpoint = answer.code in ENDPOINT_CODES or "Missing scopes" in answer.message
    of_the_endpoint |= answer.kind is Kind.AGENT and answer.side and answer.code not in TASK_CODES
    of_the_edge = answer.from_edge

    finding = classify(replace(answer, status=401)).finding

    assert (finding is Finding.REFUSED) == (answer.current and not of_the_edge and not of_the_endpoint)


@given(answers.filter(lambda answer: answer.status != 401))
def test_no_other_status_casts_doubt_on_a_token(answer: Answer) -> None:
    assert classify(answer).finding is not Finding.REFUSED
