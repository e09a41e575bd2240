"""The models of an account: its list, the list's etag, and the refusal of any other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.standin.exchange import Headers, Reply, Request
from tests.standin.tokens import Token

MODELS_ETAG = "x-models-etag"
"""What answers of the model carry, so that the client fetches a changed list."""


def model_list(request: Request, token: Token) -> Reply:
    """Answer ``codex/models``: 304 to a client that has this list."""
    etag = [("etag", _etag(token))]
    if _etag(token) in (text.strip() for text in (request.header("if-none-match") or "").split(",")):
        return Reply(304, etag)
    return Reply.of_json(_document(token), headers=etag)


def model_headers(token: Token) -> Headers:
    """Return what answers say of the list; nothing for a token that may use any model."""
    return [] if token.models is None else [(MODELS_ETAG, _etag(token))]


def refuse_model(token: Token, model: str) -> Reply | None:
    """Return the refusal of a model that the account does not have."""
    if token.models is None or model in token.models:
        return None
    return Reply.of_json(unsupported(model), 400)


def unsupported(model: str) -> dict[str, Any]:
    """Return the body of that refusal."""
    return {"detail": f"The '{model}' model is not supported when using Codex with a ChatGPT account."}


def model_info(slug: str, priority: int = 1) -> dict[str, Any]:
    """Return an entry of ``codex/models`` as the client reads it (``ModelInfo``, codex-rs/protocol)."""
    efforts = {"low": "Fast answers", "medium": "Everyday tasks", "high": "Complex problems"}
    return {
        "slug": slug,
        "display_name": slug.upper(),
        "description": f"The stand-in's {slug}.",
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": [{"effort": name, "description": text} for name, text in efforts.items()],
        "shell_type": "shell_command",
        "visibility": "list",
        "minimal_client_version": "0.98.0",
        "supported_in_api": True,
        "availability_nux": None,
        "upgrade": None,
        "priority": priority,
        "base_instructions": "You are a stand-in.",
        "default_reasoning_summary": "none",
        "supports_reasoning_summaries": True,
        "support_verbosity": True,
        "default_verbosity": "low",
        "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "tokens", "limit": 10000},
        "supports_parallel_tool_calls": True,
        "context_window": 272000,
        "experimental_supported_tools": [],
        "input_modalities": ["text", "image"],
        "prefer_websockets": True,
    }


def _document(token: Token) -> dict[str, Any]:
    return {"models": [model_info(slug, number) for number, slug in enumerate(token.models or (), 1)]}


def _etag(token: Token) -> str:
    if token.models is None:
        return f'"models-{token.account_id}"'
    return f'W/"{hashlib.sha256(json.dumps(_document(token)).encode()).hexdigest()[:32]}"'
