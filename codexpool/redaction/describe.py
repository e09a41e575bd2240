"""Describes secrets, and the claims of a JWT, without giving them away."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from codexpool.common.clock_skew import LATEST
from codexpool.redaction.find import decode, find_secrets
from codexpool.tokens.bearer import fingerprint
from codexpool.tokens.jwt import AUTH, payload_of

FINGERPRINTED: Final = 16  # characters from which on a fingerprint is shown: it would help to guess a shorter secret

_PIECE: Final = re.compile(r"[^\s\"'\[\]{}(),:;=&]+")
"""The parts of a secret: each of them could be guessed by itself."""

EMAIL: Final = "<email>"  # every address looks the same: a digest would confirm a guessed one
PROFILE: Final = "https://api.openai.com/profile"  # the claim with the email address
LONGEST_CLAIM: Final = 90  # characters of a claim that are shown

_KINDS: Final = (
    ("member key", re.compile(r"(?i)at-pool-")),
    ("PAT", re.compile(r"(?i)at-")),
    ("refresh token", re.compile(r"(?i)rt_")),
    ("API key", re.compile(r"sk-|sess-")),
    ("GitHub token", re.compile(r"gh[pousr]_|github_pat_")),
    ("AWS key", re.compile(r"AKIA|ASIA")),
    ("private key", re.compile(r"-----BEGIN |M\w{3}AQ[AE]wBQYDK2Vw")),
)
"""Kinds of secrets, and how they begin."""

_UNCLAIMED: Final = re.compile(r"[^\w.@:/| -]")


def describe_secret(secret: str, other: str = "secret") -> str:
    """Describe a secret without giving it away: ``PAT 48 chars sha256:1a2b3c4d5e6f``. The claims of a JWT are added.

    ``other`` names a secret of an unknown kind.
    """
    bare = decode(secret).strip().strip("\"'")
    claims = _claims(bare)
    kind = "JWT" if claims is not None else next((kind for kind, begins in _KINDS if begins.match(bare)), other)
    parts = [f"{kind} {len(bare)} char{'s' * (len(bare) != 1)}"]
    if not _can_be_guessed(bare):
        parts[0] += f" sha256:{fingerprint_of(bare)}"
    return ", ".join([*parts, *(claims or ())])


def _can_be_guessed(secret: str) -> bool:
    """Return whether the secret, or a part of it, could be found from its fingerprint by trying."""
    if secret.startswith("-----BEGIN "):
        return False
    pieces = _PIECE.findall(_pair(secret) or secret)
    return not any(map(str.isalpha, secret)) or min(map(len, pieces), default=0) < FINGERPRINTED


def _pair(secret: str) -> str:
    try:
        pair = base64.b64decode(secret + "=" * (-len(secret) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return pair if ":" in pair else ""


def fingerprint_of(text: str) -> str:
    """Return the fingerprint of any text, even if it is not valid Unicode."""
    return fingerprint(text.encode("utf-8", "backslashreplace").decode())


@lru_cache(maxsize=128)
def _claims(token: str) -> tuple[str, ...] | None:
    """Return the claims of a JWT in a few words each; None for anything else."""
    if not token.startswith("eyJ"):
        return None
    try:
        document = payload_of(token)
    except ValueError:
        return None
    return tuple(f"{label} {text}" for label, text in _claim_texts(document) if text)


def _claim_texts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    auth, profile = _table(document.get(AUTH)), _table(document.get(PROFILE))
    email = document.get("email") or profile.get("email")
    yield "sub", _text(document.get("sub"))
    if isinstance(email, str):
        yield "email", EMAIL
    yield "account", _text(auth.get("chatgpt_account_id"))
    yield "user", _text(auth.get("chatgpt_user_id") or auth.get("user_id"))
    yield "plan", _text(auth.get("chatgpt_plan_type"))
    if auth.get("chatgpt_account_is_fedramp") is True:
        yield "fedramp", "true"
    yield "client", _text(document.get("client_id"))
    yield "iss", _text(document.get("iss"))
    yield from ((name, _moment(document.get(name))) for name in ("iat", "nbf", "exp"))


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """Return a redacted claim, with nothing in it that could pass for another part of the description."""
    if not isinstance(value, str):
        return ""
    text = replace_secrets(value, lambda piece: _UNCLAIMED.sub("?", piece))
    return text if len(text) <= LONGEST_CLAIM else f"of {len(value)} chars"


def _moment(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        return ""
    return datetime.fromtimestamp(int(value), UTC).strftime("%Y-%m-%d %H:%M UTC")


def replace_secrets(text: str, safe: Callable[[str], str]) -> str:
    """Return the text with its secrets described, and ``safe`` applied to what is between them."""
    pieces: list[str] = []
    at = 0
    for secret in find_secrets(text):
        pieces.append(safe(text[at : secret.begin]))
        pieces.append(EMAIL if secret.is_email else f"<{describe_secret(secret.text)}>")
        at = secret.end
    pieces.append(safe(text[at:]))
    return "".join(pieces)
