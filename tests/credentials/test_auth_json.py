"""Every auth.json that Codex writes is read, and written back with nothing lost."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.common.private_files import UnusableError
from codexpool.credentials.auth_json import MODES, Login, parse, renewed, text_of
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.jwt import AUTH, claims_of
from tests.standin.logins import access_token, auth_json, make_jwt
from tests.standin.tokens import Token

PAT = "at-test-0123456789abcdef"
OWNER = Token("", "acc-one", "user-one", plan="team", fedramp=True)


def bundle(**more: Any) -> dict[str, Any]:
    return {**auth_json(Token(access_token(OWNER), "acc-one", "user-one", "team", True), "rt_test-1"), **more}


def login(document: object) -> Login:
    read = parse(json.dumps(document))
    assert isinstance(read, Login)
    return read


@pytest.mark.parametrize("document", [bundle(), {**bundle(), "auth_mode": None}, bundle(auth_mode="chatgpt")])
def test_an_oauth_bundle_says_whose_it_is_and_until_when(document: dict[str, Any]) -> None:
    read = login(document)
    assert (read.account_id, read.user_id, read.plan, read.fedramp) == ("acc-one", "user-one", "team", True)
    assert read.expires_at == claims_of(document["tokens"]["access_token"]).expires_at
    assert read.expires_within(11 * 86_400, time.time())
    assert not read.expires_within(86_400, time.time())
    assert "rt_test" not in repr(read)
    assert "eyJ" not in repr(read)


@pytest.mark.parametrize(
    "document",
    [
        {"OPENAI_API_KEY": None, "personal_access_token": PAT},
        {"auth_mode": "personalAccessToken", "personal_access_token": PAT},
        {"personal_access_token": PAT, "OPENAI_API_KEY": "sk-test", "tokens": {}},
    ],
)
def test_a_personal_access_token_is_found_in_either_form(document: dict[str, Any]) -> None:
    assert parse(json.dumps(document)) == Bearer.of(PAT)


def test_without_a_mode_codexs_first_choice_counts() -> None:
    with pytest.raises(UnusableError, match="Amazon Bedrock"):
        parse(json.dumps(bundle(auth_mode=None, bedrock_api_key={"x": 1})))
    with pytest.raises(UnusableError, match="an API key"):
        parse(json.dumps(bundle(auth_mode=None, OPENAI_API_KEY="sk-test")))


@pytest.mark.parametrize("mode", [mode for mode, reason in MODES.items() if reason])
def test_a_mode_that_cannot_be_pooled_is_refused_with_its_reason(mode: str) -> None:
    with pytest.raises(UnusableError) as refused:
        parse(json.dumps(bundle(auth_mode=mode)))
    assert MODES[mode] in refused.value.what
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (None, "has no access token"),
        ([], "has no access token"),
        ({"access_token": "x"}, "has no refresh token"),
        ({"access_token": "x", "refresh_token": "y"}, "has an id_token that cannot be read"),
        ({"access_token": "x", "refresh_token": "y", "id_token": make_jwt({})}, "does not name its account"),
        ({"access_token": "x\ny", "refresh_token": "y", "id_token": make_jwt({})}, "has no access token"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(tokens: object, said: str) -> None:
    with pytest.raises(UnusableError) as refused:
        parse(json.dumps({"auth_mode": "chatgpt", "tokens": tokens}))
    assert said in refused.value.what


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_whatever_a_file_holds_it_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UnusableError):
        parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["auth_mode", "tokens", "personal_access_token", "OPENAI_API_KEY", "last_refresh"]), JSON
    )
)
def test_whatever_json_it_is_it_is_read_or_refused(document: dict[str, Any]) -> None:
    with contextlib.suppress(UnusableError):
        parse(json.dumps(document))


@given(st.dictionaries(st.text(min_size=1), JSON, max_size=4), st.dictionaries(st.text(min_size=1), JSON, max_size=4))
def test_a_renewal_keeps_every_field_it_does_not_know(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    first = bundle()
    document = {**outer, **first, "tokens": {**inner, **first["tokens"]}}
    at = 1_800_000_000.5

    fresh = renewed(login(document), {"access_token": access_token(OWNER), "refresh_token": "rt_test-2"}, at)

    kept = json.loads(text_of(fresh.document))
    assert kept["tokens"]["refresh_token"] == fresh.refresh_token == "rt_test-2"
    assert kept["tokens"]["id_token"] == first["tokens"]["id_token"]  # what was not given stays
    assert kept["last_refresh"] == "2027-01-15T08:00:00.500000Z"
    changed = {"last_refresh", "tokens"}
    assert {k: v for k, v in kept.items() if k not in changed} == {
        k: v for k, v in document.items() if k not in changed
    }
    assert {**document["tokens"], **kept["tokens"]} == kept["tokens"]
    assert {k: kept["tokens"][k] for k in inner if k not in first["tokens"]} == {
        k: v for k, v in inner.items() if k not in first["tokens"]
    }


def test_an_answer_that_is_half_usable_is_half_used() -> None:
    access = access_token(OWNER)
    fresh = renewed(login(bundle()), {"access_token": access, "refresh_token": "rt_test-2", "id_token": "x"}, 0)
    assert (fresh.access, fresh.refresh_token) == (Bearer.of(access), "rt_test-2")
    assert fresh.account_id == "acc-one"


def test_tokens_that_name_no_owner_are_unusable() -> None:
    with pytest.raises(UnusableError, match="names its account and user"):
        renewed(login(bundle()), {"access_token": "opaque", "refresh_token": "rt_test-2", "id_token": "x"}, 0)


def test_a_renewal_for_another_workspace_says_so() -> None:
    other = Token("", "acc-other", "user-one")
    fresh = renewed(login(bundle()), {"access_token": access_token(other), "id_token": access_token(other)}, 0)
    assert fresh.account_id == "acc-other"


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "..", "a.W10.c", "at-test-x"])
def test_what_is_no_jwt_has_no_claims(token: str) -> None:
    with pytest.raises(ValueError, match=r"not three parts|its second part"):
        claims_of(token)


@pytest.mark.parametrize("exp", [10**400, float("inf"), float("nan"), 1e12, True])
def test_a_time_that_there_is_not_is_no_end_of_a_token(exp: float) -> None:
    said = json.dumps({"exp": exp, AUTH: {"chatgpt_account_id": "acc\r\nx: y", "user_id": "user-\ud800"}})

    claims = claims_of(f"a.{base64.urlsafe_b64encode(said.encode()).decode()}.c")

    assert claims.expires_at is None
    assert (claims.account_id, claims.user_id) == ("", "")  # Neither can be sent.
