"""Why a request is sent under an identity."""

from __future__ import annotations

from enum import StrEnum


class Because(StrEnum):
    """Why a request is sent under an identity."""

    OWN = "the session is with it"
    PARENT = "the session that started this one is with it"
    PREFERRED = "the request stays with it"
    ASIDE = "it serves this endpoint or model for the session"
    NEW = "a new session"
    MOVED = "the session moves to it"
    NO_SESSION = "the request names no session"
    EXPIRED = "nobody else could, though its token is expected to have expired"
