"""Asks the backend what it knows of an identity's account, under the identity's own credential.

No answer condemns an identity: all but a usable 200 are an UnreadError, and another attempt follows later. The
requests use an HTTP client of their own and are no flows of the proxy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from codexpool.common import tasks
from codexpool.credentials.authapi import is_from_edge
from codexpool.credentials.http_client import MAX_ANSWER, LazyClient, NoAnswerError, Route
from codexpool.pool.identity import Metadata
from codexpool.protocol.endpoints import RESET_CREDITS, SPEND_CREDIT, USAGE
from codexpool.protocol.errors import document_of, error_in
from codexpool.protocol.headers import first_values, identity_values
from codexpool.protocol.models import LONGEST_ETAG, LONGEST_LIST, Entry, entries_of
from codexpool.protocol.rate_limits import retry_after
from codexpool.protocol.reset_credits import Credits, Outcome, listed, outcome
from codexpool.protocol.routes import MODELS
from codexpool.protocol.usage_report import UsageReport, usage_report
from codexpool.redaction import redact_tokens
from codexpool.tokens.bearer import Bearer

if TYPE_CHECKING:
    import httpx

TIMEOUT = 10.0  # Seconds for one request, from connecting to the last byte of the answer.


class UnreadError(Exception):
    """There is no usable answer; the text says why. ``retry_after`` is in seconds, if the backend sets it."""

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Spending(NamedTuple):
    """What became of a request to spend a reset credit: how many windows it has reset, and what the answer was."""

    outcome: Outcome
    windows: int
    answer: str


class AccountApi:
    def __init__(self, route: Route) -> None:
        self._client = LazyClient(route, TIMEOUT)

    async def usage(self, bearer: Bearer, metadata: Metadata) -> UsageReport:
        """Return how much of its limits an account has used. Raises UnreadError."""
        at = time.time()
        return usage_of(await self.answer("GET", USAGE, bearer, metadata), at)

    async def models(
        self, bearer: Bearer, metadata: Metadata, version: str, etag: str
    ) -> tuple[tuple[Entry, ...], str] | None:
        """Return the models of an account as a client of this version gets them, and the etag of that list.

        None if it is still the list of ``etag``. Raises UnreadError.
        """
        headers = {b"version": version.encode()} | ({b"if-none-match": etag.encode()} if etag else {})
        path = f"{MODELS}?client_version={version}"
        response = await self.answer("GET", path, bearer, metadata, headers, most=LONGEST_LIST)
        if response.status_code == 304 and etag:
            return None
        if response.status_code != 200 or is_from_edge(response):
            raise unread("codex/models", response)
        try:
            entries = await tasks.in_thread(entries_of, response.content)
        except ValueError as error:
            raise UnreadError(f"codex/models: {error}") from error
        came = response.headers.get("etag", "")
        return entries, came if len(came) <= LONGEST_ETAG and came.isascii() and came.isprintable() else ""

    async def reset_credits(self, bearer: Bearer, metadata: Metadata) -> Credits:
        """Return an account's reset credits. Raises UnreadError."""
        response = await self.answer("GET", RESET_CREDITS, bearer, metadata)
        if response.status_code != 200 or is_from_edge(response):
            raise unread("wham/rate-limit-reset-credits", response)
        try:
            return listed(document_of(response.content), time.time())
        except ValueError as error:
            raise UnreadError(str(error)) from error

    async def spend_credit(self, bearer: Bearer, metadata: Metadata, credit_id: str, request_id: str) -> Spending:
        """Spend a reset credit: one request, never repeated. Only the same ``request_id`` may be sent again.

        Raises nothing: without a usable answer the outcome is `Outcome.UNCLEAR`.
        """
        body = json.dumps({"redeem_request_id": request_id, "credit_id": credit_id}).encode()
        headers = {b"content-type": b"application/json"}
        try:
            response = await self.answer("POST", SPEND_CREDIT, bearer, metadata, headers, content=body)
        except UnreadError as error:
            return Spending(Outcome.UNCLEAR, 0, str(error))
        document = document_of(response.content)
        said, windows = outcome(response.status_code, document, is_from_edge(response))
        code = redact_tokens(error_in(response.headers, document)[0])
        return Spending(said, windows, f"the backend answers {response.status_code}" + (f" {code}" if code else ""))

    async def answer(
        self,
        method: str,
        path: str,
        bearer: Bearer,
        metadata: Metadata,
        headers: Mapping[bytes, bytes] = {},
        most: int = MAX_ANSWER,
        **more: bytes,
    ) -> httpx.Response:
        """Send a request under an identity, to where its workspace is served from. Raises UnreadError.

        ``most``: the bytes of the longest answer that is read.
        """
        m = metadata
        values = identity_values(bearer.proof().authorization, m.account_id, m.fedramp, m.routing_override)
        try:
            all_headers = {**headers, **values}
            return await self._client.answer(method, m.origin + path, headers=all_headers, most=most, **more)
        except NoAnswerError as error:
            raise UnreadError(f"{path.removeprefix('/backend-api/')} cannot be reached ({error})") from error


def usage_of(response: httpx.Response, at: float) -> UsageReport:
    """Read an answer of wham/usage, which was asked for at the unix second ``at``. Raises UnreadError."""
    if response.status_code != 200 or is_from_edge(response):
        raise unread("wham/usage", response)
    try:
        return usage_report(document_of(response.content), at)
    except ValueError as error:
        raise UnreadError(str(error)) from error


def unread(what: str, response: httpx.Response) -> UnreadError:
    """Return the error for an answer that is not the one that was asked for."""
    values = first_values(tuple(response.headers.raw))
    return UnreadError(f"{what} answers {response.status_code}", retry_after(values, "", time.time()))
