"""Redaction: no secret is ever shown, logged, or written to a file. Other packages import from here only.

A secret becomes its kind, its length and its fingerprint; everything else stays as it is. What is a secret is told by
the name of a value (`is_secret`, `known_header`) and by what it looks like (`find_secrets`).
"""

from codexpool.redaction.describe import described as describe_secret
from codexpool.redaction.find import found as find_secrets
from codexpool.redaction.known_headers import known as known_header
from codexpool.redaction.logs import redact_logs
from codexpool.redaction.logs import redacted as redact_tokens
from codexpool.redaction.named_values import SCHEMES
from codexpool.redaction.named_values import is_described as is_redacted
from codexpool.redaction.shown import shown as redact_header
from codexpool.redaction.shown import shown_text as redact_text

__all__ = [
    "SCHEMES",
    "describe_secret",
    "find_secrets",
    "is_redacted",
    "known_header",
    "redact_header",
    "redact_logs",
    "redact_text",
    "redact_tokens",
]
