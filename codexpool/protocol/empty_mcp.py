"""An MCP server without tools, in place of the one that has a person's. Pure.

Codex asks the backend for the tools of the account that is logged in. Any refusal (400, 401, 403, 404, 405, 500; by
experiment with 0.169.0) makes it show errors; a server without tools does not. The protocol: Model Context Protocol,
2025-06-18, "Streamable HTTP".
"""

from __future__ import annotations

from typing import Any, Final

from codexpool.protocol.bounded_json import loads
from codexpool.protocol.inflate import inflated

VERSION: Final = "2025-06-18"  # Of the protocol, if a client does not say which one it speaks.
LONGEST: Final = 1 << 20  # Bytes of a message, inflated.
EMPTY: Final[dict[str, Any]] = {
    "ping": {},
    "tools/list": {"tools": []},
    "resources/list": {"resources": []},
    "resources/templates/list": {"resourceTemplates": []},
}


def answer(body: bytes, encoding: str = "") -> tuple[int, dict[str, Any] | None]:
    """Return status and document for a message of a client; no document if it expects none."""
    try:
        call = loads(inflated(body, encoding, LONGEST))
    except ValueError:
        return 400, {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "no JSON"}}
    if not isinstance(call, dict) or call.get("id") is None:
        return 202, None
    return 200, {"jsonrpc": "2.0", "id": call["id"], **_result(call)}


def _result(call: dict[str, Any]) -> dict[str, Any]:
    method, parameters = call.get("method"), call.get("params")
    if method == "initialize":
        wanted = parameters.get("protocolVersion") if isinstance(parameters, dict) else None
        version = wanted if isinstance(wanted, str) else VERSION
        server = {"name": "codexpool", "version": "1"}
        return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}}
    if isinstance(method, str) and method in EMPTY:
        return {"result": EMPTY[method]}
    return {"error": {"code": -32601, "message": "a member key has no tools"}}
