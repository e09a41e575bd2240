"""Secrets that are easily overlooked: in structures, in numbers, beside a label of ours, in other alphabets."""

from __future__ import annotations

import json

import pytest

from tests.recording.flows import a_flow, a_socket, read, readable, recorded

SECRET = "hunter2-Xq"

STRUCTURES = [
    f'{{"credentials":{{"v":"{SECRET}"}}}}',
    f'{{"api_key":[{{"value":"{SECRET}"}}]}}',
    f'{{"tokens":{{"a":{{"b":"{SECRET}"}}}}}}',
    f'\ufeff{{"credentials":{{"v":"{SECRET}"}}}}',
    f'{{"a":1}}\n{{"credentials":{{"v":"{SECRET}"}}}}',
    f'data: {{"auth":{{"v":"{SECRET}"}}}}\n\n',
    json.dumps({"inner": json.dumps({"credentials": {"v": SECRET}})}),
]


@pytest.mark.parametrize("as_har", [False, True], ids=["flows", "har"])
@pytest.mark.parametrize("text", STRUCTURES)
def test_everything_below_a_telling_name_is_a_secret(text: str, as_har: bool) -> None:
    flows = [
        a_flow(body=text),
        a_flow(answer=text),
        a_flow(headers=[("x-of-mine", text.strip().replace("\n", " ").replace("\ufeff", ""))]),
        a_socket([text], [text]),
    ]

    assert SECRET not in readable(recorded(*flows, as_har=as_har))


@pytest.mark.parametrize("number", ['{"password":48151623}', '{"pin":48151623}', '{"secret":48151623.5}'])
def test_a_secret_may_be_a_number(number: str) -> None:
    assert "48151623" not in readable(recorded(a_flow(headers=[("x-of-mine", number)], body=number)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-api-key", f"{SECRET} <codexpool:refused>"),
        ("proxy-authorization", f"{SECRET} <codexpool"),
        ("authorization", f"Bearer {SECRET}<codexpool:work>"),
    ],
)
def test_a_label_of_codexpool_hides_nothing_beside_it(name: str, value: str) -> None:
    assert SECRET not in readable(recorded(a_flow(headers=[(name, value)])))


def test_the_label_itself_stays_one() -> None:
    (flow,) = read(recorded(a_flow(headers=[("authorization", "Bearer <codexpool:waiting>")])))

    assert flow.request.headers["authorization"].startswith("Bearer <codexpool:")


@pytest.mark.parametrize("alphabet", ["utf-16-le", "utf-16", "utf-32"])
def test_what_cannot_be_looked_through_is_left_out(alphabet: str) -> None:
    body = f'{{"password":"{SECRET}"}}'.encode(alphabet)

    content = recorded(a_flow(body=body))

    assert body not in content
    assert SECRET.encode(alphabet) not in content
