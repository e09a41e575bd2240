"""The explanation of a request, whatever has become of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.selection import Because
from codexpool.pool.verdict import TABLE
from codexpool.views.formatting import Role
from codexpool.views.story import ROW_MEANS, explained
from tests.traces.documents import attempt, document

TABLE_ROWS = [row.number for row in TABLE]


def answer(**changes: Any) -> dict[str, Any]:
    """The answer of a document."""
    made = {"status": 200, "by": "backend", "message": "", "bytes": 5120, "error": None, "first_byte_at": None}
    return {**made, **changes}


def told(**changes: Any) -> str:
    """The explanation of a document as one text."""
    return "\n".join(line.text for line in explained(document(**changes)))


def role_of(text: str, **changes: Any) -> Role:
    """How the one line that has this text in it is meant."""
    (line,) = (line for line in explained(document(**changes)) if text in line.text)
    return line.role


# -- the table of verdicts in words


def test_each_row_of_the_verdict_table_is_explained() -> None:
    assert set(ROW_MEANS) == set(TABLE_ROWS)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.number)
def test_a_row_says_what_becomes_of_the_request(row: Any) -> None:
    words = {
        "relay": "the client gets it",
        "same identity, new bearer": "again with its present one",
        "same identity once its credential is renewed, else the next one": "else under the next identity",
        "next identity": r"out\s?(goes )?(out )?under the next (identity|one)",
        "same identity once, with the encrypted reasoning items left out": "once more without it",
        "same identity once, then relay": "once more under the same identity",
        "next identity once, then relay": "another identity is tried once",
        "next identity, and relay if every one says so": "the others are tried, and the client gets it",
    }

    assert re.search(words[row.next], ROW_MEANS[row.number])


# -- the explanation


def test_a_dead_token_and_the_one_that_served_instead() -> None:
    text = told()

    lines = text.splitlines()
    assert lines[0] == "POST https://chatgpt.com/backend-api/codex/responses"
    assert lines[1] == "spare served it, attempt 2: 200"
    assert "work was chosen because the session is with it" in lines
    assert (
        "attempt 1, work (PAT sha256:40c025b2aff6): 401 token_revoked on codex/responses, after 5.0 ms → row 7, "
        "refused: next identity" in lines
    )
    assert f"  row 7: {ROW_MEANS['7']}" in lines
    assert "spare was chosen because the session moves to it" in lines
    assert "  * spare: for it: ready, 82 % left" in lines
    assert "  - work: for it: ready; against it: refused this request already" in lines
    assert "time: 900 ms in all" in lines
    assert "    875 ms  passing the answer on" in lines


def test_the_outcome_comes_before_everything_else() -> None:
    lines = explained(document())

    assert [line.role for line in lines[:2]] == [Role.HEADING, Role.GOOD]


def test_identities_that_were_not_considered_are_not_named() -> None:
    assert "no other identity was considered" in told(attempts=[attempt(1, "work", 200)])


def test_where_the_session_was_read_is_told() -> None:
    text = told()

    assert "session: 01a1fc00-1111-7222-8333-444455556666, read from thread-id" in text
    assert "model: gpt-5" in text


def test_the_session_that_has_started_this_one_is_told() -> None:
    session = {"key": "child", "from": "thread-id", "parent": "mother", "model": "", "user_agent": ""}

    assert "  it was started by session mother" in told(session=session)


@pytest.mark.parametrize("because", Because)
def test_each_reason_makes_a_sentence(because: Because) -> None:
    text = told(attempts=[attempt(1, "work", 200, because=str(because))])

    sentence = next(line for line in text.splitlines() if line.startswith("work was chosen because"))
    assert re.fullmatch(r"work was chosen because (the|it|this|nobody|no) [a-z, ]+", sentence)


def test_no_identity_served() -> None:
    told_instead = "codexpool: no identity can serve. work: replace its PAT"
    changes = {
        "attempts": [attempt(1, "work", 401)],
        "answer": answer(status=400, by="codexpool", message=told_instead),
    }

    assert "no identity served it: codexpool answered 400 in the backend's place" in told(**changes)
    assert role_of(told_instead, **changes) is Role.BAD


def test_a_good_answer_of_the_proxy_is_no_trouble() -> None:
    changes = {"attempts": [], "answer": answer(status=200, by="codexpool", message="the models of all identities")}

    assert role_of("codexpool answered 200 itself", **changes) is Role.GOOD
    assert role_of("the client was told: the models of all identities", **changes) is Role.FACT
    assert role_of("none", **changes) is Role.FACT


def test_no_identity_was_tried() -> None:
    changes = {"attempts": [], "answer": answer(status=503, by="codexpool", message="closed")}

    assert role_of("no identity served it", **changes) is Role.BAD
    assert "Identities tried\nnone\n" in told(**changes)


def test_a_request_that_keeps_its_own_credential() -> None:
    policy = {"name": "own", "row": "", "means": "passed on with the client's own credential: it acts for a person"}

    text = told(attempts=[], policy=policy, answer=answer(status=403))

    assert "the backend answered 403 to the client's own credential" in text
    assert "policy: own (no row names it): passed on with the client's own credential" in text
    assert "none: it keeps the credential that the client sent" in text


def test_a_request_to_some_other_host() -> None:
    policy = {"name": "never", "row": "", "means": "not a host of the backend: passed on, untouched"}

    assert "api.example answered 200; nothing was changed" in told(attempts=[], policy=policy, host="api.example")


def test_an_answer_of_another_addon_is_not_the_backends() -> None:
    assert "another addon answered 204" in told(answer=answer(status=204, by="another addon"))


def test_a_refusal_that_the_client_got_is_no_success() -> None:
    own = attempt(1, "work", 422, verdict={"row": "14", "finding": "the request's own", "next": "relay"})

    text = "the client got the backend's answer to work: 422"

    assert role_of(text, attempts=[own], answer=answer(status=422)) is Role.BAD


def test_a_connection_that_was_lost() -> None:
    lost = attempt(1, "work", 0, evidence="", verdict={"row": "13", "finding": "upstream", "next": "again"})

    text = told(attempts=[lost], answer=answer(status=None, by=None, error="Connection killed."))

    assert "it ended in an error: Connection killed." in text
    assert "attempt 1, work (PAT sha256:40c025b2aff6): the connection was lost before an answer began" in text


def test_a_request_that_was_kept_waiting() -> None:
    text = told(waits=[{"for": "a pause before another attempt", "milliseconds": 250.1}])

    assert "it waited for 250 ms: a pause before another attempt" in text


def test_a_request_that_is_still_under_way() -> None:
    sent = attempt(1, "work", None, verdict=None, evidence="", milliseconds=None, answered_at=None)

    text = told(attempts=[sent], answer=answer(status=None, by=None), ended_at=None)

    assert "it is still under way" in text
    assert "attempt 1, work (PAT sha256:40c025b2aff6): sent, and no answer yet" in text


def test_an_attempt_that_never_left() -> None:
    kept = attempt(1, "work", None, verdict=None, sent_at=None, milliseconds=None)

    assert "attempt 1, work (PAT sha256:40c025b2aff6): was not sent" in told(attempts=[kept])


def test_an_attempt_without_its_encrypted_reasoning() -> None:
    assert ", without its encrypted reasoning: " in told(attempts=[attempt(1, "work", 200, lighter=True)])


def test_a_socket_and_what_was_asked_on_it() -> None:
    turns = [
        {"at": 1764000001.0, "milliseconds": 1200.0, "request_bytes": 70, "bytes": 900, "outcome": "completed"},
        {"at": 1764000009.0, "milliseconds": 80.0, "bytes": 90, "outcome": "failed: 429 usage_limit_reached"},
        {"at": 1764000010.0, "milliseconds": None, "bytes": 0, "outcome": ""},
    ]
    changes = {
        "transport": "websocket",
        "turns": turns,
        "attempts": [attempt(1, "work", 101)],
        "answer": answer(status=101),
        "ended_at": None,
    }

    assert "work opened the socket: 101, and it is open" in told(**changes)
    assert role_of("16:00:01: completed, after 1.2 s, 70 B asked, 900 B answered", **changes) is Role.GOOD
    assert role_of("16:00:09: failed: 429 usage_limit_reached", **changes) is Role.BAD
    assert role_of("16:00:10: under way", **changes) is Role.FACT


def test_an_observed_request_is_explained_in_the_conditional() -> None:
    planned = attempt(1, "work", None, verdict=None, sent_at=None, milliseconds=None, evidence="")

    text = told(observed=True, attempts=[planned])

    assert "observe mode: nothing was changed" in text
    assert "work would have been chosen because the session is with it" in text
    assert "attempt 1, work (PAT sha256:40c025b2aff6): would have been sent" in text
    assert "the backend answered 200 to the client's own credential" in text
    assert "served it" not in text


def test_an_observed_answer_is_not_the_identitys() -> None:
    text = told(observed=True, answer=answer(status=401, message="codexpool: no identity can serve."))

    assert (
        "attempt 1, work (PAT sha256:40c025b2aff6): would have been sent; the client's own credential got: "
        "401 token_revoked on codex/responses, after 5.0 ms → row 7, refused: next identity" in text
    )
    assert "the client would have been told: codexpool: no identity can serve." in text


def test_an_unknown_row_is_named() -> None:
    later = attempt(1, "work", 418, verdict={"row": "99", "finding": "teapot", "next": "relay"})

    assert "→ row 99, teapot: relay" in told(attempts=[later])


# -- any document

texts = st.text(max_size=12)
times = st.one_of(st.floats(0, 4e9), st.floats(allow_nan=False, allow_infinity=False))
durations = st.none() | st.floats(0, 1e9)
sizes = st.integers(0, 10**12)
fields = st.lists(st.tuples(texts, texts).map(list), max_size=2)
candidates = st.fixed_dictionaries(
    {
        "name": texts,
        "chosen": st.booleans(),
        "for": st.lists(texts, max_size=2),
        "against": st.lists(texts, max_size=2),
    }
)
verdicts = st.fixed_dictionaries(
    {"row": st.sampled_from(TABLE_ROWS) | texts, "finding": texts, "next": texts},
)
attempts = st.fixed_dictionaries(
    {
        "number": st.integers(1, 99),
        "identity": texts,
        "kind": st.sampled_from(["pat", "oauth", "command"]) | texts,
        "fingerprint": texts,
        "account_id": texts,
        "because": st.sampled_from([str(because) for because in Because]) | texts,
        "candidates": st.none() | st.lists(candidates, max_size=3),
        "sent_at": st.none() | times,
        "origin": texts,
        "lighter": st.booleans(),
        "request_headers": fields,
        "answered_at": st.none() | times,
        "status": st.none() | st.sampled_from([0, 101, 200, 401, 503]),
        "response_headers": fields,
        "request_id": texts,
        "verdict": st.none() | verdicts,
        "evidence": texts,
        "milliseconds": durations,
    }
)
documents = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "id": texts,
        "number": st.integers(0),
        "at": times,
        "client": texts,
        "method": texts,
        "url": texts,
        "host": texts,
        "path": texts,
        "transport": st.sampled_from(["http", "websocket"]),
        "observed": st.booleans(),
        "policy": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["swap", "swap, ids rewritten", "own", "never"]),
                "row": texts,
                "means": texts,
            }
        ),
        "session": st.fixed_dictionaries(
            {
                "key": st.none() | texts,
                "from": st.none() | texts,
                "parent": st.none() | texts,
                "model": texts,
                "user_agent": texts,
            }
        ),
        "request_headers": fields,
        "request_bytes": sizes,
        "attempts": st.lists(attempts, max_size=3),
        "waits": st.lists(st.fixed_dictionaries({"for": texts, "milliseconds": st.floats(0, 1e9)}), max_size=2),
        "turns": st.lists(
            st.fixed_dictionaries({"at": times, "milliseconds": durations, "bytes": sizes, "outcome": texts}),
            max_size=2,
        ),
        "answer": st.fixed_dictionaries(
            {
                "status": st.none() | st.sampled_from([101, 200, 400, 503]),
                "by": st.sampled_from([None, "backend", "codexpool", "another addon"]),
                "message": texts,
                "bytes": sizes,
                "error": st.none() | texts,
                "first_byte_at": st.none() | times,
            }
        ),
        "ended_at": st.none() | times,
        "time": st.lists(st.tuples(texts, st.floats(0, 1e9)).map(list), max_size=3),
    }
)


@given(documents)
def test_any_document_can_be_explained(made: dict[str, Any]) -> None:
    lines = explained(made)

    text = "\n".join(line.text for line in lines)
    assert len(lines) >= 8
    for one in made["attempts"]:
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in one["identity"])
        assert f"attempt {one['number']}, {shown} (" in text


@given(documents)
def test_no_line_has_a_control_character(made: dict[str, Any]) -> None:
    assert all(line.text.isprintable() for line in explained(made))
