"""One request that is observed: what would be done with it, and what its answer would have led to.

The words of `codexpool.pool` are asked for, and nothing is carried out. An answer that the client has got for itself
says nothing of the pool's identities: only the pool's own decisions change it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mitmproxy import http

from codexpool.pool.because import Because
from codexpool.pool.identity import Asked, Evidence, Identity
from codexpool.pool.needs import NAMES, nobody
from codexpool.pool.reasons import LOOKED_AROUND, Candidacy, candidacies
from codexpool.pool.recovery import NobodyServes, Outcome, Pause, Relay, Renew, Step, Steps, Try, Wait, attempts
from codexpool.pool.verdict import NOT_PORTABLE, Answer, Verdict, classify
from codexpool.protocol.headers import TURN_STATE, first_values
from codexpool.protocol.routes import asks_for_stream
from codexpool.protocol.stream_events import Beginning
from codexpool.proxy import judge as judging
from codexpool.proxy.judge import Said
from codexpool.proxy.observe.pool import Consulted, is_known
from codexpool.traces.trace import AttemptTrace, Trace

KEPT = 2**20
"""Bytes of an answer that the flow shows. A longer one has passed by, and part of it could not be read."""


class Passing:
    """Passes the pieces of an answer on as they are, and keeps them to be looked at.

    mitmproxy calls it with each of them (it is a ``response.stream``), and with an empty one at the end.
    ``beginning`` is for a stream of events, which may say first that it has failed.
    """

    def __init__(self, trace: Trace, beginning: Beginning | None) -> None:
        self.has_ended = False
        self.failure: Said | None = None
        self._trace = trace
        self._beginning = beginning
        self._pieces: list[bytes] | None = []
        self._kept = 0

    def __call__(self, piece: bytes) -> bytes:
        try:
            self._look(piece)
        except Exception:  # Whatever it is, the client waits for this piece.
            self._pieces = self._beginning = None
        return piece

    @property
    def content(self) -> bytes | None:
        """What has passed by; None where that is too much."""
        return None if self._pieces is None else b"".join(self._pieces)

    def _look(self, piece: bytes) -> None:
        self.has_ended = not piece
        if not piece:
            return
        self._trace.count_bytes(piece)
        self._kept += len(piece)
        if self._pieces is not None:
            self._pieces.append(piece)
        if self._kept > KEPT:
            self._pieces = None
        if self._beginning is not None and (found := self._beginning.take(piece)) is not False:
            self._beginning = None
            self.failure = judging.of_event(found) if isinstance(found, dict) else None


@dataclass(slots=True)
class Observation:
    """What is known of an observed request. ``consulted`` is None where there is no pool.

    ``would`` says what would be done, ``came`` what has come, and ``led_to`` what that would have led to.
    """

    trace: Trace
    asked: Asked
    consulted: Consulted | None
    would: str = "it is not said what would be done"
    came: str = ""
    led_to: str = ""
    has_left: bool = False
    is_lost: bool = False
    passing: Passing | None = None
    _steps: Steps | None = field(default=None, repr=False)
    _identity: Identity | None = None
    """Under whom it would be sent."""

    def decide(self, closed: str, at: float) -> None:
        """What would be done with the request; ``closed`` says why it would be refused, if it would be."""
        if closed:
            self.would = f"would be refused: {closed}"
            self.trace.message = f"codexpool: {closed}"
        elif self.consulted is None:
            self.would = "there is no pool: would be passed on"
        else:
            self._steps = attempts(self.consulted.pool, self.asked, time.time, time.monotonic)
            self.would = self._words(self._next(None), at)

    def left(self, at: float) -> None:
        """The request is on its way."""
        self.has_left = True
        attempt = self.trace.attempt
        if attempt is not None and attempt.sent_at is None:
            attempt.sent_at = at

    def answered(self, response: http.Response, at: float) -> None:
        """The head of the answer has come."""
        attempt, fields = self.trace.attempt, response.headers.fields
        if attempt is not None:
            attempt.answered(response.status_code, fields, at)
        if (turn_state := first_values(fields).get(TURN_STATE)) is not None:
            self.issued(turn_state)

    def issued(self, turn_state: bytes) -> None:
        """A turn state has come: of whom, had it been sent as it would have been?"""
        if self.consulted is not None and self._identity is not None and self._identity.metadata is not None:
            self.consulted.turn_states.issued(turn_state, self._identity.metadata.key)

    def judge(self, said: Said, repeatable: bool, lightens: Callable[[], bool]) -> None:
        """What the answer would have led to, had the request been sent as it would have been."""
        attempt = self.trace.attempt
        if attempt is None or self._identity is None:
            return
        attempt.verdict, evidence = self.verdict(said, self.trace.method, repeatable, lightens)
        if 0 < said.status < 400:
            return
        attempt.evidence = str(evidence)
        if said.status:
            self.came = f"answered {attempt.evidence}"
        else:
            attempt.answered(0, (), evidence.at)
        row, after = attempt.verdict.row, self._words(self._next(attempt.verdict), evidence.at)
        self.led_to = f" (row {row}: {after})"

    def verdict(
        self, said: Said, method: str, repeatable: bool, lightens: Callable[[], bool]
    ) -> tuple[Verdict, Evidence]:
        """The row for an answer to the identity that would have been asked, and why."""
        identity = self._identity
        assert identity is not None
        answer = Answer(
            said.status,
            html=said.html,
            mitigated=b"cf-mitigated" in said.values,
            code=said.code,
            message=said.message,
            kind=identity.kind,
            repeatable=repeatable,
            lightens=said.code == NOT_PORTABLE and lightens(),
        )
        note = "" if said.status else said.message
        path = self.asked.path
        return classify(answer), Evidence(
            time.time(), method, path, said.status, said.code, said.request_id, note=note
        )

    @property
    def words(self) -> str:
        """All of it."""
        return f"{self.would}; {self.came}{self.led_to}" if self.came else self.would

    @property
    def is_decided(self) -> bool:
        """Whether there is an identity that it would be sent under."""
        return self._identity is not None

    # -- what the pool says

    def _next(self, verdict: Verdict | None) -> Step | Outcome:
        """What is next; an attempt is in the trace then."""
        step = self._advanced(verdict)
        if isinstance(step, Pause):
            self.trace.waited("a pause before another attempt (not made)", 0.0)
            step = self._advanced(None)
        if isinstance(step, Try):
            self._attempted(step.identity, step.lighter, None)
        elif isinstance(step, Renew):
            self.trace.waited(f"another token of {step.identity.name} (not waited for)", 0.0)
            self._attempted(step.identity, False, Because.PREFERRED)
        return step

    def _advanced(self, verdict: Verdict | None) -> Step | Outcome:
        assert self._steps is not None
        try:
            return self._steps.send(verdict)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome

    def _attempted(self, identity: Identity, lighter: bool, because: Because | None) -> None:
        """An attempt that would be made."""
        assert self.consulted is not None
        assert identity.metadata is not None
        trace, pool = self.trace, self.consulted.pool
        because = because or pool.because
        attempt = AttemptTrace(
            identity.name,
            identity.kind,
            identity.fingerprint if is_known(identity) else "",
            identity.metadata.account_id,
            identity.metadata.origin,
            because,
            self._candidates(identity) if because in LOOKED_AROUND or trace.attempts else None,
            lighter,
        )
        for_stream = asks_for_stream(trace.method, trace.path.partition("?")[0])
        attempt.fields = self.consulted.fields(identity, trace.fields, for_stream)
        self._identity = identity
        trace.attempts.append(attempt)

    def _candidates(self, chosen: Identity) -> list[Candidacy]:
        assert self.consulted is not None
        refused = {attempt.identity for attempt in self.trace.attempts}
        found = candidacies(self.consulted.pool, self.asked, refused, chosen.name, time.time())
        return [self._noted(candidacy) for candidacy in found]

    def _noted(self, candidacy: Candidacy) -> Candidacy:
        assert self.consulted is not None
        note = self.consulted.notes.get(candidacy.name)
        return candidacy._replace(speaks_for=(*candidacy.speaks_for, note)) if note else candidacy

    def _words(self, step: Step | Outcome, at: float) -> str:
        again = "again " if len(self.trace.attempts) > 1 else ""
        match step:
            case Try(identity, lighter):
                how = " without its encrypted reasoning" if lighter else ""
                return f"would be sent {again}as {self._who(identity)}{how}"
            case Renew(identity):
                return f"would be sent again as {identity.name}, once that has another token"
            case Wait(seconds):
                return f"would wait for an identity to become ready, {seconds:.0f} s at most"
            case Pause(seconds):
                return f"would wait {seconds:.1f} s"
            case Relay():
                return "would be passed on to the client"
            case NobodyServes():
                assert self.consulted is not None
                self.trace.message = nobody(self.consulted.pool, self.asked, at).message
                return f"nobody would serve: {self.trace.message.removeprefix('codexpool: ')}"

    def _who(self, identity: Identity) -> str:
        assert self.consulted is not None
        attempt = self.trace.attempts[-1]
        kind = NAMES[identity.kind] + (f" sha256:{attempt.fingerprint}" if attempt.fingerprint else "")
        words = [kind, str(attempt.because)]
        if (note := self.consulted.notes.get(identity.name)) is not None:
            words.append(note)
        return f"{identity.name} ({', '.join(words)})"
