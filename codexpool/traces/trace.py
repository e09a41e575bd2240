"""The trace of one request: what the client sent, what went upstream for which identity and why, and the answers.

A trace keeps raw headers, secrets included, in memory. `Trace.document` is the only way out, and redacts every value.
Recording costs a request a few assignments; nothing is redacted before it is read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from codexpool.pool.reasons import Candidacy
from codexpool.pool.selection import Because
from codexpool.pool.verdict import Verdict
from codexpool.redaction import redact_header, redact_text

Fields = tuple[tuple[bytes, bytes], ...]

VERSION = 1

METADATA = "codexpool"
"""The key of the trace in a flow's metadata; the trace becomes its document when the flow is saved."""

TURNS_KEPT = 16  # turns on one WebSocket that its trace keeps
WAITS_KEPT = 16
HEADERS_KEPT = 16_384  # bytes of headers that a trace keeps, per request or answer
FIELDS_KEPT = 200  # headers that a trace keeps, per request or answer
LONGEST_NAME = 256  # bytes of a header's name that are kept
LONGEST_PATH = 2_048  # characters of a path with its query that are kept
LONGEST_MESSAGE = 4_000  # characters kept of what codexpool answered in place of the backend: it names every identity

MEANS = {
    "swap": "sent under an identity of the pool",
    "swap, ids rewritten": "sent under an identity of the pool; in the answer its account's id becomes the client's",
    "lent": "asked under an identity of the pool, so that the client sees what the pool has left",
    "own": "passed on with the client's own credential: it acts for a person",
    "never": "not a host of the backend: passed on, untouched",
}
"""The policies of `codexpool.protocol.routes` in words."""

REQUEST_IDS = (b"x-request-id", b"x-oai-request-id")


def bounded(fields: Fields) -> Fields:
    """Return the headers to keep: if there are too many bytes, the longest values are dropped.

    They are dropped as a whole: a part of a secret would not be recognized as one.
    """
    if len(fields) <= FIELDS_KEPT and sum(map(len, chain.from_iterable(fields))) <= HEADERS_KEPT:
        return fields
    kept = [(n if len(n) <= LONGEST_NAME else b"(a name of %d bytes)" % len(n), v) for n, v in fields[:FIELDS_KEPT]]
    size = sum([len(name) + len(value) for name, value in kept])
    for index in sorted(range(len(kept)), key=lambda index: -len(kept[index][1])):
        if size <= HEADERS_KEPT:
            break
        name, value = kept[index]
        kept[index] = (name, b"(%d bytes, not kept)" % len(value))
        size -= len(value) - len(kept[index][1])
    return tuple(kept)


@dataclass(slots=True, repr=False)  # It would show headers.
class AttemptTrace:
    """One attempt. Times are unix seconds, None if it has not happened.

    ``fields`` is what went upstream. ``status`` is 0 if the connection was lost before the first byte.
    """

    identity: str
    kind: str
    fingerprint: str
    account_id: str
    origin: str
    because: Because
    candidates: Sequence[Candidacy] | None = None
    """None if no other identity was considered."""
    lighter: bool = False
    sent_at: float | None = None
    fields: Fields = ()
    answered_at: float | None = None
    status: int | None = None
    answer_fields: Fields = ()
    verdict: Verdict | None = None
    evidence: str = ""

    def sent(self, fields: Fields, at: float) -> None:
        self.fields, self.sent_at = bounded(fields), at

    def answered(self, status: int, fields: Fields, at: float) -> None:
        self.status, self.answer_fields, self.answered_at = status, bounded(fields), at

    @property
    def milliseconds(self) -> float | None:
        return _milliseconds(self.sent_at, self.answered_at)

    @property
    def request_id(self) -> str:
        named = (value for name, value in self.answer_fields if name.lower() in REQUEST_IDS)
        return next(named, b"").decode("latin-1")


@dataclass(slots=True)
class TurnTrace:
    """One turn on an open WebSocket; ``bytes_out`` are those of the request, ``bytes_in`` those of the answer."""

    at: float
    ended_at: float | None = None
    bytes_out: int = 0
    bytes_in: int = 0
    outcome: str = ""
    verdict: Verdict | None = None
    evidence: str = ""

    @property
    def milliseconds(self) -> float | None:
        return _milliseconds(self.at, self.ended_at)


