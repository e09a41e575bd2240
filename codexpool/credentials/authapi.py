"""Asks the backend about a token: whoami (account and user), and routing discovery (origin of the workspace).

The requests go where Codex itself sends them, with an HTTP client of their own: they are no flows of the proxy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from codexpool.common.clock_skew import Clock
from codexpool.common.emails import email_of
from codexpool.credentials.http_client import LazyClient, NoAnswerError, Route
from codexpool.pool.identity import Evidence, Metadata, Word
from codexpool.pool.verdict import ENDPOINT_CODES, says_dead
from codexpool.protocol.discovery import NotListedError, workspace_of
from codexpool.protocol.endpoints import ACCOUNTS_CHECK, AUTHAPI, CHATGPT, WHOAMI
from codexpool.protocol.errors import document_of, error_in
from codexpool.protocol.headers import identity_values
from codexpool.protocol.routes import host_of
from codexpool.redaction import redact_tokens
from codexpool.tokens.bearer import Bearer

if TYPE_CHECKING:
    import httpx

TIMEOUT = 10.0  # Seconds for one request, from connecting to the last byte of the answer.
SHOWN = 200  # Characters of an answer that a message quotes at most.


class Whoami(NamedTuple):
    """What is known of a token: the word, its evidence, and with `Word.HEALTHY` the token's owner."""

    word: Word
    evidence: Evidence
    metadata: Metadata | None = None


class UndiscoveredError(Exception):
    """Routing discovery gave no usable answer; the text says why. Try again later."""


class RefusedError(Exception):
    """Routing discovery refused the token itself."""


class AuthApi:
    """whoami and routing discovery over one HTTP client, which the first request makes.

    ``environ`` may set ``CODEX_AUTHAPI_BASE_URL``, as for Codex. ``clock`` learns the time from whoami's answers.
    """

    def __init__(self, route: Route, environ: Mapping[str, str], clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        base = environ.get("CODEX_AUTHAPI_BASE_URL", "").strip() or AUTHAPI
        self._whoami_url = base.rstrip("/") + WHOAMI
        self._client = LazyClient(route, TIMEOUT)

    async def whoami(self, bearer: Bearer) -> Whoami:
        """Return the owner of a token. Raises nothing: no answer is `Word.UNREACHABLE` with a note."""
        at = time.time()
        try:
            headers = {"authorization": bearer.proof().authorization}
            response = await self._client.answer("GET", self._whoami_url, headers=headers)
        except NoAnswerError as error:
            note = f"whoami cannot be reached ({error})"
            return Whoami(Word.UNREACHABLE, Evidence(at, fingerprint=bearer.fingerprint, note=note))
        self._clock.learn(response.headers.get("date"), at, time.time())
        return whoami_of(response, bearer, at)

    async def routing(self, bearer: Bearer, metadata: Metadata) -> Metadata:
        """Return the metadata with the origin and routing override from discovery. Raises what `place_in` raises."""
        headers = identity_values(bearer.proof().authorization, metadata.account_id, metadata.fedramp, None)
        try:
            response = await self._client.answer("GET", CHATGPT + ACCOUNTS_CHECK, headers=headers)
        except NoAnswerError as error:
            raise UndiscoveredError(f"routing discovery cannot be reached ({error})") from error
        return place_in(response, metadata)


def place_in(response: httpx.Response, metadata: Metadata) -> Metadata:
    """Return the metadata with the workspace's place from an answer of routing discovery.

    A 404, or a 401 about the endpoint, means that discovery is not for this credential: the metadata stays as it is.
    Raises RefusedError if the token is dead, `codexpool.protocol.discovery.NotListedError` if only other accounts are
    listed, and UndiscoveredError for any other answer.
    """
    status, document = response.status_code, document_of(response.content)
    code = redact_tokens(error_in(response.headers, document)[0])
    is_json, from_edge = isinstance(document, dict), is_from_edge(response)
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
            raise ValueError("routing discovery gives a value that cannot be sent in a header")
    except NotListedError:
        raise
    except ValueError as error:
        raise UndiscoveredError(str(error)[:SHOWN]) from error
    account_id, origin, routing_override = workspace.account_id, workspace.origin, workspace.routing_override
    return replace(metadata, account_id=account_id, origin=origin, routing_override=routing_override)


def whoami_of(response: httpx.Response, bearer: Bearer, at: float) -> Whoami:
    """Interpret an answer of whoami. Only a 401 in JSON with a code of `DEAD_TOKEN_CODES` condemns the token."""
    # Some refusals repeat the token, and evidence is shown: in pool.toml, and to the client.
    status, document = response.status_code, document_of(response.content)
    code = redact_tokens(error_in(response.headers, document)[0])
    request_id = redact_tokens(response.headers.get("x-request-id", ""))
    evidence = Evidence(at, "GET", "whoami", status, code, request_id, bearer.fingerprint)
    if says_dead(status, code, isinstance(document, dict), is_from_edge(response)):
        return Whoami(Word.REFUSED, evidence)
    note = f"whoami answers {status}" + (f" {code}" if code else "")
    if status == 200 and isinstance(document, dict):
        try:
            return Whoami(Word.HEALTHY, evidence, _metadata_of(document))
        except ValueError as error:
            note = str(error)
    return Whoami(Word.UNREACHABLE, Evidence(at, fingerprint=bearer.fingerprint, note=note))


def _metadata_of(document: dict[str, Any]) -> Metadata:
    """Return the fields that Codex itself requires (personal_access_token.rs)."""
    texts = [document.get(key) for key in ("chatgpt_account_id", "chatgpt_user_id", "chatgpt_plan_type")]
    fedramp = document.get("chatgpt_account_is_fedramp")
    if not all(isinstance(text, str) and text for text in texts) or not isinstance(fedramp, bool):
        raise ValueError("whoami's answer lacks the account, the user, the plan or the FedRAMP flag")
    account_id, user_id, plan = (str(text) for text in texts)
    if not (_is_sendable(account_id) and user_id.isprintable() and plan.isprintable()):
        raise ValueError("whoami gives an account, user or plan that is not one line of text")
    return Metadata(account_id, user_id, plan, fedramp, email=email_of(document.get("email")))


def _is_sendable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def is_from_edge(response: httpx.Response) -> bool:
    """Return whether the content network in front of the backend made this answer."""
    return "cf-mitigated" in response.headers or "html" in response.headers.get("content-type", "").lower()
