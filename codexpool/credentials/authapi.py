"""The few requests of our own: whoami, and routing discovery under an identity.

They go where Codex itself asks, with a client of their own, so that nothing of them is in the proxy's flows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from codexpool.common.clock_skew import Clock
from codexpool.credentials import bounded, own_client
from codexpool.credentials.route import Route
from codexpool.credentials.whoami import RefusedError, UndiscoveredError, Whoami
from codexpool.pool.dead_tokens import says_dead
from codexpool.pool.identity import Evidence, Metadata, Word
from codexpool.pool.verdict import ENDPOINT_CODES
from codexpool.protocol.discovery import NotListedError, workspace_of
from codexpool.protocol.endpoints import ACCOUNTS_CHECK, AUTHAPI, CHATGPT, WHOAMI
from codexpool.protocol.errors import error_of
from codexpool.protocol.headers import identity_values
from codexpool.protocol.routes import host_of
from codexpool.redaction import redact_tokens
from codexpool.tokens.bearer import Bearer

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # They would log every request of ours as if it mattered.

TIMEOUT = 10.0
"""Seconds for one of these requests, from connecting to the last byte of the answer."""

SHOWN = 200
"""Characters that a message has of an answer at most."""


class AuthApi:
    """whoami and routing discovery over one HTTP client.

    ``environ`` is looked at for ``CODEX_AUTHAPI_BASE_URL``, as Codex does. ``clock`` is told what time whoami has.
    """

    def __init__(self, route: Route, environ: Mapping[str, str], clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        base = environ.get("CODEX_AUTHAPI_BASE_URL", "").strip() or AUTHAPI
        self._whoami_url = base.rstrip("/") + WHOAMI
        self._client = own_client.client(route.tls(), route.proxy, TIMEOUT, bounded.PLAIN)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def whoami(self, bearer: Bearer) -> Whoami:
        """Ask whose token this is. Never raises: what gives no word is `Word.UNREACHABLE` with a note."""
        at = time.time()
        try:
            headers = {"authorization": f"Bearer {bearer.token}"}
            response = await bounded.answer(self._client, "GET", self._whoami_url, TIMEOUT, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            note = f"whoami cannot be reached ({type(error).__name__})"
            return Whoami(Word.UNREACHABLE, Evidence(at, fingerprint=bearer.fingerprint, note=note))
        self._clock.saw(response.headers.get("date"), at, time.time())
        return whoami_of(response, bearer, at)

    async def routing(self, bearer: Bearer, metadata: Metadata) -> Metadata:
        """The metadata with the origin and the routing override that routing discovery names.

        Raises UndiscoveredError where there was no answer to go by, and what `place_in` raises.
        """
        headers = identity_values(bearer.token, metadata.account_id, metadata.fedramp, None)
        url = CHATGPT + ACCOUNTS_CHECK
        try:
            response = await bounded.answer(self._client, "GET", url, TIMEOUT, headers=list(headers.items()))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise UndiscoveredError(f"routing discovery cannot be reached ({type(error).__name__})") from error
        return place_in(response, metadata)


def place_in(response: httpx.Response, metadata: Metadata) -> Metadata:
    """What an answer of routing discovery says of a workspace.

    Raises RefusedError where it says that the token is dead, `codexpool.protocol.discovery.NotListedError` where
    it lists other accounts only, and UndiscoveredError for everything that is no answer to go by. A 404, or a 401
    that speaks of the endpoint, is an answer: discovery is not for this credential, and the place stays what it
    was.
    """
    status, document = response.status_code, _json(response)
    code = redact_tokens(error_of(response.headers, response.content)[0])
    is_json, from_edge = isinstance(document, dict), _is_from_edge(response)
    if says_dead(status, code, is_json, from_edge):
        raise RefusedError(f"routing discovery answers {status} {code}")
    if is_json and not from_edge and (status == 404 or (status == 401 and code in ENDPOINT_CODES)):
        return metadata
    if status != 200 or from_edge:
        raise UndiscoveredError(f"routing discovery answers {status}" + (f" {code}" if code else ""))
    try:
        workspace = workspace_of(document, metadata.account_id)
        host_of(workspace.origin)
        if not all(map(_is_sendable, (workspace.account_id, workspace.routing_override or ""))):
            raise ValueError("routing discovery names what cannot be sent in a header")
    except NotListedError:
        raise
    except ValueError as error:
        raise UndiscoveredError(str(error)[:SHOWN]) from error
    return replace(
        metadata,
        account_id=workspace.account_id,
        origin=workspace.origin,
        routing_override=workspace.routing_override,
    )


def whoami_of(response: httpx.Response, bearer: Bearer, at: float) -> Whoami:
    """What an answer of whoami means. Only a 401 in JSON with a code of `DEAD_TOKEN_CODES` condemns the token."""
    # Some refusals repeat the token they refuse, and evidence is shown: in pool.toml, and to the client.
    code, _ = map(redact_tokens, error_of(response.headers, response.content))
    evidence = Evidence(
        at,
        "GET",
        "whoami",
        response.status_code,
        code,
        redact_tokens(response.headers.get("x-request-id", "")),
        bearer.fingerprint,
    )
    document = _json(response)
    if says_dead(response.status_code, code, isinstance(document, dict), _is_from_edge(response)):
        return Whoami(Word.REFUSED, evidence)
    if response.status_code == 200 and isinstance(document, dict):
        try:
            return Whoami(Word.HEALTHY, evidence, _metadata_of(document))
        except ValueError as error:
            return Whoami(Word.UNREACHABLE, Evidence(at, fingerprint=bearer.fingerprint, note=str(error)))
    note = f"whoami answers {response.status_code}" + (f" {code}" if code else "")
    return Whoami(Word.UNREACHABLE, Evidence(at, fingerprint=bearer.fingerprint, note=note))


def _metadata_of(document: dict[str, Any]) -> Metadata:
    """The fields Codex itself requires of whoami (personal_access_token.rs)."""
    texts = [document.get(key) for key in ("chatgpt_account_id", "chatgpt_user_id", "chatgpt_plan_type")]
    fedramp = document.get("chatgpt_account_is_fedramp")
    if not all(isinstance(text, str) and text for text in texts) or not isinstance(fedramp, bool):
        raise ValueError("whoami's answer lacks the account, the user, the plan or the FedRAMP flag")
    account_id, user_id, plan = (str(text) for text in texts)
    if not (_is_sendable(account_id) and user_id.isprintable() and plan.isprintable()):
        raise ValueError("whoami names an account, a user or a plan that is no text of one line")
    return Metadata(account_id, user_id, plan, fedramp)


def _is_sendable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _is_from_edge(response: httpx.Response) -> bool:
    """Whether the content network in front of the backend has said this, and not the backend."""
    return "cf-mitigated" in response.headers or "html" in response.headers.get("content-type", "").lower()