@dataclass(slots=True, weakref_slot=True, repr=False)
class Trace:
    """One request of a client. ``fields`` are its raw headers; ``source`` is what named its session.

    ``observed``: nothing was changed, and the attempts tell what would have been done.
    """

    id: str
    at: float
    client: str
    method: str
    scheme: str
    host: str
    path: str
    policy: str
    row: str
    fields: Fields
    is_upgrade: bool = False
    observed: bool = False
    session: str | None = None
    source: str | None = None
    parent: str | None = None
    model: str = ""
    member: str = ""
    """The name of the member; empty without a member key."""
    number: int = 0
    request_bytes: int = 0
    """Bytes of its body, and of the client's messages on its WebSocket."""
    whole_at: float | None = None
    """When the request had arrived in full."""
    attempts: list[AttemptTrace] = field(default_factory=list)
    waits: list[tuple[str, float]] = field(default_factory=list)
    """What the request waited for, and for how many seconds."""
    turns: list[TurnTrace] = field(default_factory=list)
    answered_by: str = ""
    """``backend`` or ``codexpool``, once there is an answer."""
    message: str = ""
    """What codexpool answered in place of the backend."""
    status: int | None = None
    error: str | None = None
    bytes_in: int = 0
    """Bytes of the answer passed on so far, and of the backend's messages on its WebSocket."""
    first_byte_at: float | None = None
    ended_at: float | None = None
    is_open: bool = False
    """Whether it is an open WebSocket."""

    def __post_init__(self) -> None:
        self.fields = bounded(self.fields)
        if len(self.path) > LONGEST_PATH:
            path = self.path.partition("?")[0]
            self.path = path if len(path) <= LONGEST_PATH else f"/(a path of {len(path)} characters)"

    @property
    def attempt(self) -> AttemptTrace | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def refusals(self) -> list[str]:
        """Return the attempts whose answer did not go to the client, in words."""
        if self.observed:
            return []
        refused = self.attempts if self.answered_by == "codexpool" else self.attempts[:-1]
        return [f"{attempt.identity}: {attempt.evidence}" for attempt in refused if attempt.evidence]

    def summary(self) -> dict[str, Any]:
        """Return what events tell of the request, not redacted: they are kept longer than headers."""
        return {
            "flow": self.id,
            "at": self.at,
            "client": self.client,
            "member": self.member or None,
            "session": self.session,
            "model": self.model or None,
            "method": self.method,
            "host": self.host,
            "path": self.path,
            "attempts": len(self.attempts),
            "bytes_out": self.request_bytes,
            "bytes_in": self.bytes_in,
            "error": self.error,
            "refusals": self.refusals,
        }

    def replied(self, message: str) -> None:
        """Record what codexpool answers in place of the backend."""
        self.answered_by, self.message = "codexpool", message[:LONGEST_MESSAGE]

    def waited(self, what: str, seconds: float) -> None:
        if len(self.waits) < WAITS_KEPT:
            self.waits.append((what, seconds))

    def begin_turn(self, at: float) -> TurnTrace:
        turn = TurnTrace(at)
        self.turns.append(turn)
        del self.turns[:-TURNS_KEPT]
        return turn

    def count_bytes(self, piece: bytes) -> None:
        if not self.bytes_in:
            self.first_byte_at = time.time()
        self.bytes_in += len(piece)

    def document(self, with_headers: bool = True) -> dict[str, Any]:
        """Return the trace as a JSON document, without secrets; optionally without headers, most of its size."""
        path = redact_text(self.path)
        return {
            "version": VERSION,
            "id": self.id,
            "number": self.number,
            "at": self.at,
            "client": self.client,
            "member": redact_text(self.member) or None,
            "method": redact_text(self.method),
            "url": f"{self.scheme}://{redact_text(self.host)}{path}",
            "host": redact_text(self.host),
            "path": path,
            "transport": "websocket" if self.is_upgrade else "http",
            "observed": self.observed,
            "policy": {"name": self.policy, "row": self.row, "means": MEANS.get(self.policy, "")},
            "session": {
                "key": None if self.session is None else redact_text(self.session),
                "from": self.source,
                "parent": None if self.parent is None else redact_text(self.parent),
                "model": redact_text(self.model),
                "user_agent": redact_header("user-agent", _first(self.fields, b"user-agent")),
            },
            "request_headers": _described(self.fields) if with_headers else None,
            "request_bytes": self.request_bytes,
            "attempts": [_attempt(number, one, with_headers) for number, one in enumerate(self.attempts, 1)],
            "waits": [{"for": what, "milliseconds": _rounded(seconds)} for what, seconds in self.waits],
            "turns": [_turn(turn) for turn in self.turns],
            "answer": {
                "status": self.status,
                "by": self.answered_by or None,
                "message": redact_text(self.message),
                "bytes": self.bytes_in,
                "error": None if self.error is None else redact_text(self.error),
                "first_byte_at": self.first_byte_at,
            },
            "ended_at": self.ended_at,
            "time": [[what, _rounded(seconds)] for what, seconds in self._times()],
        }

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        # mitmproxy copies a flow's metadata when it saves or exports the flow: then, and only then, the trace becomes
        # its document.
        return self.document()

    def _times(self) -> Iterator[tuple[str, float]]:
        """Yield where the time was spent so far, in seconds."""
        answered = whole_at = self.at if self.whole_at is None else self.whole_at
        yield "reading the request", whole_at - self.at
        if self.waits:
            yield "waiting", sum(seconds for _, seconds in self.waits)
        for number, attempt in enumerate(self.attempts, 1):
            if attempt.sent_at is not None and attempt.answered_at is not None:
                seconds = attempt.answered_at - attempt.sent_at
                yield f"attempt {number} ({redact_text(attempt.identity)}), until its answer began", seconds
                answered = max(answered, attempt.answered_at)
        if self.ended_at is not None:
            doing = "with the socket open" if self.is_upgrade and self.status == 101 else "passing the answer on"
            yield doing, max(0.0, self.ended_at - answered)


