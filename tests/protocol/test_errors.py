from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.errors import LONGEST, document_of, error_in


def error_of(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    return error_in(headers, document_of(body))


def in_base64(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


SHAPES = [
    ({"error": {"code": "token_revoked", "message": "It was."}}, ("token_revoked", "It was.")),
    ({"error": {"code": "token_revoked"}}, ("token_revoked", "")),
    ({"error": {"code": None, "type": "invalid_request_error", "message": "No."}}, ("invalid_request_error", "No.")),
    ({"error": {"type": "usage_limit_reached", "plan_type": "plus"}}, ("usage_limit_reached", "")),
    ({"error": {"message": "Missing scopes: model.request"}}, ("", "Missing scopes: model.request")),
    ({"error": "invalid_grant"}, ("invalid_grant", "")),
    ({"error": "It was revoked"}, ("", "It was revoked")),
    ({"detail": "Unauthorized"}, ("Unauthorized", "")),
    ({"detail": "Could not parse your authentication token"}, ("", "Could not parse your authentication token")),
    ({"detail": {"code": "no_matching_rule", "message": "No rule."}}, ("no_matching_rule", "No rule.")),
    ({"code": "token_expired", "message": "It is."}, ("token_expired", "It is.")),
    ({"error": {}, "detail": None, "code": "token_expired"}, ("token_expired", "")),
    ({"error": {"code": 401, "message": "No."}}, ("401", "No.")),
    ({"error": {"code": {"deep": ["er"]}, "message": ["No."]}}, ("", "")),
    ({"error": {"code": True}}, ("", "")),
    ({"error": {"code": 1.5e300}}, ("", "")),
    ({"error": ["token_revoked"]}, ("", "")),
    ({"detail": [{"loc": ["body"], "msg": "field required"}]}, ("", "")),
    ({}, ("", "")),
    ([], ("", "")),
    ("token_revoked", ("", "")),
    (None, ("", "")),
]


@pytest.mark.parametrize(("document", "expected"), SHAPES)
def test_every_shape_of_the_backend_is_understood(document: Any, expected: tuple[str, str]) -> None:
    assert error_of({}, json.dumps(document).encode()) == expected


@pytest.mark.parametrize(("document", "expected"), SHAPES)
def test_a_handshake_says_the_same_in_a_header(document: Any, expected: tuple[str, str]) -> None:
    assert error_of({"x-error-json": in_base64(document)}, b"") == expected


def test_most_specific_source_goes_first() -> None:
    headers = {"x-error-json": in_base64({"error": "first"}), "x-openai-authorization-error": "third"}

    assert error_of(headers, b'{"detail": "second"}') == ("first", "")
    assert error_of({**headers, "x-error-json": "%%%"}, b'{"detail": "second"}') == ("second", "")
    assert error_of({**headers, "x-error-json": "%%%"}, b"{}") == ("third", "")


HOSTILE = [
    b"",
    b"\xff\xfe\x00",
    b"\x80" * 1000,
    b"<html>401</html>",
    b'{"error": {"code": "half',
    b"[" * 200_000,
    b'{"error":' * 50_000,
    b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"error": {"code": ' + b"9" * 100_000 + b"}}",
    b'{"error": {"code": 1e99999, "message": NaN}}',
    '{"error": "token_revoked"}'.encode("utf-16"),
    b'{"error": {"code": "' + b"x" * 5_000_000 + b'"}}',
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_body_does_not_raise_and_says_little(body: bytes) -> None:
    for code_and_message in (error_of({}, body), error_of({"x-error-json": base64.b64encode(body).decode()}, b"")):
        assert all(len(text) <= LONGEST for text in code_and_message)


@given(st.binary() | st.text().map(str.encode))
def test_no_body_raises(body: bytes) -> None:
    error_of({}, body)


json_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "detail", "code", "type", "message", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_documents, st.text(), st.text())
def test_what_is_said_fits_a_log_line_a_flag_and_a_database(document: Any, in_json: str, plain: str) -> None:
    headers = {"x-error-json": in_json, "x-openai-authorization-error": plain}

    for text in error_of(headers, json.dumps(document).encode()):
        assert text.isprintable()
        assert len(text) <= LONGEST
        text.encode()  # no lone surrogate, which JSON can hold and UTF-8 cannot


def test_line_ends_and_lone_surrogates_are_left_out() -> None:
    assert error_of({}, b'{"code": "a\\r\\nb\\u0000\\ud800c"}') == ("abc", "")
    assert error_of({"x-openai-authorization-error": "a\udcffb"}, b"") == ("ab", "")
