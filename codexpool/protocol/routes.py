"""Which requests are sent under an identity of the pool: a table of paths, and the hosts it is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from codexpool.protocol.endpoints import ACCOUNTS_CHECK, CONFIG_BUNDLE, HOST, RESPONSES, USAGE


class Policy(StrEnum):
    """What happens to a request."""

    SWAP = "swap"
    SWAP_IDS = "swap, ids rewritten"
    LENT = "lent"
    """An identity's answer, which shows the client what the pool has left instead of its own login's limits."""
    LENT_TO_MEMBERS = "own, lent to members"
    """The client's own credential; a member's client, which has none, gets an identity's answer."""
    OWN = "own"  # The client's own credential, untouched: these requests act for a person.
    NEVER = "never"  # Not a host of the backend: no pooled secret leaves for it.

    @property
    def swaps(self) -> bool:
        """Whether no such request may leave with the client's own credential."""
        return self in (Policy.SWAP, Policy.SWAP_IDS)

    @property
    def takes_identity(self) -> bool:
        """Whether such a request of any client gets an identity of a pool that serves the client."""
        return self.swaps or self is Policy.LENT


class Route(NamedTuple):
    """One row. A path that ends in ``/`` covers everything below it; no methods means any.

    ``repeatable``: a request that may have reached the backend can be sent once more, because it does not act.
    """

    path: str
    policy: Policy
    methods: tuple[str, ...] = ()
    repeatable: bool = False


MODELS = "/backend-api/codex/models"

ROUTES = (
    # Codex stores nothing (``store: false``) and calls the tools itself: an answer that is not read has no effect.
    # GET is the WebSocket upgrade, on which nothing has been asked yet.
    Route(RESPONSES, Policy.SWAP, ("POST", "GET"), repeatable=True),
    Route(f"{RESPONSES}/compact", Policy.SWAP, repeatable=True),
    Route(MODELS, Policy.SWAP),
    Route("/backend-api/codex/memories/", Policy.SWAP),
    Route("/backend-api/codex/images/", Policy.SWAP),
    Route("/backend-api/codex/alpha/search", Policy.SWAP),  # Not its siblings: notes and history are a person's own.
    Route("/backend-api/codex/realtime/", Policy.SWAP),
    Route(ACCOUNTS_CHECK, Policy.SWAP_IDS, ("GET",)),
    Route(CONFIG_BUNDLE, Policy.LENT_TO_MEMBERS, ("GET",)),
    Route(USAGE, Policy.LENT, ("GET",)),
)
"""The path policy. What is not listed keeps the client's own credential.

The rows that are not repeatable write memories, generate paid images or begin calls, and it cannot be known how far
such a request has come. A GET always is (RFC 9110, 9.2.1)."""

NO_ROUTE = Route("", Policy.OWN)
NO_BACKEND = Route("", Policy.NEVER)

CODEX = "/backend-api/codex/"
FIXED = {
    RESPONSES: "the pool is there to serve it",
    ACCOUNTS_CHECK: "an identity has to answer it with the client's own account in it, or no client begins a turn",
    CONFIG_BUNDLE: "it is what the administrators of a workspace set for their own people",
    f"{CODEX}alpha/notes": "notes are a person's own",
    f"{CODEX}alpha/history": "the history is a person's own",
    f"{CODEX}analytics-events": "it reports what the person at the client does",
}
"""What pool.toml cannot move, nor anything below it, and why."""

BACKEND_ONLY = frozenset({HOST})  # The hosts of the path policy as long as no identity is served from another one.
LONGEST = 1024  # Characters of a path or method that equals a row: results are cached, and a client may send any.

_PLAIN = re.compile(r"(?:/[A-Za-z0-9._~:@!$&'()*+,=-]+)+/?")
_DOTS = {".", ".."}
_ORIGIN = re.compile(r"https://(?P<host>[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)(?::443)?/?")

# No path below has a query.


