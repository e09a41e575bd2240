"""What leaves under an identity: a request's copy in its clothes, and the messages of its WebSocket."""

from __future__ import annotations

import logging
from collections.abc import Collection

from mitmproxy import http

from codexpool.exchange import Attempt, said_of
from codexpool.pool.identity import Asked
from codexpool.pool.sessions import Session
from codexpool.portability import Portability
from codexpool.turn_states import TurnStates
from codexpool.wire import frames
from codexpool.wire.dress import Clothes, dressed, with_body
from codexpool.wire.lighter import UnreadableError, lighter

logger = logging.getLogger("codexpool")


class Dressing:
    """Knows what an identity may send that another one was given: turn states, and encrypted reasoning."""

    def __init__(self) -> None:
        self.turn_states = TurnStates()
        self.portability = Portability()

    def request(self, request: http.Request, asked: Asked, session: Session | None, attempt: Attempt) -> http.Request:
        """The copy of a request that the wire sees."""
        metadata = attempt.metadata
        clothes = Clothes(
            attempt.bearer.token,
            metadata.account_id,
            metadata.fedramp,
            metadata.routing_override,
            metadata.origin,
        )
        wire = dressed(request, clothes, self.turn_states.fit(request.headers.fields, metadata.key))
        known = self._foreign(asked, session, attempt) if request.raw_content else ()
        if known is None or known:
            encoding = request.headers.get("content-encoding", "")
            body = self._lighter(request.raw_content or b"", encoding, known, asked, attempt)
            if body is not None:
                with_body(wire, body)
        return wire

    def message(self, message: bytes, asked: Asked, session: Session | None, attempt: Attempt) -> bytes:
        """A message of a client as it goes to the backend."""
        turn_state = frames.turn_state(message)
        if turn_state is not None and not self.turn_states.is_of(turn_state.encode(), attempt.metadata.key):
            message = frames.without_turn_state(message)
        known = self._foreign(asked, session, attempt)
        if known is None or known:
            message = self._lighter(message, "", known, asked, attempt) or message
        return message

    def not_portable(self, asked: Asked, session: Session | None, attempt: Attempt) -> None:
        """The backend has refused encrypted reasoning that another account has issued."""
        before = session.accounts if session is not None else ()
        self.portability.refused(asked.session, before, attempt.metadata.account_id)

    def _foreign(self, asked: Asked, session: Session | None, attempt: Attempt) -> Collection[bytes] | None:
        if attempt.lighter:
            return None
        before = session.accounts if session is not None else ()
        return self.portability.foreign(asked.session, before, attempt.metadata.account_id)

    def _lighter(
        self, body: bytes, encoding: str, known: Collection[bytes] | None, asked: Asked, attempt: Attempt
    ) -> bytes | None:
        try:
            left = lighter(body, encoding, known)
        except UnreadableError as error:
            session = said_of(asked.session)
            logger.warning("session %s: its encrypted reasoning cannot be left out: %s", session, error)
            return None
        if left is None:
            return None
        without, digests = left
        self.portability.left_out(asked.session, attempt.metadata.account_id, digests)
        logger.info(
            "session %s: without %d encrypted items that %s cannot read",
            *(said_of(asked.session), len(digests), attempt.name),
        )
        return without
