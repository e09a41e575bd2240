"""Routing discovery (``GET wham/accounts/check``) as the client must see it.

Before every model request a current client asks which workspaces its credential has, and stops unless it finds its
own account id in exactly one entry (docs/protocol.md, section 4a). So the identity's answer gets the client's account
id; what the backend says about routing stays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from codexpool.protocol.endpoints import CHATGPT, NO_CONSTRAINT


class Workspace(NamedTuple):
    """Where an account is served: ``origin`` without a path, ``routing_override`` None for NO_CONSTRAINT."""

    origin: str
    routing_override: str | None
    plan: str
    account_id: str


class NotListedError(ValueError):
    """Routing discovery lists other accounts of the credential, and not the one that was asked for."""


def workspace_of(document: Any, account_id: str) -> Workspace:
    """Return what routing discovery says about an account, the only one if ``account_id`` is empty, or raise."""
    accounts = document.get("accounts") if isinstance(document, dict) else None
    if not isinstance(accounts, list):
        raise ValueError("routing discovery has no accounts")
    known = [entry for entry in accounts if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    entries = [entry for entry in known if account_id in ("", entry["id"])]
    if known and not entries:
        raise NotListedError("routing discovery does not list the account")
    if not account_id and len(entries) > 1:
        raise ValueError(f"routing discovery lists {len(entries)} accounts: choose one with account_id")
    if len(entries) != 1:
        raise ValueError(f"{len(entries)} entries for the account in routing discovery")
    origin, override = entries[0].get("workspace_backend_origin"), entries[0].get("account_routing_override")
    if not isinstance(origin, str) or not isinstance(override, str):
        raise ValueError("routing discovery has no origin or no routing override for the account")
    return Workspace(
        CHATGPT if origin == NO_CONSTRAINT else origin.rstrip("/"),
        None if override == NO_CONSTRAINT else override,
        str(entries[0].get("plan_type") or ""),
        entries[0]["id"],
    )


def seen_by_client(document: Any, pooled_id: str, client_id: str) -> Any:
    """Replace the identity's account id with the client's own.

    An entry that already has the client's id is left out: the client refuses two as "duplicate workspace". A document
    of another shape is returned as it is.
    """
    if not isinstance(document, dict) or not isinstance(document.get("accounts"), list) or pooled_id == client_id:
        return document

    def seen(account: Any) -> Any:
        return client_id if account == pooled_id else account

    entries = [
        {**entry, "id": seen(entry["id"])} if isinstance(entry, dict) and "id" in entry else entry
        for entry in document["accounts"]
        if not (isinstance(entry, dict) and entry.get("id") == client_id)
    ]
    result = {**document, "accounts": entries}
    if "default_account_id" in document:
        result["default_account_id"] = seen(document["default_account_id"])
    if isinstance(document.get("account_ordering"), list):
        result["account_ordering"] = [seen(a) for a in document["account_ordering"] if a != client_id]
    return result


def synthetic(client_id: str) -> dict[str, Any]:
    """Return an answer for a client whose pool cannot serve now.

    It takes the client as far as its model request, which can be answered with the reason. If discovery were refused,
    the client would only report that, ten times over.
    """
    entry = {
        "id": client_id,
        "structure": "workspace",
        "workspace_backend_origin": NO_CONSTRAINT,
        "account_routing_override": NO_CONSTRAINT,
    }
    return {"accounts": [entry], "default_account_id": client_id, "account_ordering": [client_id]}
