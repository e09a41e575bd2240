"""One observed request: what would be done with it, and what its answer would have led to.

The decisions are those of a serving pool: the same recovery, verdicts and headers. None of them is carried out, and
an answer to the client's own credential teaches the pool nothing about its identities.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from codexpool.pool.identity import Evidence, Kind
from codexpool.pool.needs import NAMES, no_identity
from codexpool.pool.recovery import Look, LookUp, NobodyServes, Outcome, Pause, Relay, Renew, Step, Try, Wait
from codexpool.pool.selection import Because
from codexpool.pool.verdict import NOT_PORTABLE, Verdict
from codexpool.protocol.routes import asks_for_stream
from codexpool.protocol.stream_events import Beginning
from codexpool.proxy.attempts import begin, follow_verdict, start
from codexpool.proxy.exchange import Exchange
from codexpool.proxy.judge import BackendAnswer, judge, of_event
from codexpool.proxy.observe.pool import Consulted, is_known
from codexpool.traces.trace import Trace

KEPT = 2**20  # Longest answer, in bytes, that the flow shows.


class Passing:
    """Passes the pieces of an answer on as they come, and keeps them (a ``response.stream`` of mitmproxy).

    ``beginning`` reads a stream of events, which may begin with a failure.
    """

    def __init__(self, trace: Trace, beginning: Beginning | None) -> None:
        self.has_ended = False
        self.failure: BackendAnswer | None = None
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
        """What was passed on; None if it was too much to keep."""
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
            self.failure = of_event(found) if isinstance(found, dict) else None


@dataclass(slots=True)
class Observation:
    """What is known of an observed request. ``consulted`` is None without a pool."""

    exchange: Exchange
    consulted: Consulted | None
    would: str = "what would be done is not known"
    came: str = ""  # What the client got.
    led_to: str = ""  # What would have been done next.
    has_left: bool = False
    is_lost: bool = False
    passing: Passing | None = field(default=None, repr=False)

    @property
    def trace(self) -> Trace:
        return self.exchange.trace

    @property
    def words(self) -> str:
        return f"{self.would}; {self.came}{self.led_to}" if self.came else self.would

    def decide(self, closed: str, at: float) -> None:
        """Note what would be done with the request; ``closed`` is why it would be refused, if so."""
        if closed:
            self.would = f"would be refused: {closed}"
            self.trace.message = f"codexpool: {closed}"
        elif self.consulted is None:
            self.would = "there is no pool: would be passed on"
        else:
            start(self.exchange, self.consulted)
            self.would = self._words(self._settled(self.consulted), at)

    def left(self, at: float) -> None:
        """Note that the request left."""
        self.has_left = True
        attempt = self.trace.attempt
        if attempt is not None and attempt.sent_at is None:
            attempt.sent_at = at

    def issued(self, turn_state: bytes) -> None:
        """Note a turn state as issued to the identity that would have been used."""
        if self.consulted is not None and self.exchange.tries:
            self.consulted.turn_states.issued(turn_state, self.exchange.attempt.metadata.key)

    def served(self) -> None:
        """Note that the identity would have served a turn of this client."""
        if self.consulted is not None and self.exchange.tries:
            key = self.exchange.attempt.metadata.key
            self.consulted.pool.sessions.note_served(self.exchange.asked.client, key)

    def judge(self, received: BackendAnswer, repeatable: bool, lightens: bool) -> None:
        """Note what the answer would have led to, had the identity of the pool got it."""
        if self.consulted is None or not self.exchange.tries:
            return
        attempt = self.exchange.attempt.trace
        attempt.verdict, evidence = self.verdict(received, self.trace.method, repeatable, lightens)
        if 0 < received.status < 400:
            if self.exchange.is_turn:
                self.served()
            return
        attempt.evidence = str(evidence)
        if received.status:
            self.came = f"answered {attempt.evidence}"
        else:
            attempt.answered(0, (), evidence.at)
        follow_verdict(self.exchange, self.consulted, attempt.verdict)
        self.led_to = f" (row {attempt.verdict.row}: {self._words(self._settled(self.consulted), evidence.at)})"

    def verdict(
        self, received: BackendAnswer, method: str, repeatable: bool, lightens: bool
    ) -> tuple[Verdict, Evidence]:
        """Return the verdict on an answer, had the identity of the pool got it, and the evidence for it."""
        assert self.consulted is not None
        pool, asked, attempt = self.consulted.pool, self.exchange.asked, self.exchange.attempt
        lightens = lightens and received.code == NOT_PORTABLE
        return judge(pool, asked, attempt, method, received, repeatable=repeatable, lightens=lightens)

    def _settled(self, consulted: Consulted) -> Step | Outcome:
        """Return the next step without waiting for anything; an attempt gets the headers it would be sent with."""
        exchange = self.exchange
        if isinstance(exchange.step, Pause):
            self.trace.waited("a pause before another attempt (not made)", 0.0)
            follow_verdict(exchange, consulted, None)
        if isinstance(exchange.step, Look):
            self.trace.waited("the backend's word on limited identities (not asked for)", 0.0)
            follow_verdict(exchange, consulted, None)
        step = exchange.step
        assert step is not None
        if isinstance(step, Renew):
            self.trace.waited(f"another token of {step.identity.name} (not waited for)", 0.0)
            begin(exchange, consulted, Try(step.identity))
            exchange.attempt.trace.because = Because.PREFERRED
        if isinstance(step, Try | Renew):
            attempt, trace = exchange.attempt, exchange.attempt.trace
            for_stream = asks_for_stream(self.trace.method, self.trace.path.partition("?")[0])
            trace.fields = consulted.fields(attempt.name, self.trace.fields, for_stream)
            if not is_known(step.identity):
                trace.fingerprint = ""
            if trace.candidates is not None:
                trace.candidates = [consulted.noted(candidacy) for candidacy in trace.candidates]
        return step

    def _words(self, step: Step | Outcome, at: float) -> str:
        again = "again " if len(self.trace.attempts) > 1 else ""
        match step:
            case Try(identity, lighter):
                how = " without its encrypted reasoning" if lighter else ""
                return f"would be sent {again}as {self._assigned()}{how}"
            case Renew(identity):
                return f"would be sent again as {identity.name}, once that has another token"
            case Wait(seconds):
                return f"would wait for an identity to become ready, {seconds:.0f} s at most"
            case Pause(seconds):
                return f"would wait {seconds:.1f} s"
            case Look():
                return "would ask the backend whether its identities are still limited"
            case LookUp():
                return "would ask the state whether another proxy serves its session"
            case Relay():
                return "would be passed on to the client"
            case NobodyServes():
                assert self.consulted is not None
                self.trace.message = no_identity(self.consulted.pool, self.exchange.asked, at).message
                return f"no identity would serve: {self.trace.message.removeprefix('codexpool: ')}"

    def _assigned(self) -> str:
        assert self.consulted is not None
        attempt = self.trace.attempts[-1]
        kind = NAMES[Kind(attempt.kind)] + (f" sha256:{attempt.fingerprint}" if attempt.fingerprint else "")
        words = (kind, str(attempt.because), self.consulted.notes.get(attempt.identity))
        return f"{attempt.identity} ({', '.join(filter(None, words))})"
