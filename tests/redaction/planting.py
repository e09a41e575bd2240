"""Secrets of every kind, made up, and the places where people and programs leave them; for property tests."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from hypothesis import strategies as st

PIECE: Final = 12
"""Characters of a secret that must not be seen in a row."""


def pieces_in(secret: str, text: str) -> list[str]:
    """The pieces of a secret that can be read in a text."""
    size = min(PIECE, len(secret))
    return [secret[i : i + size] for i in range(len(secret) - size + 1) if secret[i : i + size] in text]


def part(document: object) -> str:
    """A part of a JSON Web Token."""
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def jwt(claims: dict[str, Any], signature: str = "bm8tc2lnbmF0dXJlLWlzLXNob3du") -> str:
    """A JSON Web Token with these claims."""
    return ".".join([part({"alg": "RS256", "typ": "JWT"}), part(claims), signature])


randoms = st.integers(0, 2**64).map(lambda seed: hashlib.shake_256(str(seed).encode()))
"""A source of bytes without any pattern, as keys are made of."""


def _base64(source: Any) -> str:
    return base64.b64encode(source.digest(33)).decode()


def _urlsafe(source: Any) -> str:
    return base64.urlsafe_b64encode(source.digest(33)).decode()


def _alnum(source: Any, size: int) -> str:
    signs = string.ascii_letters + string.digits
    return "".join(signs[byte % len(signs)] for byte in source.digest(size))


recognised = st.one_of(
    randoms.map(lambda source: f"at-{_urlsafe(source)}"),
    randoms.map(lambda source: f"at-pool-{_alnum(source, 32)}"),
    randoms.map(lambda source: f"rt_{_alnum(source, 48)}"),
    randoms.map(lambda source: f"sk-{_alnum(source, 48)}"),
    randoms.map(lambda source: f"sk-proj-{_urlsafe(source)}"),
    randoms.map(lambda source: f"ghp_{_alnum(source, 36)}"),
    randoms.map(lambda source: f"github_pat_{_alnum(source, 22)}_{_alnum(source, 59)}"),
    randoms.map(lambda source: f"AKIA{_alnum(source, 16).upper()}"),
    randoms.map(lambda source: jwt({"sub": "user", "nonce": _alnum(source, 20)}, _urlsafe(source))),
    randoms.map(lambda source: f"eyJ{_alnum(source, 40)}"),
)
"""Secrets that their beginning gives away."""

keys = st.one_of(
    randoms.map(lambda source: str(source.hexdigest(32))),
    randoms.map(lambda source: str(source.hexdigest(20)).upper()),
    randoms.map(_base64),
    randoms.map(_urlsafe),
    randoms.map(lambda source: _alnum(source, 40)),
)
"""Secrets that nothing gives away but that they mean nothing."""

passwords = randoms.map(lambda source: f"{_alnum(source, 7)}!{_alnum(source, 6)}")
"""Secrets that only the name before them gives away."""

emails = randoms.map(lambda source: f"{_alnum(source, 10).lower()}.jones@mail.example-corp.com")
"""The addresses of people."""

names = st.sampled_from(
    [
        *("token", "access_token", "refreshToken", "id-token", "client_secret", "Secret", "PASSWORD", "api_key"),
        *("apikey", "X-Api-Key", "auth", "x-auth", "credential", "signature", "sig", "cookie", "session_token"),
        *("client_assertion", "attestation", "OPENAI_API_KEY", "agent_private_key", "passwd", "csrfToken", "key"),
    ]
)
"""Names that make their value a secret."""


def escaped(secret: str) -> str:
    """A secret as JSON may have it: with a code for every sign."""
    return "".join(f"\\u{ord(sign):04x}" for sign in secret)


def percent_encoded(secret: str) -> str:
    """A secret as a query may have it: with a code for every third sign."""
    return "".join(sign if i % 3 else f"%{ord(sign):02X}" for i, sign in enumerate(secret))


def in_entities(secret: str) -> str:
    """A secret as a page may have it: with an entity for whatever is no letter."""
    return "".join(sign if sign.isalpha() else f"&#x{ord(sign):x};" for sign in secret)


codings: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [
        str,
        lambda text: quote(text, safe=""),
        percent_encoded,
        escaped,
        lambda text: quote(percent_encoded(text), safe=""),
        in_entities,
    ]
)
"""How a secret may be written."""

bare_places = st.sampled_from(
    [
        *("{}", "the token {} is not valid", "'{}'", '"{}"', "({})", "a,{},b", "x={}", "failed: {}. Log in again"),
        *("https://chatgpt.com/backend-api/x?state={}&y=1", "/a/b/{}/c", "https://user:{}@host.example/x", "[{}]"),
        *('{{"detail": ["a", "{}"], "n": 1}}', '{{"text": "see {}"}}', "line\nnext {}\n", "b'{}'", "\\n{}\\n"),
        *("<p>{}</p>", "user-agent: x ({})", "name={}; path=/", "https://h.example/#{}", "{}@host", "Basic {}"),
    ]
)
"""Where a secret may be that is recognized by itself."""

named_places = st.sampled_from(
    [
        *("{name}={}", "https://chatgpt.com/x?a=1&{name}={}&b=2", "{name}: {}", '{{"{name}": "{}"}}', "{name}='{}'"),
        *(
            '{{"a": {{"{name}":"{}"}}}}',
            '{{"body": "{{\\"{name}\\": \\"{}\\"}}"}}',
            "a=b&{name}={}",
            "{{'{name}': '{}'}}",
        ),
        *(
            "%7B%22{name}%22%3A%22{}%22%7D",
            "<{name}>{}</{name}>",
            '{{"{name}": ["{}"]}}',
            "error near {name}={}, sorry",
        ),
        '{{"name": "{name}", "value": "{}"}}',
        'form-data; name="{name}"\r\n\r\n{}\r\n--b',
    ]
)
"""Where a secret may be that its name gives away."""