COPIED = ("kind", "fingerprint", "sent_at", "lighter", "answered_at", "status", "milliseconds")


def _attempt(number: int, attempt: AttemptTrace, with_headers: bool) -> dict[str, Any]:
    candidates = None if attempt.candidates is None else [_candidate(one) for one in attempt.candidates]
    return {
        "number": number,
        **{name: getattr(attempt, name) for name in COPIED},
        **{name: redact_text(getattr(attempt, name)) for name in ("identity", "account_id", "origin", "evidence")},
        "because": str(attempt.because),
        "candidates": candidates,
        "request_headers": _described(attempt.fields) if with_headers else None,
        "response_headers": _described(attempt.answer_fields) if with_headers else None,
        "request_id": redact_header("x-request-id", attempt.request_id),
        "verdict": _verdict(attempt.verdict),
    }


def _turn(turn: TurnTrace) -> dict[str, Any]:
    texts = {"outcome": redact_text(turn.outcome), "evidence": redact_text(turn.evidence)}
    sizes = {"request_bytes": turn.bytes_out, "bytes": turn.bytes_in}
    return {"at": turn.at, "milliseconds": turn.milliseconds, **sizes, "verdict": _verdict(turn.verdict), **texts}


def _verdict(verdict: Verdict | None) -> dict[str, str] | None:
    if verdict is None:
        return None
    return {"row": verdict.row, "finding": str(verdict.finding), "next": str(verdict.next)}


def _candidate(candidate: Candidacy) -> dict[str, Any]:
    reasons = {"for": candidate.speaks_for, "against": candidate.speaks_against}
    texts = {name: list(map(redact_text, texts)) for name, texts in reasons.items()}
    return {"name": redact_text(candidate.name), "chosen": candidate.chosen, **texts}


def _described(fields: Fields) -> list[list[str]]:
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)
    return [[redact_text(name), redact_header(name, value)] for name, value in pairs]


def _first(fields: Fields, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in fields if name.lower() == wanted), "")


def _milliseconds(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else _rounded(end - begin)


def _rounded(seconds: float) -> float:
    return round(seconds * 1000, 1)
