"""What the client gets from us in place of an answer of the backend.

The client never sees a 401 of the pool: a client with an OAuth login would answer it by rotating a refresh token of
its own (codex-protocol section 6b).
"""

from __future__ import annotations

import json

from mitmproxy import http

from codexpool.wire.routing import synthetic


def unservable(message: str, upgrade: bool) -> http.Response:
    """Nobody can serve this request; the client is to show ``message`` at once, and not to try again.

    Of a refused WebSocket upgrade the client sees the status only. 426 sends it to HTTP without a word, where
    the same request is answered with a 400: the one status it takes for final and shows the text of.
    """
    if upgrade:
        return _json(426, {"error": {"code": "codexpool_unservable", "message": message}})
    return _json(
        400, {"error": {"type": "invalid_request_error", "code": "codexpool_unservable", "message": message}}
    )


def failed_closed(reason: str) -> http.Response:
    """Something of ours went wrong: the request does not leave, and may be tried again."""
    error = {"type": "server_error", "code": "codexpool_failed_closed", "message": f"codexpool: {reason}"}
    return _json(503, {"error": error})


def discovered(client_id: str) -> http.Response:
    """Routing discovery for a client that nobody can serve."""
    return _json(200, synthetic(client_id))


def _json(status: int, document: object) -> http.Response:
    return http.Response.make(status, json.dumps(document), {"content-type": "application/json"})