@dataclass(frozen=True)
class Routes:
    """The path policy of a pool: `ROUTES`, and before them what its pool.toml has ``moved``."""

    moved: tuple[Route, ...] = ()

    @property
    def rows(self) -> tuple[Route, ...]:
        paths = {row.path for row in self.moved}
        return (*self.moved, *(row for row in ROUTES if row.path not in paths))

    def route(self, scheme: str, host: str, port: int, method: str, target: str, hosts: frozenset[str]) -> Route:
        """Return the row for a request to ``host``: where the connection goes, never what a ``Host`` header says.

        ``target`` is the path with its query; ``hosts`` are those of the backend and the pool's identities.
        """
        if host.lower() not in hosts or scheme != "https" or port != 443:
            return NO_BACKEND
        path = target.partition("?")[0]
        return route_of(method, path, self) if max(len(method), len(path)) <= LONGEST else NO_ROUTE

    def is_swapped_otherwise(self, path: str) -> bool:
        """Return whether a path is one of a swap row, whatever the method."""
        plain = normalised(path)
        return any(row.policy.swaps and _fits(row, plain) for row in self.rows)


AS_SHIPPED = Routes()


@lru_cache(maxsize=4096)
def route_of(method: str, path: str, routes: Routes = AS_SHIPPED) -> Route:
    """Return the row for a request on a host of the backend; `NO_ROUTE` if it has none."""
    plain = normalised(path)
    fitting = (r for r in routes.rows if _fits(r, plain) and (not r.methods or method in r.methods))
    return next(fitting, NO_ROUTE)


def _fits(route: Route, plain: str) -> bool:
    return plain.startswith(route.path) if route.path.endswith("/") else plain == route.path


def overlap(one: str, other: str) -> bool:
    """Return whether some path is covered by both of two rows."""
    return one == other or any(
        outer.endswith("/") and inner.startswith(outer) for outer, inner in ((one, other), (other, one))
    )


def why_fixed(path: str) -> str:
    """Return why pool.toml cannot move a path (``/`` at its end: and everything below it); empty if it can."""
    if not path.startswith("/backend-api/") or normalised(path) != path:
        return "is no path of the backend: those begin with /backend-api/"
    if path == f"{USAGE}/":
        return "is no path of the backend: the / at its end is too much"
    for fixed, why in FIXED.items():
        if path.startswith(fixed) or (path.endswith("/") and fixed.startswith(path)):
            return f"cannot be moved: {why}" if path.startswith(fixed) else f"includes {fixed}: {why}"
    if path == USAGE or path.startswith(CODEX):
        return ""
    return "cannot be moved: it acts for a person"


def moved(path: str, is_own: bool) -> Route:
    """Return the row of a path that pool.toml moves: to the client's own credential, or to an identity's.

    The client of a member has no credential of its own.
    """
    default = next((row for row in ROUTES if row.path == path), Route(path, Policy.SWAP))
    if is_own:
        return default._replace(policy=Policy.LENT_TO_MEMBERS)
    return default


def is_repeatable(method: str, path: str) -> bool:
    """Return whether a request under an identity may be sent once more though it may have reached the backend."""
    return method == "GET" or route_of(method, path).repeatable


def asks_for_stream(method: str, path: str) -> bool:
    return method == "POST" and normalised(path) == RESPONSES


def normalised(path: str) -> str:
    """Return a path as every server reads it: percent-decoded once. Empty if servers could differ on it.

    They do on dot segments, empty segments, ``;`` parameters, backslashes, a ``#``, and on what is still encoded
    after one decoding. No client sends any of that, so such a path equals no row and never gets a pooled credential.
    """
    return _normalised(path) if len(path) <= LONGEST else ""


@lru_cache(maxsize=4096)
def _normalised(path: str) -> str:
    plain = unquote(path, errors="replace")
    if path.count("/") != plain.count("/") or not _PLAIN.fullmatch(plain) or _DOTS & set(plain.split("/")):
        return ""
    return plain


@lru_cache(maxsize=256)
def host_of(origin: str) -> str:
    """Return the host of an origin such as ``https://gov.chatgpt.com``.

    Raise ValueError for anything but ``https://host``: a workspace is served over TLS, on the usual port.
    """
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise ValueError(f"not an https origin: {origin!r}")
    return match["host"].lower()
