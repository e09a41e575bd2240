"""What reviewers have got past the finder once is not shown again, however it is written; and legible things stay."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.redaction.find import find_secrets
from codexpool.redaction.redact import LONGEST_READ, redact_header, redact_text
from codexpool.views.request_diff import Side, compare, members
from tests.redaction import planting
from tests.redaction.planting import pieces_in

AT = 1764000000.0
HEX = "0123456789abcdef0123456789abcdef"
ALNUM = "Zx81kQpW7vB2nR5tY9mC3dF6"


def basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


# -- structures

STRUCTURES = [
    '{"credentials":{"user":"bob","v":"hunter2-Xq"}}',
    '{"api_key":[{"a":"]"},"hunter2-Xq"]}',
    '"passwords":["a]","hunter2"]',
    '"passwords":[["a"],["hunter2"]]',
    'cookies={"sid":"hunter2"}',
    "password={hunter2}",
    'data: {"auth":{"v":"hunter2"}}',
    'data: {"auth":{"v":"hunter2"',
    '{"a":"{\\"auth\\":{\\"v\\":\\"hunter2\\"}}"}',
    '{"password":"hunter2","password":true}',
    "password=<hunter2>",
]


@pytest.mark.parametrize("text", STRUCTURES)
def test_nothing_below_a_telling_name_is_shown(text: str) -> None:
    assert "hunter2" not in redact_text(text)
    assert "hunter2" not in redact_header("x-codex-turn-metadata", text)


NAMED = [
    {"value": "hunter2", "name": "x-api-key"},
    {"name": "x-api-key", "type": "x", "value": "hunter2"},
    {"key": "password", "value": "hunter2"},
    {"Name": "x-api-key", "Value": "hunter2"},
    {"rawHeaders": ["x-api-key", "hunter2"]},
    {"rawHeaders": ["accept", "x", "x-api-key", "hunter2", "host", "y"]},
    {"headers": [["x-api-key", "hunter2"]]},
    {"command": ["curl", "--password", "hunter2"]},
    [["x-api-key", ["hunter2"]]],
]


@pytest.mark.parametrize("document", NAMED)
def test_a_name_makes_the_value_beside_it_secret(document: Any) -> None:
    assert "hunter2" not in redact_text(json.dumps(document))
    for one, other in ((document, {}), ({}, document), ([document], [{"headers": []}])):
        assert "hunter2" not in str(list(members(one, other)))


@pytest.mark.parametrize("document", NAMED[:2])
def test_a_name_makes_the_value_beside_it_secret_in_an_event(document: Any) -> None:
    assert "hunter2" not in redact_text(f"data: {json.dumps(document)}")


def test_a_name_makes_a_value_secret_in_one_of_two() -> None:
    one, other = {"h": [{"name": "x-api-key", "value": "hunter2"}]}, {"h": [{"name": "x-api-key"}]}

    assert "hunter2" not in str([*members(one, other), *members(other, one)])


def test_document_in_a_query_is_no_way_around() -> None:
    one, other = (Side("", "GET", f"https://h.example/{query}", ()) for query in ('?x={"auth":{"v":"hunter2"}}', ""))

    assert "hunter2" not in str(compare(one, other, full=True))


documents = st.recursive(
    planting.passwords | st.integers(0, 9) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b]", '"c', "{"]), inner),
    max_leaves=6,
)


def texts_in(document: Any) -> list[str]:
    if isinstance(document, dict):
        document = list(document.values())
    return [text for item in document for text in texts_in(item)] if isinstance(document, list) else [str(document)]


@given(
    documents, planting.names, st.sampled_from(["{}", "data: {}", '{{"x": {}}}', "see {} here", "{}"]), st.booleans()
)
def test_no_structure_hides_what_its_name_gives_away(document: Any, name: str, place: str, is_cut: bool) -> None:
    text = place.format(json.dumps({name: document}))
    text = text[: -len(text) // 4] if is_cut else text

    safe = redact_text(text)

    assert not any(pieces_in(secret, safe) for secret in texts_in(document) if len(secret) > 9)


@given(documents, planting.names)
def test_document_that_was_made_safe_once_stays_as_it_is(document: Any, name: str) -> None:
    once = redact_text(json.dumps({"x": {name: document}}))

    assert redact_text(once) == once


# -- what a client may pass off as a description


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", "Bearer secret 9 chars, pw hunter2-Xq"),
        ("x-api-key", "PAT 4 chars sha256:aaaaaaaaaaaa, pw hunter2"),
        ("x-api-key", "PAT 4 chars sha256:aaaaaaaaaaaa, sub hunter2"),
        ("x-api-key", "JWT 4 chars sha256:aaaaaaaaaaaa, pw hunter2"),
        ("x-api-key", "<codexpool:hunter2-Xq>"),
        ("cookie", "a=secret 1 chars, p hunter2"),
        ("cookie", "a=<codexpool:hunter2-Xq>"),
        ("password", "<client's own: hunter2>"),
    ],
)
def test_made_up_description_is_a_secret_like_any_other(name: str, value: str) -> None:
    assert "hunter2" not in redact_header(name, value)
    assert "hunter2" not in redact_text(json.dumps({name: value}))
    assert "hunter2" not in redact_text(f'{name}="{value}"')


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", "Bearer <codexpool:work-2>"),
        ("authorization", "Bearer <client's own: PAT 39 chars sha256:0123456789ab>"),
        (
            "authorization",
            "<client's own (2): JWT 800 chars sha256:0123456789ab, sub a|b, email ?email 01?, exp in 4 min>",
        ),
        ("chatgpt-account-id", "<codexpool:work>"),
        ("x-oai-attestation", "<codexpool:removed>"),
    ],
)
def test_what_the_pool_puts_in_the_place_of_secrets_can_be_read(name: str, value: str) -> None:
    assert redact_header(name, value) == value


# -- names, words and forms


@pytest.mark.parametrize(
    "text",
    [
        *(f"{name}=hunter2" for name in ("pw", "psk", "mfa", "2fa", "primary_key", "authorisation", "auth_code")),
        *(f"{name}=hunter2" for name in ("access-code", "pinCode", "verification_code", "ticket", "license")),
        *("session=hunter2-Xq", "token_name=hunter2-Xq", "/x?1token=hunter2", "/x?.token=hunter2", "?-token=hunter2"),
        *("--password=hunter2", "--api-key=hunter2", '"api key":"hunter2"', '"@password":"hunter2"'),
        *(
            "password            : hunter2",
            "pass\u200bword=hunter2",
            "to\x00ken=hunter2",
            "a\x1b[1mtoken\x1b[0m=hunter2",
        ),
        *("token%2525253Dhunter2", f"{'x' * 90}_password=hunter2", "--password hunter2", "password is hunter2"),
        *("curl -u bob:hunter2 https://h.example", "Incorrect API key provided: hunter2-Xq", "x-key: Token hunter2"),
        *("invalid token 'hunter2-Xq'", "Illegal header value b'hunter2-Xq'", "password: correct hunter2 battery"),
        *("Authorization: Bearer a hunter2-Xq", "Bearer hunter2", "//u:hunter2@x.y/", "bob:hunter2@db.example"),
    ],
)
def test_a_word_before_a_secret_gives_it_away(text: str) -> None:
    assert "hunter2" not in redact_text(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, f"{prefix}{HEX}")
            for name in ("x-request-id", "etag")
            for prefix in ("at-", "sk-", "shpat_", "key-")
        ),
        *(("x-foo", f"{prefix}{ALNUM}") for prefix in ("app-", "file-", "run_", "item_", "call-", "ws_")),
        *(("x-foo", f"{scheme} {ALNUM[:9]}") for scheme in ("Token", "ApiKey", "OAuth", "SSWS")),
        ("x-session", ALNUM),
        ("sec-websocket-protocol", f"realtime, openai-insecure-api-key.{ALNUM[:9]}, {ALNUM[:8]}"),
        ("set-cookie", f"a=b; domain={ALNUM[:8]}; path=/{ALNUM[:8]}"),
        ("code", "SplxlOBe"),
    ],
)
def test_what_only_looks_like_an_id_is_not_shown(name: str, value: str) -> None:
    safe = redact_header(name, value)

    assert not any(part in safe for part in (HEX, ALNUM[:8], "SplxlOBe"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", basic("bobthebuilder:1234567")),
        ("authorization", "Token token=hunter2-Xq"),
        ("x-foo", "Token token=hunter2-Xq"),
        ("x-api-key", "4111111111111111"),
        ("x-api-key", "4111-1111-1111-1111"),
        ("otp", '["123456","123457"]'),
        ("x-foo", '"otp":["123456","123457"]'),
        ("x-foo", "https://bobthebuilder:hunter2-Xq@h.example/"),
        ("x-foo", "password: it is hunter2, really"),
    ],
)
def test_secret_that_can_be_guessed_has_no_fingerprint(name: str, value: str) -> None:
    safe = redact_header(name, value)

    assert "secret" in safe
    assert "sha256" not in safe


def test_every_email_address_looks_the_same() -> None:
    assert redact_text("see sam@corp.example") == redact_text("see eve@corp.example") == "see <email>"


@pytest.mark.parametrize(
    "text",
    [
        "Invalid token: the token has expired",
        "password is required, the token is not valid, the secret was wrong",
        "Bearer token required",
        "Unexpected token '<', \"<html>\" is not valid JSON",
        "token_endpoint=https://auth.openai.com/oauth/token",
        "token_expires_at=1764000000&auth_method=oauth2&token_type=bearer",
        "code=TokenExpired, code=token_expired, code=invalidRequest",
        "session=01a1fc00-1111-7222-8333-444455556666",
        "the token expires in 4 min",
        '{"headers": ["accept", "x", "host"], "command": ["codexpool", "--at", "12"]}',
        '{"content":"line one\\nline two","items":[1, true]}',
        '{"required": ["token", "path"]}',
    ],
)
def test_text_about_secrets_stays_legible(text: str) -> None:
    assert redact_text(text) == text


# -- time

BLOCKS = [
    *('form-data; name="a"', 'form-data; name="a"%252525', "form-data; name=", "\r\n", "a: b\r\n", "%25", "%252525"),
    *(
        "token=",
        '"token":',
        "token=[",
        "token={",
        "[",
        '"',
        "'",
        "\\",
        '\\"',
        "email=",
        "code=",
        "token_name=",
        "<a=",
    ),
    *('"name":"key",', '"value":"x",', '"value":"', '["token",', '["token","', "<token a=b>", "<token>", "<a ", "</"),
    *("password: a ", "password ", "password is ", "token '", "--token ", "-u a", "-u a:", " ", "bearer ", "bearer+"),
    *("digest username=", "a@", "a@b.", "@", "://", "://a", "a.b", "a-", "x-a-", "cookie=", "x-a-authorization: "),
    *(
        "header value b'",
        "-----BEGIN PRIVATE KEY-----",
        "eyJ",
        "at-",
        "a",
        "aB1",
        "a[",
        "key[a]",
        "&#x41;",
        "\\u0041",
    ),
    *("\u200b", "\x1b[", "resp_a", "secret 9 chars, sub a", "JWT 9 chars sha256:aaaaaaaaaaaa, sub a", "token: the "),
    *("\u200bemail=", "email=%252525", "a@b%2525", '{"a":', "[[", '{"token":"a"},'),
]
"""What the patterns of the finder are made of."""


@pytest.mark.parametrize("block", BLOCKS)
def test_time_to_find_secrets_grows_as_the_text_does(block: str) -> None:
    # Four times the text takes about four times as long; where it grew with the square it would be sixteen times.
    for _ in range(5):
        short, long = (_seconds(block * (size // len(block))) for size in (LONGEST_READ // 2, 2 * LONGEST_READ))
        if long < 9 * short:
            return
    pytest.fail(f"{short:.4f} s for {LONGEST_READ // 2} characters, {long:.4f} s for {2 * LONGEST_READ}")


def _seconds(text: str) -> float:
    """The processor time that it takes, without what others on the machine do."""

    def once() -> float:
        begin = time.process_time()
        find_secrets(text)
        return time.process_time() - begin

    return min(once() for _ in range(3))


def test_cookies_are_read_no_further_than_other_values() -> None:
    many = f"a=b; {'x=y; ' * 200_000}"

    assert redact_header("cookie", many, full=True).endswith(f"… ({len(many)} chars)")
    assert len(redact_header("cookie", many, full=True)) < 20 * LONGEST_READ
