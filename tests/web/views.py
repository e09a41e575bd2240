"""A proxy to look at: a pool and its history, without anything that runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from codexpool.config.model import IdentitySpec, Inline, PoolConfig
from codexpool.pool.identity import Condition, Identity, Kind, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Because, Selection
from codexpool.pool.verdict import Answer, classify
from codexpool.state.fleet import Fleet, Proxy
from codexpool.traces.history import History
from codexpool.traces.trace import AttemptTrace, Trace
from codexpool.web.status import View
from tests.pool.pools import NOW

POOL_TOML = Path("/somewhere/pool.toml")
REVOKED = classify(Answer(401, code="token_revoked"))
RESPONSES = "/backend-api/codex/responses"

_numbers = itertools.count(1)


def view(pool: Pool | None = None, history: History | None = None, **more: Any) -> View:
    known = {"listens": ("127.0.0.1:8080",), "started_at": NOW - 60, **more}
    return View(history if history is not None else History(), pool, **known)


def config(*names: str) -> PoolConfig:
    """A pool.toml with an identity on each tenth line."""
    specs = (IdentitySpec(name, Inline(f"at-test-{name}"), 10 * line) for line, name in enumerate(names, 1))
    return PoolConfig(POOL_TOML, Selection.HEADROOM, tuple(specs))


def fleet(*proxies: Proxy, is_connected: bool = True, waiting: int = 0, where: str = "postgresql://db/pool") -> Fleet:
    """What the proxy ``a`` knows of its fleet since a second."""
    return Fleet("postgresql", where, is_connected, NOW - 30, waiting, "a", proxies, NOW - 1)


def member_of_fleet(writer: str, silent: float = 2.0, host: str = "", version: str = "1.0") -> Proxy:
    return Proxy(writer, host or f"host-{writer}", version, 42, 100.0, silent, 7)


def many(count: int) -> Pool:
    """A pool of so many that are ready."""
    pool = Pool()
    names = [f"i{number}" for number in range(count)]
    pool.replace_identities(
        (
            Identity(
                name,
                Kind.PAT,
                f"{number:012x}",
                Condition(Status.READY, NOW),
                metadata=Metadata(f"account-{name}", f"user-{name}", "business"),
            )
            for number, name in enumerate(names)
        ),
        Selection.HEADROOM,
        NOW,
    )
    return pool


@contextmanager
def clock(at: float) -> Iterator[None]:
    """What happens to a history meanwhile, happens at that unix second."""
    with mock.patch("codexpool.traces.history.time", SimpleNamespace(time=lambda: at)):
        yield


def request(session: str | None = "session", path: str = RESPONSES, **more: Any) -> Trace:
    """The trace of a request that has just come."""
    return Trace(
        f"flow-{next(_numbers)}",
        *(NOW, "127.0.0.1", "POST", "https", "chatgpt.com", path, "swap", path, ()),
        session=session,
        **more,
    )


def served(history: History, one: Trace, identities: Iterable[str], status: int = 200, at: float = NOW) -> Trace:
    """A request that was served by the last of these, and refused under those before."""
    names = list(identities)
    with clock(at):
        history.began(one)
        for position, name in enumerate(names):
            because = Because.MOVED if position else Because.OWN
            attempt = AttemptTrace(name, "pat", "0123456789ab", f"acc-{name}", "https://chatgpt.com", because)
            one.attempts.append(attempt)
            history.assigned(one)
            attempt.sent((), at)
            if position < len(names) - 1:
                attempt.verdict, attempt.evidence = REVOKED, "401 token_revoked on codex/responses"
                history.judged(name, REVOKED)
        history.ended(one, status, stays_open=status == 101)
    return one
