from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codexpool.protocol.endpoints import ACCOUNTS_CHECK
from codexpool.protocol.routes import (
    AS_SHIPPED,
    ROUTES,
    Policy,
    Routes,
    host_of,
    moved,
    normalised,
    route_of,
    why_fixed,
)

HOSTS = frozenset({"chatgpt.com", "gov.chatgpt.com"})
CODEX = "/backend-api/codex"

SWAPPED = [
    ("POST", f"{CODEX}/responses"),
    ("GET", f"{CODEX}/responses"),
    ("POST", f"{CODEX}/responses/compact"),
    ("GET", f"{CODEX}/models"),
    ("POST", f"{CODEX}/memories/trace_summarize"),
    ("POST", f"{CODEX}/images/generations"),
    ("GET", f"{CODEX}/alpha/search"),
    ("POST", f"{CODEX}/realtime/calls"),
    ("POST", f"{CODEX}/%72esponses"),
]

PERSONAL = ["", "notes", "notes/v2/list", "history", "history/v2/search", "search/", "search/x", "searches"]
"""What is beside the search: the notes and the history of a person."""

OWN = [
    ("DELETE", f"{CODEX}/responses"),
    ("GET", f"{CODEX}/responses/abc"),
    ("POST", f"{CODEX}/responses/"),
    ("POST", f"{CODEX}/responsesx"),
    ("POST", f"{CODEX}"),
    ("POST", "/codex/responses"),
    ("POST", "/Backend-Api/Codex/Responses"),
    ("POST", f"{CODEX}/analytics-events/events"),
    ("GET", f"{CODEX}/memories"),
    *((method, f"{CODEX}/alpha/{rest}") for method in ("GET", "POST") for rest in PERSONAL),
    ("POST", ACCOUNTS_CHECK),
    ("POST", "/backend-api/wham/usage"),
    ("GET", "/backend-api/wham/usage/thread_usage/query"),
    ("GET", "/backend-api/wham/settings/user"),
    ("GET", "/backend-api/ps/plugins/installed"),
    ("GET", "/backend-api/accounts/check/v4-2023-04-27"),
    ("GET", "/"),
    ("OPTIONS", "*"),
    ("POST", ""),
]

AMBIGUOUS = [
    f"/{CODEX}/responses",
    f"{CODEX}//responses",
    f"{CODEX}/memories//search",
    f"{CODEX}/memories//../responses",
    f"{CODEX}/memories/../responses",
    f"{CODEX}/./responses",
    f"{CODEX}/responses/.",
    f"{CODEX}/responses/x/..",
    f"{CODEX}/memories/..",
    f"{CODEX}/memories/../../wham/tasks",
    f"{CODEX}/memories/%2e%2e/%2E%2E/wham/tasks",
    f"{CODEX}/memories/.%2e/.%2e/wham/tasks",
    f"{CODEX}/memories/%252e%252e/%252e%252e/wham/tasks",
    f"{CODEX}/%2572esponses",
    f"{CODEX}/memories/..%2f..%2fwham/tasks",
    f"{CODEX}/memories/..%5c..%5cwham/tasks",
    f"{CODEX}/memories/..\\..\\wham\\tasks",
    f"{CODEX}/memories/..;/..;/wham/tasks",
    f"{CODEX}/memories/..%3b/..%3b/wham/tasks",
    f"{CODEX}/memories/%c0%ae%c0%ae/%c0%ae%c0%ae/wham/tasks",
    f"{CODEX}/responses;x=y",
    f"{CODEX}/responses#/../../wham/tasks",
    f"{CODEX}/responses%23",
    f"{CODEX}/memories/x%3f/../../../wham/tasks",
    f"{CODEX}/memories/x%00",
    f"{CODEX}/memories/%",
    f"{CODEX}/memories/x%0d%0ahost:y",
    f"{CODEX}/memories/x y",
    f"{CODEX}/memories/\u2025",
    f"{CODEX}%2fresponses",
    f"%2f{CODEX}/responses",
    f"x{CODEX}/responses",
    f"https://chatgpt.com{CODEX}/responses",
    f"//chatgpt.com{CODEX}/responses",
]


@pytest.mark.parametrize(("method", "path"), SWAPPED)
def test_what_the_table_lists_is_swapped(method: str, path: str) -> None:
    assert route_of(method, path).policy is Policy.SWAP


def test_ids_are_rewritten_in_routing_discovery_only() -> None:
    assert route_of("GET", ACCOUNTS_CHECK).policy is Policy.SWAP_IDS
    assert {route.path for route in ROUTES if route.policy is Policy.SWAP_IDS} == {ACCOUNTS_CHECK}


