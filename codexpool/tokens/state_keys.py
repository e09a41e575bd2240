"""The keys that encrypt logins in the state: AES-256-GCM, each login bound to its identity.

Every sealed text has the id of its key beside it, so that a wrong key is told from damage, and several keys are
accepted while one is being replaced: the first one encrypts, the others only decrypt.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from codexpool.common.private_files import UnusableError, read_private
from codexpool.tokens.bearer import fingerprint

VARIABLE: Final = "CODEXPOOL_STATE_KEY"
FILE_VARIABLE: Final = "CODEXPOOL_STATE_KEY_FILE"
PREFIX: Final = "codexpool-sk-"  # How every key begins; `redact_text` recognizes the end of it.
SIZE: Final = 32  # Bytes of a key.
_NONCE: Final = 12  # Bytes; random for each text, which is safe for billions of texts under one key.
MAKE_ONE: Final = "codexpool state key makes one"


class Sealed(NamedTuple):
    """An encrypted text, and the id of its key. Neither is a secret."""

    key_id: str
    content: bytes


@dataclass(frozen=True, slots=True)
class StateKeys:
    """Keys by their ids, the one that encrypts first; ``source`` is where they were set."""

    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    source: str = VARIABLE

    def seal(self, text: str, owner: tuple[str, ...]) -> Sealed:
        """Encrypt a text, so that it can be decrypted for the same owner only. Raises UnusableError without a key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # Slow to import.

        if not self.keys:
            raise UnusableError(f"is encrypted, and {VARIABLE} is not set", f"set it on every machine; {MAKE_ONE}")
        key_id, key = next(iter(self.keys.items()))
        nonce = secrets.token_bytes(_NONCE)
        return Sealed(key_id, nonce + AESGCM(key).encrypt(nonce, text.encode(), _bound_to(owner)))

    def open(self, sealed: Sealed, owner: tuple[str, ...]) -> str:
        """Decrypt a text. Raises UnusableError if its key is not here, or if it is damaged or of another owner."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if not self.keys:
            what = f"is encrypted with the key sha256:{sealed.key_id}, and {VARIABLE} is not set"
            raise UnusableError(what, "set it to the key that the other machines have")
        key = self.keys.get(sealed.key_id)
        if key is None:
            have = ", ".join(self.keys)
            what = f"is encrypted with the key sha256:{sealed.key_id}, and {self.source} has sha256:{have}"
            raise UnusableError(what, f"add that key to {self.source}: several may be set, separated by commas")
        try:
            nonce, content = sealed.content[:_NONCE], sealed.content[_NONCE:]
            return AESGCM(key).decrypt(nonce, content, _bound_to(owner)).decode()
        except (InvalidTag, ValueError):
            what = "cannot be decrypted, although the key is right: it is damaged, or another identity's"
            raise UnusableError(what, "restore the state from a backup, or log in again") from None

    @property
    def first(self) -> str:
        """The id of the key that encrypts; empty if there is none."""
        return next(iter(self.keys), "")


def new_key() -> str:
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(SIZE)).decode().rstrip("=")


def names_keys(environ: Mapping[str, str]) -> bool:
    return bool(environ.get(VARIABLE) or environ.get(FILE_VARIABLE))


def state_keys(environ: Mapping[str, str]) -> StateKeys:
    """Return the keys that the environment names; none if it names none. Raises UnusableError, without any key."""
    text, file = environ.get(VARIABLE, "").strip(), environ.get(FILE_VARIABLE, "").strip()
    if text and file:
        raise UnusableError(f"{VARIABLE} and {FILE_VARIABLE} are both set", "unset one of them")
    source = VARIABLE
    if file:
        source, path = f"{FILE_VARIABLE} ({file})", Path(os.path.expanduser(file))  # noqa: PTH111 - raises nothing
        try:
            text = read_private(path)
        except UnusableError as error:
            raise UnusableError(f"{source}: {error.what}", error.remedy) from None
    parts = [part.strip() for part in text.replace("\n", ",").split(",")]
    keys: dict[str, bytes] = {}
    for number, part in enumerate(filter(None, parts), 1):
        key = _decoded(part, f"{source}: key {number}")
        keys[fingerprint(key.hex())] = key
    if file and not keys:
        raise UnusableError(f"{source} is empty", MAKE_ONE)
    return StateKeys(keys, source)


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(PREFIX) + "=", altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not text.startswith(PREFIX) or len(key) != SIZE:
        raise UnusableError(f"{where} is not a complete key of the state", f"copy it again; {MAKE_ONE}")
    return key


def _bound_to(owner: tuple[str, ...]) -> bytes:
    """Return the data that is authenticated with a text, but not stored in it. No two owners have the same."""
    return json.dumps(["codexpool login", 1, *owner]).encode()
