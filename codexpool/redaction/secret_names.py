"""Names that make their value a secret: of headers, query parameters, JSON members and form fields."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Final

_STEMS: Final = (
    *("token", "secret", "passw", "passphrase", "passcode", "pwd", "credential", "bearer", "jwt", "cookie"),
    *("assertion", "attestation", "signature", "authoriz", "authoris", "authentic", "apikey", "accesskey"),
    *("privatekey", "oauth", "csrf", "xsrf", "codeverifier", "usercode", "devicecode", "authcode", "accesscode"),
    *("pincode", "verificationcode", "2fa"),
)
"""These make the value a secret anywhere in a name."""

_WORDS: Final = frozenset(
    {
        *("auth", "authn", "authz", "pass", "key", "keys", "sig", "pin", "otp", "totp", "hmac", "cert", "seed"),
        *("sid", "sessionid", "sessid", "jsessionid", "phpsessid", "pw", "psk", "mfa"),
    }
)
"""These do so as a whole word only: there are "authors" and "monkeys"."""

_NO_KEYS: Final = frozenset({"monkey", "turkey", "hotkey", "whiskey", "donkey", "hockey", "jockey"})

_OPEN_KEYS: Final = frozenset(
    {"cache", "idempotency", "public", "sort", "foreign", "partition", "routing", "arrow", "shortcut"}
)
"""Words before ``key`` that make it harmless."""

_ABOUT: Final = frozenset(
    {
        *("type", "error", "errors", "mode", "kind", "status", "method", "methods", "endpoint", "url", "uri", "name"),
        *("names", "count", "counts", "limit", "limits", "usage", "details", "expires", "expiry", "ttl", "seconds"),
        *("minutes", "ms", "at", "in", "percent", "length", "size", "version", "scope", "scopes", "required"),
        *("enabled", "supported", "present", "label", "policy", "reason", "message", "window", "budget", "balance"),
    }
)
"""A name that ends with one of these is about a secret, but its value is not one."""

_EITHER: Final = frozenset({"code", "session", "xsession"})  # names of values that are secrets or plain words
_EITHER_AT_THE_END: Final = frozenset({"ticket", "license", "licence"})
_HARMLESS: Final = re.compile(r"(?i:true|false|null|none|undefined|yes|no|on|off|required|optional|include|omit)?")
_AMOUNT: Final = re.compile(r"-?\d{1,12}(?:\.\d{1,9})?\s?(?:ms|s|m|h|d|%|[kKM])?")

_ERROR_OR_ID: Final = re.compile(
    r"(?:[A-Z]?[a-z]+|(?:[A-Z][a-z]+|[a-z]{2,})(?:[A-Z][a-z]{2,})+|[A-Z]+)(?:[ _.-](?:[A-Z]?[a-z]+|[A-Z]+))*"
    r"|-?\d{1,5}|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
)
"""A ``code`` that is an error, unlike one that completes a login; and the id of a session."""

_NO_WORD: Final = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])(?![\d:.TZ+-]+\Z)[^\s/]{8,}")
"""Letters and digits, but not a path or a date: a secret, not something about one."""

_PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
LONGEST: Final = 512  # characters of a name, its last ones, that are read


class _Sort(Enum):
    NAMED = "its value is a secret"
    EITHER = "its value may be one"
    ABOUT = "its value says something about one"
    NONE = "its value has nothing to do with one"


def names_secret(name: str) -> bool:
    """Return whether a name makes its value a secret."""
    return _sort(name[-LONGEST:]) is _Sort.NAMED


def may_name_secret(name: str) -> bool:
    """Return whether `is_secret` can be true for that name."""
    return _sort(name[-LONGEST:]) is not _Sort.NONE


def is_secret(name: str, value: str) -> bool:
    """Return whether a value is a secret by its name, however short it is."""
    match _sort(name[-LONGEST:]):
        case _Sort.NAMED:
            return _HARMLESS.fullmatch(value) is None and not ("tokens" in _words(name) and _AMOUNT.fullmatch(value))
        case _Sort.EITHER:
            return len(value) >= 6 and " " not in value and _ERROR_OR_ID.fullmatch(value) is None
        case _Sort.ABOUT:
            return _NO_WORD.fullmatch(value) is not None
        case _:
            return False


@lru_cache(maxsize=2048)
def _sort(name: str) -> _Sort:
    parts = _words(name)
    if not parts:
        return _Sort.NONE
    if _is_of_secret(parts):
        return _Sort.ABOUT if parts[-1] in _ABOUT else _Sort.NAMED
    if "".join(parts) in _EITHER or parts[-1] in _EITHER_AT_THE_END:
        return _Sort.EITHER
    return _Sort.NONE


def _is_of_secret(parts: tuple[str, ...]) -> bool:
    glued = "".join(parts)
    if any(stem in glued for stem in _STEMS):
        return True
    if parts[-1] in ("key", "keys") and len(parts) > 1 and parts[-2] in _OPEN_KEYS:
        return False
    return any(part in _WORDS or (part.endswith(("key", "keys")) and part not in _NO_KEYS) for part in parts)


@lru_cache(maxsize=2048)
def _words(name: str) -> tuple[str, ...]:
    return tuple(part.lower() for part in _PARTS.findall(name))
