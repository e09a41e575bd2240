"""A member's message counts as what every parser takes it for, or it is refused."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codexpool.protocol import frames
from codexpool.protocol.strict import MOST_BRACKETS, MOST_KEYS, ambiguity

CREATE = '"type":"response.create"'
"""What `$` stands for below."""

CLEAR = [
    "{$}",
    '{$,"model":"m","input":[{"type":"x","type2":[1.5e-3,true,null]}],"generate":false}',
    ' {\n "input" : "\\u0074ype \\" } , {" ,\t"type" : "response.create" } \n',
    '{"typ\\u0065":"response.create"}',
    '{"type":"response.cancel"}',
    '{"input":[{"type":"a","type":"b"}],$}',  # within, nothing decides
    "{}",
    '{"a":{"type":"response.create"}}',
]

AMBIGUOUS = {
    "two keys": '{"type":"x","a":1,$}',
    "two keys, the same": "{$,$}",
    "one of them escaped": '{"type":"x","typ\\u0065":"response.create"}',
    "of another case": '{"type":"x","Type":"response.create"}',
    "of another case only": '{"TYPE":"response.create"}',
    "generate, twice": '{$,"generate":true,"generate":false}',
    "model, twice": '{$,"model":"a","model":"b"}',
    "no object": "[{$}]",
    "no JSON": "response.create",
    "nothing": "",
    "more after it": "{$}{$}",
    "a comment": '{"type":"x"/*,*/,"a":1}',
    "a comment in a value": '{"type":"x","a":[/*"]}*/],"b":1}',
    "quotes of another kind": "{'type':'response.create'}",
    "a key without quotes": '{type:"response.create"}',
    "a trailing comma": "{$,}",
    "brackets that do not match": '{"type":"x","a":[{],"b":1}]}',
    "no end": '{"type":"x","a":[1,2',
    "a number that is too long": f'{{"a":{"1" * 5000},$}}',
    "a number within that is too long": f'{{"a":[{"1" * 5000}],$}}',
    "NaN": '{"a":NaN,$}',
    "a line end in a text": '{"a":"\n",$}',
    "a mark of the byte order": "\ufeff{$}",
    "deep": f'{{"a":{"[" * 200_000}1{"]" * 200_000},$}}',
    "null": "null",
    "many keys": "{" + ",".join(f'"k{n}":1' for n in range(MOST_KEYS + 1)) + "}",
    "many brackets": f'{{"a":[{"[]," * MOST_BRACKETS}1]}}',
}


@pytest.mark.parametrize("message", CLEAR)
def test_what_can_be_read_in_one_way_only_is_not_refused(message: str) -> None:
    assert ambiguity(message.replace("$", CREATE).encode()) == ""


@pytest.mark.parametrize("message", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_two_parsers_could_read_differently_is_refused(message: str) -> None:
    assert ambiguity(message.replace("$", CREATE).encode()).startswith("it ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=8), st.sampled_from(["response.create", "x"]), st.booleans())
def test_no_message_that_a_client_makes_is_refused(rest: dict[str, Any], kind: str, ascii_only: bool) -> None:
    kept = {key: value for key, value in rest.items() if key.casefold() not in ("type", "generate")}
    unique = {key.casefold(): key for key in kept}
    document = {**{key: kept[key] for key in unique.values()}, "type": kind}

    assert ambiguity(json.dumps(document, ensure_ascii=ascii_only).encode(errors="surrogatepass")) == ""


pieces = st.sampled_from(
    ['"type"', '"Type"', '"generate"', '"a"', ":", ",", "{", "}", "[", "]", '"response.create"', '"x"', "1", " ", "'"]
)


@given(st.lists(pieces, max_size=24).map("".join))
@example('{"type":"x","a":{},"type":"response.create"}')
@example('{"a":[}],"type":"response.create"}')
def test_first_key_and_last_key_parsers_agree_on_the_rest(message: str) -> None:
    if ambiguity(message.encode()):
        return
    pairs: list[tuple[str, Any]] = json.loads(message, object_pairs_hook=lambda pairs: pairs)
    of_type = [value for key, value in pairs if key.casefold() == "type"]

    assert len(of_type) <= 1
    assert frames.kind(message.encode()) == str((of_type or [""])[0] or "")


def test_the_longest_history_is_read_fast() -> None:
    """Objects within a message are not kept."""
    item = {"type": "message", "content": [{"type": "input_text", "text": "word " * 100}]}
    message = json.dumps({"type": "response.create", "input": [item] * 20_000}).encode()

    tracemalloc.start()
    try:
        assert ambiguity(message) == ""
        assert tracemalloc.get_traced_memory()[1] < 3 * len(message)
    finally:
        tracemalloc.stop()