@pytest.mark.parametrize(("method", "path"), OWN)
def test_whatever_is_not_listed_keeps_the_clients_own_credential(method: str, path: str) -> None:
    assert route_of(method, path).policy is Policy.OWN


@pytest.mark.parametrize("path", AMBIGUOUS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_ambiguous_path_never_gets_a_pooled_credential(method: str, path: str) -> None:
    """Servers may read it differently."""
    assert normalised(path) == ""
    assert route_of(method, path).policy is Policy.OWN


def readings(path: str) -> set[str]:
    """What servers are known to make of a path: decoded or not, once or more, before or after dots are resolved."""
    found = {path}
    for _ in range(4):
        found |= {unquote(one) for one in found}
        found |= {one.replace("\\", "/") for one in found}
        found |= {"/".join(segment.partition(";")[0] for segment in one.split("/")) for one in found}
        found |= {one.partition("#")[0].partition("?")[0] for one in found}
        found |= {posixpath.normpath(one) + ("/" if one.endswith("/") else "") for one in found}
        while any("//" in one for one in found):
            found = {one.replace("//", "/") for one in found}
    return found


pieces = st.sampled_from(
    [
        *("/", "//", ".", "..", "%2e", "%2E", "%252e", "%2f", "%2F", "%5c", "\\", ";", "%3b", "#", "%23", "%3f"),
        *("%00", "%25", "%", "~", "x", "%78", "%c0%ae", "responses", "compact", "models", "alpha", "images", "wham"),
        *("/../", "/./", "/..;/", "/backend-api", "/codex", "é", " ", "\t"),
    ]
)
paths = st.tuples(
    st.sampled_from(["", CODEX, f"{CODEX}/responses", *[route.path for route in ROUTES]]),
    st.lists(pieces, max_size=8).map("".join),
).map("".join)


@given(st.sampled_from(["GET", "POST"]), paths)
@example("POST", f"{CODEX}/memories//../x")
@example("POST", f"{CODEX}/models/.")
@example("POST", f"{CODEX}/memories/..;/x")
def test_swapped_path_is_the_same_for_every_server(method: str, path: str) -> None:
    if route_of(method, path).policy.swaps:
        assert readings(path) - {path} <= {normalised(path)}


@given(paths | st.text())
def test_normalising_twice_changes_nothing(path: str) -> None:
    assert normalised(normalised(path)) == normalised(path)


# -- hosts


def asks(host: str, scheme: str = "https", port: int = 443, target: str = f"{CODEX}/responses") -> Policy:
    return AS_SHIPPED.route(scheme, host, port, "POST", target, HOSTS).policy


@pytest.mark.parametrize("host", ["chatgpt.com", "ChatGPT.com", "gov.chatgpt.com"])
def test_hosts_of_the_pool_are_swapped(host: str) -> None:
    assert asks(host) is Policy.SWAP


@pytest.mark.parametrize(
    "host",
    [
        *("", "api.openai.com", "auth.openai.com", "ab.chatgpt.com", "localhost", "127.0.0.1"),
        *("chatgpt.com.example.org", "xchatgpt.com", "chatgpt.com.", " chatgpt.com", "chatgpt.com:443"),
        "\u0441hatgpt.com",  # its first letter is a Cyrillic one
        *("chatgpt.com\n", "chatgpt.com\x00", "CHATGPT.COM.", "us.chatgpt.com"),
    ],
)
def test_no_pooled_secret_leaves_for_another_host(host: str) -> None:
    assert asks(host) is Policy.NEVER


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("http", 443), ("https", 8443), ("https", 80), ("", 443)])
def test_no_pooled_secret_leaves_without_tls_or_for_another_port(scheme: str, port: int) -> None:
    assert asks("chatgpt.com", scheme, port) is Policy.NEVER


@pytest.mark.parametrize("query", ["", "?", "?client_version=0.169.0", "?x=/../wham", "?a?b", "?x=%2e%2e#y"])
def test_query_has_no_say(query: str) -> None:
    assert asks("chatgpt.com", target=f"{CODEX}/responses{query}") is Policy.SWAP
    assert asks("chatgpt.com", target=f"/backend-api/wham/tasks{query}") is Policy.OWN


def test_query_cannot_name_a_path() -> None:
    assert asks("chatgpt.com", target=f"/?{CODEX}/responses") is Policy.OWN


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://chatgpt.com", "chatgpt.com"),
        ("https://gov.chatgpt.com/", "gov.chatgpt.com"),
        ("https://GOV.chatgpt.com:443", "gov.chatgpt.com"),
    ],
)
def test_host_of_an_origin(origin: str, host: str) -> None:
    assert host_of(origin) == host


