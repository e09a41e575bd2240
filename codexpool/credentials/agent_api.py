"""Asks the backend for tasks of agents, and for the keys that sign their JWTs.

The requests go where Codex itself sends them, with an HTTP client of their own: they are no flows of the proxy.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from codexpool.common.clock_skew import Clock
from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, http_client
from codexpool.credentials.agent_identity import AgentIdentity
from codexpool.credentials.authapi import is_from_edge
from codexpool.credentials.http_client import LazyClient, NoAnswerError, Route
from codexpool.pool.identity import WHOAMI
from codexpool.pool.verdict import says_dead
from codexpool.protocol.endpoints import AGENT_KEYS, AGENT_TASK, API_PATHS, AUTHAPI, CHATGPT
from codexpool.protocol.errors import document_of, error_in
from codexpool.redaction import redact_tokens
from codexpool.tokens.agent_key import AgentKey, is_id
from codexpool.tokens.jwt import header_of

if TYPE_CHECKING:
    import httpx
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

TIMEOUT: Final = 30.0  # Seconds for a registration, with all its attempts.
KEYS_TIMEOUT: Final = 10.0
PAUSES: Final = (0.25, 1.0)  # Seconds between the attempts to register, as many as Codex makes.
SKEWED: Final = 30.0  # Seconds that our clock may differ before a refused registration is tried with theirs.
KEPT: Final = 3600.0  # Seconds for which the published keys are used.
ASKED_AGAIN: Final = 60.0  # Seconds after which they are asked for again, if they lack a key or could not be read.
MOST_KEYS: Final = 100
BITS: Final = range(2048, 8193)  # Of an RSA key; longer ones take long to check.


class WrongSignatureError(Exception):
    """The published key that a JWT names has not signed it."""


class AgentApi:
    """Registers tasks, and checks JWTs with the published keys, which it keeps for an hour.

    ``clock`` learns the backend's time from its answers. ``folder`` returns where the tasks of earlier runs are.
    """

    def __init__(self, route: Route, environ: Mapping[str, str], clock: Clock, folder: Callable[[], Path]) -> None:
        self.clock = clock
        self._folder = folder
        base = environ.get("CODEX_AGENT_IDENTITY_AUTHAPI_BASE_URL", "").strip() or AUTHAPI
        self._task_url = base.rstrip("/") + AGENT_TASK
        keys = environ.get("CODEX_AGENT_IDENTITY_JWKS_BASE_URL", "").strip() or CHATGPT + API_PATHS
        in_wham = API_PATHS.rstrip("/") in keys
        self._keys_url = keys.rstrip("/") + (AGENT_KEYS if in_wham else AGENT_KEYS.removeprefix("/wham"))
        self._route = route
        self._client = LazyClient(route, KEYS_TIMEOUT)
        self._keys: dict[str, RSAPublicKey] = {}
        self._asked_at = -KEPT  # Of a monotonic clock.
        self._asking = asyncio.Lock()

    @cached_property
    def folder(self) -> Path:
        return self._folder()

    def register(self, identity: AgentIdentity) -> str:
        """Return the id of a new task. Blocks: call it in a thread. Raises what `task_of` raises."""
        try:
            return task_of(asyncio.run(self._registered(identity.key)), identity, time.time())
        except NoAnswerError as error:
            raise NoTokenNowError(f"the registration of tasks cannot be reached ({error})") from error

    async def _registered(self, key: AgentKey) -> httpx.Response:
        """Return the last answer of as many attempts as are needed; raise NoAnswerError if that has none."""
        deadline = time.monotonic() + TIMEOUT
        async with http_client.client(self._route, TIMEOUT) as client:
            for pause in PAUSES:
                offset = self.clock.offset or 0.0
                with contextlib.suppress(NoAnswerError):
                    response = await self._attempt(client, key, deadline)
                    status = response.status_code
                    is_skewed = status >= 400 and abs((self.clock.offset or 0.0) - offset) > SKEWED
                    if not (is_skewed or status == 429 or status >= 500):
                        return response
                await asyncio.sleep(pause)
            return await self._attempt(client, key, deadline)

    async def _attempt(self, client: httpx.AsyncClient, key: AgentKey, deadline: float) -> httpx.Response:
        url = self._task_url.format(quote(key.runtime_id, safe=""))
        at, left = time.time(), max(0.1, deadline - time.monotonic())
        registration = key.registration(self.clock.theirs(at))
        response = await http_client.answer(client, "POST", url, left, json=registration)
        self.clock.learn(response.headers.get("date"), at, time.time())
        return response

    async def is_signed(self, jwt: str) -> bool:
        """Return whether the published key that a JWT names has signed it. Raises WrongSignatureError if it has not.

        False without an answer, or without that key, which may have been retired: nothing is known then.
        """
        kid = str(header_of(jwt)["kid"])
        async with self._asking:
            if time.monotonic() - self._asked_at > (KEPT if kid in self._keys else ASKED_AGAIN):
                await self._read_keys()
        key = self._keys.get(kid)
        if key is not None and not has_signed(key, jwt):
            raise WrongSignatureError
        return key is not None

    async def _read_keys(self) -> None:
        self._asked_at, at = time.monotonic(), time.time()
        with contextlib.suppress(NoAnswerError):
            response = await self._client.answer("GET", self._keys_url)
            self.clock.learn(response.headers.get("date"), at, time.time())
            if response.status_code == 200 and not is_from_edge(response):
                self._keys = keys_in(document_of(response.content)) or self._keys


def task_of(response: httpx.Response, identity: AgentIdentity, at: float) -> str:
    """Return the id of a task from the answer to its registration.

    Raises NoTokenAnyMoreError if the agent is dead: the answer has a code of `codexpool.pool.verdict`, or refuses a
    JWT that has expired. Else raises NoTokenNowError: proxies and content networks refuse in JSON too.
    """
    status, document = response.status_code, document_of(response.content)
    if 200 <= status < 300 and isinstance(document, dict):
        return _task_in(document, identity.key)
    code = redact_tokens(error_in(response.headers, document)[0])
    text = f"the registration of a task answers {status}" + (f" {code}" if code else "")
    is_json, from_edge = isinstance(document, dict), is_from_edge(response)
    if says_dead(status, code, is_json, from_edge):
        raise NoTokenAnyMoreError(code, f"its agent is not accepted ({text})", WHOAMI)
    has_expired = identity.expires_at is not None and identity.expires_at <= at
    if has_expired and status in (401, 403) and is_json and not from_edge:
        raise NoTokenAnyMoreError(code or str(status), f"its JWT has expired ({text})", WHOAMI)
    raise NoTokenNowError(text)


def _task_in(document: Mapping[str, Any], key: AgentKey) -> str:
    plain = document.get("task_id") or document.get("taskId")
    sealed = document.get("encrypted_task_id") or document.get("encryptedTaskId")
    try:
        task_id = plain or (key.unsealed(sealed) if isinstance(sealed, str) else None)
    except ValueError as error:
        raise NoTokenNowError(f"the registered task {error}") from None
    if not is_id(task_id):
        raise NoTokenNowError("the registration of a task answers without a task")
    return str(task_id)


def keys_in(document: object) -> dict[str, RSAPublicKey]:
    """Return the RSA keys in a JSON Web Key Set, by their ids. Whatever is no such key is left out."""
    rows = document.get("keys") if isinstance(document, dict) else None
    found: dict[str, RSAPublicKey] = {}
    for row in rows[:MOST_KEYS] if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("kty") == "RSA" and is_id(row.get("kid")):
            key = _rsa(row.get("n"), row.get("e"))
            if key is not None:
                found[str(row["kid"])] = key
    return found


def _rsa(modulus: object, exponent: object) -> RSAPublicKey | None:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    if not (isinstance(modulus, str) and isinstance(exponent, str) and len(modulus) <= 2048 and len(exponent) <= 8):
        return None
    try:
        n, e = (int.from_bytes(_unpadded(text)) for text in (modulus, exponent))
        return RSAPublicNumbers(e, n).public_key() if n.bit_length() in BITS else None
    except (binascii.Error, ValueError):
        return None


def has_signed(key: RSAPublicKey, jwt: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signed, _, signature = jwt.rpartition(".")
    try:
        key.verify(_unpadded(signature), signed.encode(), PKCS1v15(), SHA256())
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
