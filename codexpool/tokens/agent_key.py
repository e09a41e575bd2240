"""The key of an agent identity, which signs every request (openai/codex, agent-identity/src/lib.rs). No I/O."""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from codexpool.common.clock_skew import Clock
from codexpool.common.iso_time import iso_time
from codexpool.tokens.bearer import Bearer, Proof, fingerprint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEME: Final = "AgentAssertion"
LONGEST: Final = 512  # Characters of a key in base64, an id or a task's id; real ones have a hundred at most.
_ED25519: Final = bytes.fromhex("06032b6570")  # The algorithm, in PKCS#8.
_SEED: Final = bytes.fromhex("04220420")  # What precedes the 32 bytes of the key there.


@dataclass(frozen=True, slots=True)
class AgentKey:
    """The private key of an agent runtime; ``text`` is the key as the credential has it, which is secret."""

    runtime_id: str
    text: str = field(repr=False)
    fingerprint: str  # Of the runtime and its public key.
    _signing: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, runtime_id: str, text: str) -> AgentKey:
        """Parse a key: PKCS#8 in base64. Raises ValueError.

        Codex writes version 2 of PKCS#8, which `cryptography` does not read, so the key is taken out by hand.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # Slow to import.

        if not is_id(runtime_id):
            raise ValueError("its agent_runtime_id is not an id")
        der = decoded(text)
        before, found, after = der.partition(_SEED)
        if not found or _ED25519 not in before or len(after) < 32:
            raise ValueError("its agent_private_key is not an Ed25519 key in PKCS#8")
        signing = Ed25519PrivateKey.from_private_bytes(after[:32])
        public = signing.public_key().public_bytes_raw().hex()
        return cls(runtime_id, text, fingerprint(f"{runtime_id}:{public}"), signing)

    def registration(self, at: float) -> dict[str, str]:
        """Return the request for a task."""
        timestamp = stamp(at)
        return {"timestamp": timestamp, "signature": self._signature(f"{self.runtime_id}:{timestamp}")}

    def assertion(self, task_id: str, at: float) -> Proof:
        """Return what one request proves the identity with."""
        timestamp = stamp(at)
        signature = self._signature(f"{self.runtime_id}:{task_id}:{timestamp}")
        # In the order of the alphabet, as Codex writes it.
        document = {
            "agent_runtime_id": self.runtime_id,
            "signature": signature,
            "task_id": task_id,
            "timestamp": timestamp,
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        assertion = base64.urlsafe_b64encode(text).rstrip(b"=").decode()
        return Proof(f"{SCHEME} {assertion}", (assertion, signature))

    def unsealed(self, encrypted: str) -> str:
        """Decrypt the id of a task: a sealed box for this key. Raises ValueError."""
        try:
            from nacl.exceptions import CryptoError
            from nacl.public import SealedBox
            from nacl.signing import SigningKey
        except ImportError:  # A mitmproxy that codexpool was not installed with.
            raise ValueError("is encrypted, and PyNaCl is not installed: install it beside mitmproxy") from None
        key = SigningKey(self._signing.private_bytes_raw()).to_curve25519_private_key()
        try:
            return SealedBox(key).decrypt(decoded(encrypted)).decode()
        except (CryptoError, UnicodeDecodeError, TypeError):
            raise ValueError("cannot be decrypted with this key") from None

    def _signature(self, text: str) -> str:
        return base64.b64encode(self._signing.sign(text.encode())).decode()


@dataclass(frozen=True, slots=True)
class AgentTask(Bearer):
    """A task of an agent: what its key signs for. ``clock`` has the time that the backend compares with.

    Its fingerprint names key and task: a refused one may be followed by another task of the same key.
    """

    key: AgentKey
    task_id: str = field(repr=False)
    clock: Clock = field(repr=False, compare=False)

    @classmethod
    def of_key(cls, key: AgentKey, task_id: str, clock: Clock) -> AgentTask:
        return cls(key.text, fingerprint(f"{key.fingerprint}:{task_id}"), key, task_id, clock)

    def proof(self) -> Proof:
        return self.key.assertion(self.task_id, self.clock.theirs(time.time()))


def stamp(at: float) -> str:
    """Format a time as the backend reads it: RFC 3339 in UTC, with whole seconds."""
    return iso_time(int(at))


def is_id(value: object) -> bool:
    """Return whether a value can be an id: it goes into addresses and headers."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def decoded(text: str) -> bytes:
    """Decode base64 of a bounded length. Raises ValueError."""
    if len(text) > LONGEST:
        raise ValueError("is too long")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