@pytest.mark.parametrize(
    "origin",
    [
        *("", "chatgpt.com", "//chatgpt.com", "http://chatgpt.com", "https://", "https://:443", "wss://chatgpt.com"),
        *("https://chatgpt.com:8443", "https://chatgpt.com:port", "https://chatgpt.com:99999999", "https://[::1"),
        *("https://user@chatgpt.com", "https://chatgpt.com@example.org", "https://@chatgpt.com"),
        *("https://chatgpt.com/path", "https://chatgpt.com?x", "https://chatgpt.com#x", "https://chatgpt.com/?x"),
        *("https://chatgpt.com\\.example.org", "https://chat gpt.com", "https://chat\ngpt.com"),
        *("https://chatgpt.com%00", "https://chatgpt.com\n", "https://chatgpt..com", "https://.chatgpt.com"),
    ],
)
def test_what_is_no_https_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="not an https origin"):
        host_of(origin)


@pytest.mark.parametrize(
    ("path", "policy", "is_for_all"),
    [
        ("/backend-api/wham/usage", Policy.LENT, True),
        ("/backend-api/wham/config/bundle", Policy.LENT_TO_MEMBERS, False),
    ],
)
def test_what_is_lent_may_leave_with_the_clients_own_credential(path: str, policy: Policy, is_for_all: bool) -> None:
    assert route_of("GET", path).policy is policy
    assert not policy.swaps
    assert policy.takes_identity is is_for_all
    assert route_of("POST", path).policy is Policy.OWN


# -- what pool.toml moves


@pytest.mark.parametrize(
    "path",
    [
        *("/backend-api/wham/usage", f"{CODEX}/models", f"{CODEX}/images/", f"{CODEX}/images/edits"),
        *(f"{CODEX}/alpha/search", f"{CODEX}/realtime/", f"{CODEX}/a-new-endpoint", f"{CODEX}/new/"),
    ],
)
def test_what_a_pool_may_move(path: str) -> None:
    """Endpoints of the model's own, also those that this version does not know; and what is left."""
    below = f"{path}x" if path.endswith("/") else path
    own, swapped = Routes((moved(path, is_own=True),)), Routes((moved(path, is_own=False),))

    assert why_fixed(path) == ""
    assert route_of("GET", below, own).policy is Policy.LENT_TO_MEMBERS
    assert route_of("GET", below, swapped).policy.takes_identity


@pytest.mark.parametrize(
    "path",
    [
        *(f"{CODEX}/responses", f"{CODEX}/responses/compact", ACCOUNTS_CHECK, "/backend-api/wham/config/bundle"),
        *(f"{CODEX}/alpha/notes/v2/list", f"{CODEX}/alpha/history/", f"{CODEX}/analytics-events/events"),
        *("/backend-api/wham/rate-limit-reset-credits/consume", "/backend-api/wham/tasks", "/backend-api/ps/mcp"),
        *("/backend-api/wham/remote/control/enroll", "/backend-api/accounts/x", "/backend-api/wham/"),
        *(f"{CODEX}/", f"{CODEX}/alpha/", "/backend-api/", "/", "", "codex/models", "https://chatgpt.com/x"),
        *(f"{CODEX}/models?x", f"{CODEX}/images/../responses", f"{CODEX}//models", f"{CODEX}/%6dodels"),
    ],
)
def test_what_no_pool_may_move(path: str) -> None:
    assert why_fixed(path)


moves = st.lists(st.sampled_from(["models", "images/", "alpha/search", "new", "alpha/x"]), unique=True, max_size=3)


@given(moves, st.booleans(), st.sampled_from(["GET", "POST"]), paths)
def test_a_move_changes_the_policy_of_its_path_only(names: list[str], is_own: bool, method: str, path: str) -> None:
    rows = tuple(moved(f"{CODEX}/{name}", is_own) for name in names)
    plain = normalised(path)
    is_theirs = any(plain.startswith(row.path) if row.path.endswith("/") else plain == row.path for row in rows)

    if not is_theirs:
        assert route_of(method, path, Routes(rows)) == route_of(method, path)


def test_other_methods_of_a_moved_path_are_no_longer_guarded() -> None:
    models = f"{CODEX}/models"

    assert AS_SHIPPED.is_swapped_otherwise(models)
    assert not Routes((moved(models, is_own=True),)).is_swapped_otherwise(models)
