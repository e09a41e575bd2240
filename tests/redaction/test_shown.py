"""No secret is ever shown, and everything else is: both are promises."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.redaction.describe import describe_secret
from codexpool.redaction.redact import LONGEST, redact_header, redact_text
from codexpool.redaction.secret_names import names_secret
from codexpool.tokens.bearer import fingerprint
from tests.redaction import planting
from tests.redaction.planting import jwt, pieces_in

AT = 1764000000.0
PAT = "at-test-work-0123456789abcdef0123456789"
SESSION = "01a1fc00-1111-7222-8333-444455556666"

readable = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "Zs")), max_size=20)


def nothing_of(secret: str, text: str) -> bool:
    """Return whether nothing of a secret is in a text, in any decoding."""
    views = [text, unquote(text), unquote(unquote(text))]
    views += [re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), view) for view in views]
    views += [html.unescape(view) for view in views]
    return not any(pieces_in(secret, view) for view in views)


# -- secrets


@given(planting.recognised | planting.keys, planting.codings, planting.bare_places, readable)
def test_nothing_is_left_of_a_secret_in_any_text(
    secret: str, coded: Callable[[str], str], place: str, around: str
) -> None:
    text = f"{around} {place.format(coded(secret))}"

    assert nothing_of(secret, redact_text(text))


@given(planting.passwords, planting.names, planting.named_places, st.booleans())
def test_nothing_is_left_of_what_a_name_gives_away(secret: str, name: str, place: str, encoded: bool) -> None:
    value = planting.percent_encoded(secret) if encoded else secret

    assert nothing_of(secret, redact_text(place.format(value, name=name)))


@given(
    planting.recognised | planting.keys | planting.passwords,
    st.sampled_from(
        [
            *(
                "authorization",
                "Proxy-Authorization",
                "x-openai-actor-authorization",
                "x-oai-attestation",
                "x-api-key",
            ),
            *("x-auth-token", "X-Client-Secret", "x-openai-internal-something", "x-codex-turn-state", "password"),
        ]
    ),
    st.sampled_from(
        ["{}", '"{}"', "Bearer {}", "bearer  {}", "Basic {}", "AgentAssertion {}", "Strange {}", "{}, {}"]
    ),
)
def test_nothing_is_left_of_the_value_of_a_telling_header(secret: str, name: str, form: str) -> None:
    assert nothing_of(secret, redact_header(name, form.format(secret, secret)))


@given(
    planting.recognised | planting.keys,
    st.sampled_from(["user-agent", "originator", "x-codex-turn-metadata", "x-foo", "referer", "accept", "baggage"]),
    planting.codings,
    planting.bare_places,
)
def test_nothing_is_left_of_a_secret_in_a_header_that_is_shown(
    secret: str, name: str, coded: Callable[[str], str], place: str
) -> None:
    assert nothing_of(secret, redact_header(name, place.format(coded(secret))))


@given(
    planting.recognised | planting.keys | planting.passwords,
    st.sampled_from(["a={}", "a=1; b={}; c=2", "{}", "a={}; path=/; HttpOnly", "x=y; path={}", "a=1; domain={}"]),
    st.sampled_from(["cookie", "Set-Cookie"]),
    planting.codings,
)
def test_nothing_is_left_of_a_cookie(secret: str, form: str, name: str, coded: Callable[[str], str]) -> None:
    assert nothing_of(secret, redact_header(name, form.format(coded(secret))))


@given(planting.emails, st.sampled_from([str, lambda text: text.replace("@", "%40")]), planting.bare_places)
def test_no_address_of_a_person_is_left(email: str, coded: Callable[[str], str], place: str) -> None:
    assert nothing_of(email, redact_text(place.format(coded(email))))


@pytest.mark.parametrize(
    "text",
    [
        'Authorization: Digest username="sam", realm="x", response="hunter2hunter2"',
        "cookie: a=hunter2hunter2; b=hunter2hunter2",
        "proxy-authorization: Basic aHVudGVyMmh1bnRlcjI6",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2hunter2\n-----END RSA PRIVATE KEY-----",
        "https://sam:hunter2hunter2@chatgpt.com/",
        "https://hunter2hunter2@chatgpt.com/",
        '{"password": "hunter2\\"hunter2hunter2"}',
        '{"password": "hunter2hunter2',
        "/callback?code=hunter2hunter2&state=1",
        "[(b'cookie', b'a=hunter2hunter2')]",
        '["x-api-key", "hunter2hunter2"]',
        "cookie: secret 4 chars; b=hunter2hunter2",
        "authorization: Bearer hunter2hunter2",
        "password=hunter2 12 chars",
        '{"passcode": 123456789012}',
    ],
)
def test_what_is_no_token_but_a_secret_all_the_same_is_not_shown(text: str) -> None:
    safe = redact_text(text)

    assert "hunter2" not in safe
    assert "aHVudGVy" not in safe
    assert "123456789012" not in safe


@given(planting.recognised | planting.keys, planting.bare_places)
def test_what_was_made_safe_once_stays_as_it_is(secret: str, place: str) -> None:
    once = redact_text(place.format(secret))

    assert redact_text(once) == once


@given(
    planting.recognised | planting.keys | planting.passwords, st.sampled_from(["authorization", "cookie", "x-key"])
)
def test_header_that_was_made_safe_once_stays_as_it_is(secret: str, name: str) -> None:
    once = redact_header(name, f"Bearer {secret}" if name == "authorization" else f"a={secret}")

    assert redact_header(name, once) == once


# -- what is shown in their place


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Authorization", f"Bearer {PAT}", f"Bearer PAT 39 chars sha256:{fingerprint(PAT)}"),
        ("authorization", f'Bearer "{PAT}"', f"Bearer PAT 39 chars sha256:{fingerprint(PAT)}"),
        ("authorization", "Basic dXNlcjpwYXNz", "Basic secret 12 chars"),
        ("authorization", "Bearer <codexpool:work>", "Bearer <codexpool:work>"),
        ("authorization", "", ""),
        ("cookie", "__cf_bm=x; empty=", "__cf_bm=secret 1 char; empty="),
        (
            "set-cookie",
            "__cf_bm=abc; path=/; expires=Wed, 25-Nov-26 01:02:03 GMT; HttpOnly; SameSite=None",
            "__cf_bm=secret 3 chars; …",
        ),
        (
            "x-codex-turn-state",
            "turn-acc-work-0000001",
            f"opaque 21 chars sha256:{fingerprint('turn-acc-work-0000001')}",
        ),
        (
            "x-error-json",
            "eyJlcnJvciI6eyJjb2RlIjoidG9rZW5fZXhwaXJlZCJ9fQ==",
            'base64 of {"error": {"code": "token_expired"}}',
        ),
    ],
)
def test_secret_is_shown_as_kind_length_and_fingerprint(name: str, value: str, expected: str) -> None:
    assert redact_header(name, value) == expected


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        ("at-pool-0123456789abcdef", "member key"),
        ("rt_0123456789abcdef", "refresh token"),
        ("sk-proj-0123456789abcdef", "API key"),
        ("ghp_0123456789abcdef", "GitHub token"),
        ("AKIA0123456789ABCDEF", "AWS key"),
        ("correct-horse-battery", "secret"),
    ],
)
def test_each_kind_of_secret_has_its_name(secret: str, kind: str) -> None:
    assert describe_secret(secret) == f"{kind} {len(secret)} chars sha256:{fingerprint(secret)}"


def test_a_short_secret_has_no_fingerprint() -> None:
    assert describe_secret("hunter2") == "secret 7 chars"


def test_token_says_what_is_in_it_and_its_signature_is_dropped() -> None:
    # Given
    token = jwt(
        {
            "sub": "auth0|65f0c9d2",
            "email": "sam@corp.example",
            "iat": AT - 3 * 3600,
            "exp": AT + 240,
            "https://api.openai.com/auth": {"chatgpt_account_id": SESSION, "chatgpt_plan_type": "business"},
        }
    )
    # When
    safe = redact_header("authorization", f"Bearer {token}")
    # Then
    assert safe.startswith(
        f"Bearer JWT {len(token)} chars sha256:{fingerprint(token)}, sub auth0|65f0c9d2, email <email>"
    )
    assert safe.endswith(f">, account {SESSION}, plan business, iat 2025-11-24 13:00 UTC, exp 2025-11-24 16:04 UTC")
    assert token.rpartition(".")[2] not in safe
    assert "sam" not in safe


def test_claim_that_is_a_secret_itself_is_not_shown() -> None:
    claims = {"sub": f"{'many words ' * 6}{PAT}", "client_id": "0123456789abcdefABCDEF0123456789", "iss": f"x {PAT}"}

    safe = describe_secret(jwt(claims))

    assert not pieces_in(PAT, safe)
    assert not pieces_in(claims["client_id"], safe)
    assert describe_secret(jwt({"sub": "word " * 40})).endswith(", sub of 200 chars")


@pytest.mark.parametrize("exp", [float("nan"), float("inf"), -1, 10**400, True, "soon", None, [], 1e300])
def test_an_impossible_expiry_is_not_shown(exp: object) -> None:
    assert "exp" not in describe_secret(jwt({"exp": exp}))


@given(planting.keys, planting.keys)
def test_equal_secrets_look_equal_and_others_do_not(one: str, other: str) -> None:
    same = redact_header("authorization", f"Bearer {one}") == redact_header("authorization", f"Bearer {other}")

    assert same == (one == other)


# -- what has to stay legible


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user-agent", "codex_exec/0.169.0 (Debian 12.0.0; x86_64) dumb (codex_exec; 0.169.0)"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0"),
        ("session-id", SESSION),
        ("x-codex-window-id", f"{SESSION}:0"),
        ("x-request-id", "req_0123456789abcdef0123456789abcdef"),
        ("cf-ray", "8f1c2d3e4f5a6b7c-FRA"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("etag", 'W/"0123456789abcdef0123456789abcdef"'),
        ("x-codex-routing-hint", "model=gpt-5.1-codex-max;tier=priority"),
        ("openai-beta", "responses_websockets=2026-02-06"),
        ("content-type", "application/json; charset=utf-8"),
        ("cache-control", "private, no-store, no-cache, must-revalidate, max-age=0"),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits; server_no_context_takeover"),
        ("chatgpt-account-id", "acc-work"),
        ("date", "Tue, 24 Nov 2026 16:00:00 GMT"),
        ("x-codex-primary-reset-at", "1764000000"),
        ("x-ratelimit-remaining-tokens", "149984"),
        ("x-openai-authorization-error", "token_revoked"),
        ("access-control-allow-credentials", "true"),
        ("x-codex-beta-features", "remote_compaction_v2"),
        (
            "x-codex-turn-metadata",
            json.dumps(
                {
                    "installation_id": SESSION,
                    "session_id": SESSION,
                    "turn_id": SESSION,
                    "window_id": f"{SESSION}:0",
                    "sandbox": "seccomp",
                    "model": "gpt-5.1-codex-max",
                    "request_kind": "turn",
                    "turn_started_at_unix_ms": 1764000000123,
                    "workspaces": {"/home/sam/src/some-project": {"has_changes": True}},
                }
            ),
        ),
    ],
)
def test_header_that_is_no_secret_is_shown_as_it_is(name: str, value: str) -> None:
    assert redact_header(name, value) == value


@pytest.mark.parametrize(
    "text",
    [
        "https://chatgpt.com/backend-api/codex/models?client_version=0.169.0",
        "/backend-api/ps/plugins/installed?limit=200&includeDownloadUrls=true",
        "401 token_revoked on codex/responses, confirmed by whoami",
        "work needs_replacement: 401. Put a new token at …/pool.toml:4, or: codexpool replace work",
        'token = "sha256:1a2b3c4d5e6f"',
        f"session {SESSION}: sent again, work -> spare",
        '{"error": {"code": "token_expired", "type": "invalid_request_error", "resets_at": 1764000000}}',
        '{"usage": {"input_tokens": 123, "output_tokens_details": {"reasoning_tokens": 0}}}',
        f'{{"prompt_cache_key": "{SESSION}", "include": ["reasoning.encrypted_content"]}}',
        "resp_0123456789abcdef0123456789abcdef0123456789abcdef",
        "user-AbCdEfGh0123456789012345",
        "2026-11-25T01:02:03.456789Z",
        "Bearer authentication is required",
        "grant_type=refresh_token&token_type=bearer&client_id=app_EMoamEEZ73f0CkXaXp7hrann",
    ],
)
def test_text_without_a_secret_is_shown_as_it_is(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "name",
    [
        *("access_token", "accessToken", "ACCESS-TOKEN", "x-api-key", "apikey", "API Key", "client_secret", "passwd"),
        *("x-auth", "sig", "X-Amz-Signature", "cookie", "x-oai-attestation", "user_code", "PHPSESSID", "privateKey"),
        *(
            "Proxy-Authorization",
            "oauth_verifier",
            "session[token]",
            "client-assertion",
            "sshkey",
            "csrfmiddlewaretoken",
        ),
    ],
)
def test_name_is_telling(name: str) -> None:
    assert names_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("session-id", "sessionId", "author", ":authority", "monkey", "keyboard", "prompt_cache_key", "token_type"),
        *(
            "x-openai-authorization-error",
            "auth_mode",
            "public-key",
            "input_tokens_details",
            "token_endpoint",
            "passage",
        ),
        *("user", "compass", "design", "spinner", "status_code", "secret_version", "assigned", "turn_id", "", "-"),
    ],
)
def test_name_is_not_telling(name: str) -> None:
    assert not names_secret(name)


@pytest.mark.parametrize("value", ["true", "null", "", "none", "Required"])
def test_word_that_is_no_secret_is_shown_whatever_its_name(value: str) -> None:
    assert redact_header("x-api-key", value) == value


# -- a terminal, and a line


@given(st.text(max_size=60))
def test_nothing_that_a_terminal_obeys_is_shown(text: str) -> None:
    assert redact_text(text).isprintable()
    assert redact_header("x-foo", text).isprintable()
    assert redact_header("cookie", text).isprintable()
    assert redact_header("authorization", text).isprintable()


@given(st.text(max_size=30_000))
def test_long_value_is_shortened_and_says_so(text: str) -> None:
    safe = redact_header("x-foo", text)

    assert len(safe) <= 4 * LONGEST
    assert redact_header("x-foo", text) == safe


def test_long_values_that_differ_at_their_end_look_different() -> None:
    words = "many words " * 50

    one, other = redact_header("x-foo", f"{words}one"), redact_header("x-foo", f"{words}two")

    assert one != other
    assert len(one) <= LONGEST


@given(planting.recognised | planting.keys, st.integers(0, 60))
def test_nothing_is_left_of_a_secret_cut_at_the_bound(secret: str, at: int) -> None:
    text = f"{'word ' * 1638}{'w' * (at % 5)} {secret}"[: 8192 + 5 + at] + f" {secret}"

    assert nothing_of(secret, redact_text(text))


@pytest.mark.parametrize("header", ["x-foo", "authorization", "cookie", "password"])
def test_value_that_is_no_proper_text_can_be_shown(header: str) -> None:
    assert redact_header(header, "caf\xe9 \udce9\ud800 0123456789").isprintable()
