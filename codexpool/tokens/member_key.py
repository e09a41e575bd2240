"""The keys of members: made once, shown once, and kept as their SHA-256 only.

To a Codex client a key is a personal access token: it begins with ``at-`` (openai/codex,
``codex-rs/login/src/auth/personal_access_token.rs``). 256 bits from the system's source cannot be guessed, so the
plain hash of one gives nothing away and needs no salt.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

PREFIX: Final = "at-pool-"  # How every key begins.

BITS: Final = 256

HASHED: Final = re.compile(r"sha256:[0-9a-f]{64}")  # What pool.toml has of a key.


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(BITS // 8)


def hashed(key: str) -> str:
    """Hash a key for pool.toml: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
