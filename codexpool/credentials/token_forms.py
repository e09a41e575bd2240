"""Recognizes what people give in place of a token, and what they copy along with one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from codexpool.credentials import PREFIX
from codexpool.credentials.agent_identity import is_agent_jwt
from codexpool.tokens import member_key, state_keys
from codexpool.tokens.jwt import claims_of, is_jwt


class Form(NamedTuple):
    """Something that is no usable token: what it is (``is an API key``), and what to do instead."""

    is_it: Callable[[str], object]
    what: str
    remedy: str


_COPY_AGAIN: Final = "copy it again"
_PAT: Final = f"use a personal access token ({PREFIX}…)"
_LOG_IN: Final = "for a ChatGPT login of its own: codexpool login NAME"


def _is_token_of_a_login(text: str) -> bool:
    try:
        claims = claims_of(text)
    except ValueError:
        return False
    return bool(claims.account_id or claims.user_id)


MEMBER_KEY: Final = Form(
    lambda text: text.startswith(member_key.PREFIX),
    "is the key of a member of a pool",
    "a client sets it as CODEX_ACCESS_TOKEN; give the identity a token of its own account",
)

# The first row that matches counts. `is_agent_jwt` comes first of all: that is a token, and no mistake.
FORMS: Final = (
    Form(lambda text: not text.strip(), "is empty", _PAT),
    Form(
        re.compile(r"\s*[\"'`“”‘’«»„]|.*[\"'`“”‘’«»„]\s*\Z", re.DOTALL).match,
        "has quotes around it",
        "remove the quotes",
    ),
    Form(re.compile(r"(?i)\s*(authorization\s*:|bearer\b)").match, "begins with Bearer", "leave that out"),
    Form(re.compile(r"\s*[\[{]").match, "is JSON, perhaps an auth.json", "codexpool add NAME --auth-json PATH"),
    Form(
        re.compile(r"\s*(export\s|set\s|\$env:)?\s*[A-Za-z_]\w*\s*=\s*[^\s=]").match,
        "is an assignment to a variable",
        "use what is behind the = only",
    ),
    Form(re.compile(r".*\S\s*[\r\n]+\s*\S", re.DOTALL).match, "has a line break in it", "put it on one line"),
    Form(re.compile(r".*\S\s+\S", re.DOTALL).match, "has a space in it", "remove the space"),
    Form(lambda text: text.strip() != text, "has spaces or a line break around it", "remove them"),
    MEMBER_KEY,
    Form(lambda text: text == PREFIX, "is not a complete token", _COPY_AGAIN),
    Form(
        lambda text: not (text.isascii() and text.isprintable()),
        "is not a complete token",
        f"{_COPY_AGAIN}; it is printable ASCII",
    ),
    Form(
        lambda text: text.startswith(state_keys.PREFIX),
        "is the key that encrypts logins in the state",
        f"set it as {state_keys.VARIABLE}; for an identity, {_PAT}",
    ),
    Form(re.compile(r"sk-|sess-").match, "is an API key, which is for api.openai.com and not for ChatGPT", _PAT),
    Form(
        re.compile(r"(?i)rt_").match,
        "is the refresh token of a login, which works once, and for one program only",
        _LOG_IN,
    ),
    Form(
        _is_token_of_a_login,
        "is the access token of a ChatGPT login, which soon expires and cannot be renewed without the login",
        _LOG_IN,
    ),
    Form(is_jwt, "is a JWT, but neither of a ChatGPT login nor of an agent identity", _PAT),
    Form(re.compile(r"eyJ").match, "is an incomplete JWT", f"{_COPY_AGAIN}, or use --token-stdin < FILE"),
    Form(
        lambda text: not text.startswith(PREFIX),
        f"does not start with {PREFIX}",
        "use a complete personal access token, or the complete JWT of an agent identity",
    ),
)


def mistake(text: str) -> Form | None:
    """Return what a text is that is no token; None for a personal access token or the JWT of an agent identity."""
    if is_agent_jwt(text):
        return None
    return next((form for form in FORMS if form.is_it(text)), None)


_AROUND: Final = (
    ("spaces", re.compile(r"\A\s+|\s+\Z")),
    ("quotes", re.compile(r"\A[\"'`“”‘’«»„]+|[\"'`“”‘’«»„]+\Z")),
    ('"Bearer"', re.compile(r"(?i)\A(authorization\s*:\s*)?bearer\s+|\Aauthorization\s*:")),
)


def unwrapped(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a token without what was copied along with it, and the names of that, except for spaces."""
    found: dict[str, None] = {}
    before = None
    while text != before:
        before = text
        for name, pattern in _AROUND:
            shorter = pattern.sub("", text)
            if shorter != text and name != "spaces":
                found[name] = None
            text = shorter
    return text, tuple(found)
