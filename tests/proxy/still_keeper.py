"""A keeper without files or background work, and the flow of a small request: for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mitmproxy import http
from mitmproxy.test import tflow

from codexpool.config.model import PoolConfig
from codexpool.members.ledger import Ledger
from codexpool.members.turn_queue import TurnQueue
from codexpool.pool.identity import Asked, Condition, Identity, IdentityKey, Kind, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Selection
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.keeper import Keeper
from codexpool.upkeep.leasing import Leasing
from codexpool.upkeep.model_lists import ModelLists

REFUSAL: Final = b'{"error":{"code":"token_expired","message":"expired"}}'

HEADERS: Final = (
    "host: chatgpt.com\r\nversion: 0.169.0\r\nx-codex-beta-features: remote_compaction_v2\r\n"
    "session-id: {session}\r\nthread-id: {session}\r\nx-client-request-id: {session}\r\n"
    "authorization: Bearer at-test-client-0123456789abcdef\r\nchatgpt-account-id: acc-client\r\n"
    "originator: codex_exec\r\nuser-agent: codex_exec/0.169.0 (Debian 12.0.0; x86_64) dumb\r\n"
)
"""The head of a request as Codex sends it."""


class UnreadLists(ModelLists):
    """Remembers what was asked for, and reads nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.named: list[tuple[str, str, str]] = []

    def client_asks(self, version: str, *, is_answered: bool) -> None:
        self.asked.append((version, is_answered))

    def answer_names(self, name: str, version: str, etag: str) -> None:
        self.named.append((name, version, etag))


class StillKeeper(Keeper):
    """Serve named identities that stay ready."""

    def __init__(self, *names: str) -> None:
        self._bearers = {name: Bearer.of(f"at-test-{name}-0123456789abcdef") for name in names}
        self.hosts = frozenset({"chatgpt.com"})
        self.config = PoolConfig(Path("pool.toml"), Selection.DRAIN_FIRST, ())
        self.pool = Pool()
        self.models = self.lists = UnreadLists()
        self.count_in(Ledger(lambda account, spent: None))
        self.reset()

    def count_in(self, ledger: Ledger) -> None:
        """Count turns in a ledger, and bound them without a state."""
        self.ledger, self.queue = ledger, TurnQueue(self.config.turns_at_once)
        self.leasing = Leasing(self.queue, ledger, lambda asks: {}, lambda: False)

    def reset(self) -> None:
        """Make every identity ready again."""
        self.pool.states.identities = {}
        identities = [
            Identity(
                name,
                Kind.PAT,
                bearer.fingerprint,
                Condition(Status.READY, 0),
                metadata=Metadata(f"acc-{name}", f"user-{name}", "business"),
            )
            for name, bearer in self._bearers.items()
        ]
        self.pool.replace_identities(identities, Selection.DRAIN_FIRST, 0)

    def bearer(self, name: str) -> Bearer:
        return self._bearers[name]

    def served(self, name: str, asked: Asked, sent_at: float) -> None:
        """Record nothing."""

    def saw_usage(self, key: IdentityKey) -> None:
        """Tell the pool only."""
        self.pool.saw_usage(key)


def headers_of(number: int) -> str:
    """The headers of client ``number``, each of which has a session of its own."""
    return HEADERS.format(session=f"0199aaaa-bbbb-7ccc-8ddd-{number:012d}")


def flow(number: int) -> http.HTTPFlow:
    """A small request for the model."""
    lines = f"{headers_of(number)}content-length: 8".encode().split(b"\r\n")
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    target, body = b"/backend-api/codex/responses", b"12345678"
    flow = tflow.tflow()
    flow.request = http.Request(
        "chatgpt.com", 443, b"POST", b"https", b"", target, b"HTTP/1.1", http.Headers(fields), body, None, 0, 0
    )
    return flow
