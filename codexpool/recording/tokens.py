"""Stand-ins for what has more inside than one value: JSON Web Tokens, user and password in HTTP's basic scheme."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any, Final

from codexpool.recording import shapes

JWT: Final = re.compile(r"eyJ[\w-]{4,}\.[\w-]{4,}(?:(?:\.[\w-]+){1,3}|\.(?!\s))")

Claim = Callable[[str, Any, str], Any]
"""A claim's name, its value and the name of what it stands in; the value that a stand-in has."""

KEPT: Final = frozenset(
    {
        *("iss", "aud", "azp", "client_id", "typ", "scp", "scope", "amr", "acr", "token_type", "grant_type", "role"),
        *("chatgpt_plan_type", "plan_type", "structure", "locale", "auth_provider", "sub_type", "residency"),
        *("chatgpt_data_residency", "chatgpt_compute_residency", "chatgpt_subscription_last_checked"),
        *("chatgpt_subscription_active_start", "chatgpt_subscription_active_until"),
    }
)
"""Claims that say what a token is for, and not whose it is. All others have stand-ins."""


def payload_of(token: str) -> dict[str, Any] | None:
    """What a JWT says; None for what is none, or is encrypted."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        document = json.loads(_bytes(parts[1]))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def jwt(payload: dict[str, Any], number: int, claim: Claim) -> str:
    """The stand-in of that number for a JWT with this payload: the same claims, and nobody's."""
    return _assembled(_walked(payload, "", claim), number)


def is_standin(token: str, claim: Claim) -> bool:
    """Whether a JWT is a stand-in: then nothing in it is left to be replaced."""
    payload = payload_of(token)
    number = _number(token.rpartition(".")[2])
    return payload is not None and number is not None and jwt(payload, number, claim) == token


def of_basic(credentials: str) -> tuple[str, str] | None:
    """User and password; None for what is not of the basic scheme."""
    try:
        user, colon, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


def _walked(value: Any, name: str, claim: Claim, within: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _walked(inner, key, claim, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [_walked(inner, name, claim, within) for inner in value]
    return claim(name, value, within)


def _assembled(payload: dict[str, Any], number: int) -> str:
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "none", "typ": "JWT"}, payload))
    return ".".join(_text(part) for part in (*parts, f"standin-{number}".encode()))


def _number(signature: str) -> int | None:
    if shapes.SIGNATURE.fullmatch(signature) is None:
        return None
    try:
        match = re.fullmatch(rb"standin-(\d{1,9})", _bytes(signature))
    except ValueError:
        return None
    return int(match[1]) if match else None


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from None
