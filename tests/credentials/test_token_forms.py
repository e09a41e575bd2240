"""What people paste in place of a token is told apart, and what surrounds a token is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.credentials.token_forms import mistake, unwrapped
from codexpool.tokens.jwt import AUTH
from codexpool.tokens.member_key import new_key
from tests.running import pat
from tests.standin.agents import make, signed

TOKEN = pat("work").token
AGENT = make(pat("bot")).jwt()
OF_A_LOGIN = signed({"alg": "RS256"}, {AUTH: {"chatgpt_account_id": "acc", "chatgpt_user_id": "user"}})

MISTAKES = {
    "": "is empty",
    " \n": "is empty",
    f'"{TOKEN}"': "has quotes around it",
    f"“{TOKEN}”": "has quotes around it",
    f"{TOKEN}'": "has quotes around it",
    f"Bearer {TOKEN}": "begins with Bearer",
    f"Authorization: Bearer {TOKEN}": "begins with Bearer",
    f'{{"tokens": "{TOKEN}"}}': "is JSON, perhaps an auth.json",
    f"CODEX_ACCESS_TOKEN={TOKEN}": "is an assignment to a variable",
    f"export TOKEN={TOKEN}": "is an assignment to a variable",
    f"{TOKEN[:20]}\n{TOKEN[20:]}": "has a line break in it",
    f"{TOKEN[:20]}\r\n {TOKEN[20:]}": "has a line break in it",
    f"{TOKEN[:20]} {TOKEN[20:]}": "has a space in it",
    f"{TOKEN}\n": "has spaces or a line break around it",
    new_key(): "is the key of a member of a pool",
    "at-": "is not a complete token",
    "at-…": "is not a complete token",
    f"{TOKEN}\0": "is not a complete token",
    "codexpool-sk-0123456789": "is the key that encrypts logins in the state",
    "sk-proj-0123456789": "is an API key",
    "rt_0123456789": "is the refresh token of a login",
    OF_A_LOGIN: "is the access token of a ChatGPT login",
    signed({"alg": "RS256"}, {"sub": "x"}): "is a JWT, but neither",
    AGENT[:200]: "is an incomplete JWT",
    "0123456789": "does not start with at-",
}


@pytest.mark.parametrize(("text", "what"), MISTAKES.items(), ids=map(str, range(len(MISTAKES))))
def test_what_is_no_token_is_told_apart(text: str, what: str) -> None:
    form = mistake(text)

    assert form is not None
    assert form.what.startswith(what)
    assert form.remedy


@pytest.mark.parametrize("token", [TOKEN, AGENT], ids=["pat", "agent"])
def test_a_token_is_no_mistake(token: str) -> None:
    assert mistake(token) is None


AROUND = st.lists(st.sampled_from([" ", "\n", "\r\n", "\t", '"', "'", "`", "”", "Bearer ", "Authorization: Bearer "]))
AFTER = st.lists(st.sampled_from([" ", "\n", "\r\n", '"', "'", "”"]))


@given(AROUND, st.sampled_from([TOKEN, AGENT]), AFTER)
def test_what_surrounds_a_token_is_left_out(before: list[str], token: str, after: list[str]) -> None:
    assert unwrapped("".join([*before, token, *after]))[0] == token


def test_what_is_left_out_is_named() -> None:
    assert unwrapped(f' "Bearer {TOKEN}"\n') == (TOKEN, ("quotes", '"Bearer"'))
    assert unwrapped(f" {TOKEN}\n") == (TOKEN, ())


@given(st.text(max_size=60))
def test_a_text_without_anything_around_it_stays(text: str) -> None:
    once, _ = unwrapped(text)
    assert unwrapped(once) == (once, ())
