"""A comparison says what differs, only that, in order, and shows no secret."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.redaction import redact_header
from codexpool.views.header_table import Sign
from codexpool.views.request_diff import Comparison, Member, Part, Side, compare, compare_identities, members, same
from tests.redaction import planting
from tests.redaction.planting import pieces_in

AT = 1764000000.0
URL = "https://chatgpt.com/backend-api/codex/responses"
SESSION = "01a1fc00-1111-7222-8333-444455556666"

HEADERS = [
    ("version", "0.169.0"),
    ("content-type", "application/json"),
    ("authorization", "Bearer at-test-0123456789"),
]
BODY = {"model": "gpt-5", "stream": True, "input": [{"role": "user", "content": "say hi"}]}


def side(label: str = "a", **changes: Any) -> Side:
    given = {"method": "POST", "url": URL, "headers": HEADERS, "body": json.dumps(BODY).encode(), **changes}
    return Side(label, **given)


def with_body(label: str, body: Any) -> Side:
    return side(label, body=json.dumps(body).encode())


def told(comparison: Comparison) -> list[tuple[str, str, str, str | None, str | None]]:
    return [(d.part.value, d.name, d.sign.value, d.a, d.b) for d in comparison.differences]


def everything(comparison: Comparison) -> str:
    return json.dumps([*(d.document() for d in comparison.differences), *comparison.notes], ensure_ascii=False)


# -- requests


def test_requests_that_are_the_same_have_no_difference() -> None:
    assert compare(side("a"), side("b")) == Comparison([], [])


def test_only_differences_are_shown_in_the_order_of_a_request() -> None:
    # Given
    one = side(
        url=f"{URL}?a=1&token=hunter2",
        headers=[("version", "0.169.0"), ("originator", "codex_exec"), ("x-old", "1")],
        status=200,
        answer_headers=[("server", "cloudflare")],
    )
    other = side(
        "b",
        method="GET",
        url=f"{URL}/compact?a=2&token=hunter3",
        headers=[("Version", "0.170.0"), ("originator", "codex_exec"), ("x-new", "2")],
        body=json.dumps({**BODY, "model": "gpt-5.1"}).encode(),
        status=401,
        answer_headers=[("server", "cloudflare"), ("x-openai-authorization-error", "token_revoked")],
    )
    # When, then
    assert told(compare(one, other)) == [
        ("request", "method", "~", "POST", "GET"),
        ("request", "path", "~", "/backend-api/codex/responses", "/backend-api/codex/responses/compact"),
        ("request", "query a", "~", "1", "2"),
        ("request", "query token", "~", "secret 7 chars", "secret 7 chars (another one)"),
        ("headers", "version", "~", "0.169.0", "0.170.0"),
        ("headers", "x-old", "-", "1", None),
        ("headers", "x-new", "+", None, "2"),
        ("body", "model", "~", '"gpt-5"', '"gpt-5.1"'),
        ("answer", "status", "~", "200", "401"),
        ("headers of the answer", "x-openai-authorization-error", "+", None, "token_revoked"),
    ]


def test_answers_can_be_left_out() -> None:
    assert (
        compare(side(status=200), side("b", status=401, answer_headers=[("a", "b")]), answers=False).differences == []
    )


def test_order_and_case_of_headers_are_notes_only() -> None:
    other = side("b", headers=[(name.title(), value) for name, value in reversed(HEADERS)])

    assert compare(side(), other) == Comparison(
        [], ["the headers that both have are in another order", "some names of headers are written in another case"]
    )


def test_a_second_header_of_one_name_cannot_hide() -> None:
    (difference,) = compare(side(headers=[("x-a", "1")]), side("b", headers=[("x-a", "1"), ("X-A", "2")])).differences

    assert (difference.name, difference.a, difference.b) == ("x-a", "1", "1, 2")


def test_header_that_is_json_is_compared_member_by_member() -> None:
    one, other = ({"session_id": SESSION, "turn_id": turn, "n": {"m": 1}} for turn in ("t1", "t2"))
    name = "x-codex-turn-metadata"

    comparison = compare(side(headers=[(name, json.dumps(one))]), side("b", headers=[(name, json.dumps(other))]))

    assert told(comparison) == [("headers", f"{name}: turn_id", "~", '"t1"', '"t2"')]


def test_headers_say_what_they_mean() -> None:
    (difference,) = compare(side(), side("b", headers=[("version", "1"), *HEADERS[1:]])).differences

    assert difference.means.startswith("The client's version")


def test_different_short_secrets_are_told_apart() -> None:
    (difference,) = compare(
        side(headers=[("x-key", "hunter2")]), side("b", headers=[("x-key", "hunter3")])
    ).differences

    assert difference[2:5] == (Sign.REPLACED, "secret 7 chars", "secret 7 chars (another one)")


def test_a_remembered_flow_is_compared_with_a_saved_one() -> None:
    raw = side("file", headers=HEADERS)
    safe = side("last", headers=[(n, redact_header(n, v)) for n, v in HEADERS], is_safe=True, body=None)

    assert compare(raw, safe) == Comparison([], ["last: its body is not known"])
    other = side("file", headers=[*HEADERS[:2], ("authorization", "Bearer at-test-0123456789x")])
    assert [difference.name for difference in compare(other, safe).differences] == ["authorization"]


# -- bodies


def test_second_turn_differs_in_what_was_added() -> None:
    first = {**BODY, "prompt_cache_key": SESSION}
    more = [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "again"}]
    second = {**first, "input": [*BODY["input"], *more]}  # type: ignore[misc]

    assert told(compare(with_body("a", first), with_body("b", second))) == [
        ("body", "input[1]", "+", None, '{"role": "assistant", "content": "hi"}'),
        ("body", "input[2]", "+", None, '{"role": "user", "content": "again"}'),
    ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"a": 1}, {"a": True}, [("a", "~", "1", "true")]),
        ({"a": 1}, {"a": 1.0}, [("a", "~", "1", "1.0")]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("a.b[1]", "~", "2", "3")]),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, [("a[2]", "+", None, "3")]),
        ({"a": [1, 2, 3]}, {"a": [1, 2]}, [("a[2]", "-", "3", None)]),
        ({"a": None}, {}, [("a", "-", "null", None)]),
        ({"a": "x"}, {"a": {"b": "x"}}, [("a", "~", '"x"', '{"b": "x"}')]),
        ({"a": '{"b": 1, "c": 1}'}, {"a": '{"b": 2, "c": 1}'}, [("a.b", "~", "1", "2")]),
        (1, 2, [("", "~", "1", "2")]),
    ],
)
def test_members_are_compared_by_their_paths(a: Any, b: Any, expected: list[Any]) -> None:
    assert [(m.path, m.sign.value, m.a, m.b) for m in members(a, b)] == expected


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=12,
)


@given(documents, documents)
def test_documents_differ_exactly_if_a_member_does(a: Any, b: Any) -> None:
    assert bool(list(members(a, b))) == (not same(a, b))
    assert list(members(a, copy.deepcopy(a))) == []


@given(documents, documents)
def test_swapped_sides_have_the_opposite_signs(a: Any, b: Any) -> None:
    opposite = {Sign.ADDED: Sign.REMOVED, Sign.REMOVED: Sign.ADDED, Sign.REPLACED: Sign.REPLACED}

    def turned(member: Member) -> tuple[str, Sign, str | None, str | None]:
        return (member.path, opposite[member.sign], member.b, member.a)

    assert sorted(map(str, members(b, a))) == sorted(str(Member(*turned(m))) for m in members(a, b))


def test_members_in_another_order_are_noted() -> None:
    one, other = with_body("a", {"a": 1, "b": 2}), with_body("b", {"b": 2, "a": 1})

    assert compare(one, other) == Comparison([], ["the bodies mean the same, but are not the same bytes"])


def test_equal_bodies_in_other_bytes_are_noted() -> None:
    assert compare(side(body=b'{"a": 1}'), side("b", body=b'{"a":1}')) == Comparison(
        [], ["the bodies mean the same, but are not the same bytes"]
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (b"some text", b"other text", ("~", "some text", "other text")),
        (b"", b"text", ("+", None, "text")),
        (b"\xff\xfe\x00", b"{}", ("~", "3 bytes", "{}")),
        (b"[" * 5000, b"{}", ("~", f"{'[' * 120}… (4000 characters)", "{}")),
    ],
)
def test_body_that_is_no_json_is_compared_as_what_it_is(a: bytes, b: bytes, expected: tuple[Any, ...]) -> None:
    (difference,) = compare(side(body=a), side("b", body=b)).differences

    assert difference.part is Part.BODY
    assert difference.sign.value == expected[0]
    assert (difference.a or "").startswith((expected[1] or "")[:50])
    assert difference.b == expected[2]


def test_body_of_very_many_levels_is_no_trouble() -> None:
    one, other = ("[" * depth + "]" * depth for depth in (900, 901))

    assert compare(side(body=one.encode()), side("b", body=other.encode())).differences


# -- values


def test_long_values_are_shortened_around_their_difference() -> None:
    long = [f"{'word ' * 200}{end}{' more' * 200}" for end in ("one", "two")]
    one, other = with_body("a", {"text": long[0]}), with_body("b", {"text": long[1]})

    (short,) = compare(one, other).differences
    (full,) = compare(one, other, full=True).differences

    assert short.a is not None
    assert short.b is not None
    assert "one" in short.a
    assert "two" in short.b
    assert len(short.a) < 160
    assert (full.a, full.b) == tuple(f'"{text}"' for text in long)


# -- secrets


PLACES = ("header", "telling header", "cookie", "query", "path", "body", "telling body", "text", "form", "key")


@given(
    planting.recognised | planting.keys, planting.recognised | planting.keys, st.sampled_from(PLACES), st.booleans()
)
def test_no_comparison_shows_a_secret(one: str, other: str, place: str, full: bool) -> None:
    a, b = (_planted(label, secret, place) for label, secret in (("a", one), ("b", other)))

    comparison = compare(a, b, full=full)

    for secret in (one, other):
        assert not pieces_in(secret, everything(comparison))
    assert bool(comparison.differences) == (one != other)


@given(
    planting.passwords, planting.names, st.sampled_from(["telling body", "query", "form", "nested", "pair", "list"])
)
def test_no_comparison_shows_what_a_name_gives_away(secret: str, name: str, place: str) -> None:
    bodies: dict[str, Any] = {
        "telling body": {name: secret},
        "nested": {name: {"inner": [{"x": secret}]}},
        "pair": {"headers": [{"name": name, "value": secret}]},
        "list": {name: [secret]},
    }
    empty: dict[str, Any] = {
        "nested": {name: {"inner": [{"x": "other"}]}},
        "pair": {"headers": [{"name": "x", "value": "other"}]},
    }
    if place in bodies:
        a, b = with_body("a", bodies[place]), with_body("b", empty.get(place, {}))
    elif place == "query":
        a, b = side(url=f"{URL}?{name}={quote(secret)}"), side("b")
    else:
        form = [("content-type", "application/x-www-form-urlencoded")]
        a, b = side(headers=form, body=f"{name}={quote(secret)}".encode()), side("b", headers=form, body=b"x=1")

    for full in (True, False):
        assert not pieces_in(secret, everything(compare(a, b, full=full)))
        assert not pieces_in(secret, everything(compare(b, a, full=full)))


def _planted(label: str, secret: str, place: str) -> Side:
    changes: dict[str, dict[str, Any]] = {
        "header": {"headers": [("x-foo", f"see {secret}")]},
        "telling header": {"headers": [("authorization", f"Bearer {secret}")]},
        "cookie": {"answer_headers": [("set-cookie", f"a={secret}; path=/")]},
        "query": {"url": f"{URL}?state={quote(secret, safe='')}"},
        "path": {"url": f"{URL}/{quote(secret, safe='')}/x"},
        "body": {"body": json.dumps({"input": [{"content": f"the key is {secret}."}]}).encode()},
        "telling body": {"body": json.dumps({"a": {"access_token": secret}}).encode()},
        "text": {"body": f"no json: {secret}".encode()},
        "form": {
            "headers": [("content-type", "application/x-www-form-urlencoded")],
            "body": f"refresh_token={quote(secret, safe='')}".encode(),
        },
        "key": {"body": json.dumps({secret: 1}).encode()},
    }
    return side(label, **changes[place])


# -- identities


def test_identities_are_compared_by_what_is_known_of_them() -> None:
    # Given
    limit = {"family": "codex", "minutes": 300, "used_percent": 18.0, "resets_at": AT + 3600}
    work = {
        "name": "work",
        "kind": "pat",
        "fingerprint": "40c025b2aff6",
        "plan": "business",
        "fedramp": False,
        "status": "ready",
        "until": None,
        "headroom": 0.82,
        "limits": [limit],
        "limited": {},
        "last_used_at": AT - 60,
    }
    spare = {
        **work,
        "name": "spare",
        "fingerprint": "1a2b3c4d5e6f",
        "status": "limited",
        "until": AT + 240,
        "headroom": 0.0,
        "limits": [{**limit, "used_percent": 100.0}],
        "limited": {"codex_spark": AT + 600},
        "last_used_at": None,
    }
    # When, then
    assert told(compare_identities(work, spare, AT)) == [
        ("identity", "fingerprint", "~", "40c025b2aff6", "1a2b3c4d5e6f"),
        ("identity", "status", "~", "ready", "limited"),
        ("identity", "until", "~", "null", "in 4 min"),
        ("identity", "headroom", "~", "0.82", "0.0"),
        ("identity", "limits.codex, 300 min.used_percent", "~", "18.0", "100.0"),
        ("identity", "limited.codex_spark", "+", None, "in 10 min"),
        ("identity", "last_used_at", "~", "1 min ago", "null"),
    ]
    assert compare_identities(work, {**work, "name": "other"}, AT).differences == []


def test_identities_of_two_persons_are_compared() -> None:
    found = compare_identities({"email": "ann@a.example"}, {"email": "bob@b.example"}, AT)
    assert told(found) == [("identity", "email", "~", "<email>", "<email> (another one)")]


@given(planting.recognised)
def test_no_comparison_of_identities_shows_a_secret(secret: str) -> None:
    comparison = compare_identities({"evidence": f"401 for {secret}"}, {"evidence": "", "x": {"token": secret}}, AT)

    assert not pieces_in(secret, everything(comparison))
