"""Redaction: no secret is ever shown, logged, or written to a file. Other packages import from here only.

A secret becomes its kind, its length and its fingerprint; everything else stays as it is. Secrets are recognized by
the name of a value (`names_secret`, `known_header`) and by what they look like (`find_secrets`).
"""

from codexpool.redaction.describe import describe_secret, fingerprint_of
from codexpool.redaction.find import find_secrets
from codexpool.redaction.known_headers import known_header
from codexpool.redaction.logs import redact_logs, redact_tokens
from codexpool.redaction.named_values import SCHEMES, is_redacted
from codexpool.redaction.redact import (
    DEEPEST,
    TOP,
    Place,
    escape,
    parse_json,
    redact_header,
    redact_json,
    redact_text,
)
from codexpool.redaction.secret_names import names_secret

__all__ = [
    "DEEPEST",
    "SCHEMES",
    "TOP",
    "Place",
    "describe_secret",
    "escape",
    "find_secrets",
    "fingerprint_of",
    "is_redacted",
    "known_header",
    "names_secret",
    "parse_json",
    "redact_header",
    "redact_json",
    "redact_logs",
    "redact_text",
    "redact_tokens",
]
