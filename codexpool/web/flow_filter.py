"""Which of the kept requests a query asks for: by identity, session, member and outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from codexpool.traces.trace import Trace
from codexpool.views.limits import safe


def _failed(trace: Trace) -> bool:
    return (
        trace.error is not None or (trace.status is None and trace.ended_at is not None) or (trace.status or 0) >= 400
    )


OUTCOMES: Final[Mapping[str, Callable[[Trace], bool]]] = {
    "open": lambda trace: trace.ended_at is None,
    "served": lambda trace: trace.status is not None and not _failed(trace),
    "refused": lambda trace: bool(trace.refusals),
    "failed": _failed,
}
"""The outcomes that can be asked for. A request that was refused under one identity may be served under another."""


def is_wanted(trace: Trace, query: Mapping[str, str]) -> bool:
    """Return whether a request meets all filters of a query; an empty filter is none.

    ``session`` is a part of a session's key as it is shown, ``identity`` one that the request was tried with. Raises
    ValueError if the outcome is unknown.
    """
    outcome, identity = query.get("outcome", ""), query.get("identity", "")
    if outcome and outcome not in OUTCOMES:
        raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}")
    return (
        (not outcome or OUTCOMES[outcome](trace))
        and (not identity or any(attempt.identity == identity for attempt in trace.attempts))
        and query.get("session", "") in safe(trace.session or "")
        and query.get("member", "") in ("", trace.member)
    )
