"""The filters of ``/api/flows``: each narrows, none is an error, and together they all hold."""

from __future__ import annotations

import json

import pytest

from codexpool.traces.history import History
from codexpool.web.flow_filter import OUTCOMES
from tests.web.test_site import answer, site_of
from tests.web.test_site import request as asked
from tests.web.views import request, served


def history() -> History:
    """Requests by the name of what came of each, as its session."""
    made = History()
    served(made, request("one-served", member="ann"), ["work"])
    served(made, request("two-refused", member="bob"), ["work", "spare"])
    served(made, request("three-failed"), ["spare"], status=503)
    made.began(request("four-open"))
    return made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["four-open", "three-failed", "two-refused", "one-served"]),
        ("identity=&session=&member=&outcome=", ["four-open", "three-failed", "two-refused", "one-served"]),
        ("identity=work", ["two-refused", "one-served"]),
        ("session=two-", ["two-refused"]),
        ("member=ann", ["one-served"]),
        ("outcome=open", ["four-open"]),
        ("outcome=served", ["two-refused", "one-served"]),
        ("outcome=refused", ["two-refused"]),
        ("outcome=failed", ["three-failed"]),
        ("identity=spare&outcome=served&member=bob", ["two-refused"]),
        ("identity=nobody", []),
        ("identity=spare&limit=1", ["three-failed"]),
    ],
)
async def test_requests_are_narrowed_down(query: str, found: list[str]) -> None:
    got = json.loads((await answer(asked(f"/api/flows?{query}"), site_of(history()))).content or b"")

    assert [flow["session"]["key"] for flow in got["flows"]] == found
    assert got["total"] == max(len(found), 2 * ("limit" in query))


async def test_an_unknown_outcome_names_the_known_ones() -> None:
    got = await answer(asked("/api/flows?outcome=x"), site_of(history()))

    assert got.status_code == 400
    assert all(outcome in json.loads(got.content or b"")["error"]["message"] for outcome in OUTCOMES)
