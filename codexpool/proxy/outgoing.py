"""What leaves under an identity: the copy of a request, and the messages of its WebSocket."""

from __future__ import annotations

import logging
from collections.abc import Collection

from mitmproxy import http

from codexpool.pool.identity import Asked
from codexpool.pool.portability import Portability, TurnStates
from codexpool.pool.sessions import Session
from codexpool.protocol import frames
from codexpool.protocol.encrypted_reasoning import LONGEST, Left, lighter
from codexpool.protocol.inflate import UnreadableError
from codexpool.proxy.bodies import AT_ONCE, look
from codexpool.proxy.dressed_copy import Clothes, dressed, with_body
from codexpool.proxy.exchange import Attempt, session_shown

logger = logging.getLogger("codexpool")


class Dressing:
    """Makes the copy that leaves: sets the identity's token and headers, removes what another identity was issued."""

    def __init__(self) -> None:
        self.turn_states = TurnStates()
        self.portability = Portability()

    def request(self, request: http.Request, asked: Asked, session: Session | None, attempt: Attempt) -> http.Request:
        """Return the copy of a request that leaves."""
        metadata, proof = attempt.metadata, attempt.bearer.proof()
        attempt.secrets = proof.secrets
        clothes = Clothes(
            proof.authorization,
            metadata.account_id,
            metadata.fedramp,
            metadata.routing_override,
            metadata.origin,
        )
        wire = dressed(request, clothes, self.turn_states.fit(request.headers.fields, metadata.key))
        known = self._foreign(asked, session, attempt) if request.raw_content and not attempt.is_prepared else ()
        if known is None or known:  # Chosen at the last moment: too late for a long body.
            encoding = request.headers.get("content-encoding", "")
            attempt.body = self._lighter(request.raw_content or b"", encoding, known, asked, attempt, AT_ONCE)
        if attempt.body is not None:
            with_body(wire, attempt.body)
        return wire

    async def prepare(self, request: http.Request, asked: Asked, session: Session | None, attempt: Attempt) -> None:
        """Remove from a body what the identity of an attempt cannot read, before the request leaves."""
        known = self._foreign(asked, session, attempt) if request.raw_content else ()
        if known is None or known:

            def left_out(body: bytes, encoding: str, most: int) -> Left | None:
                return lighter(body, encoding, known, most)

            try:
                left = await look(left_out, request.raw_content or b"", request.headers.get("content-encoding", ""))
                attempt.body = self._noted(left, asked, attempt)
            except UnreadableError as error:
                _log_unreadable(asked, error)
        attempt.is_prepared = True

    def message(self, message: bytes, asked: Asked, session: Session | None, attempt: Attempt) -> bytes:
        """Return a client's message as it goes to the backend."""
        turn_state = frames.turn_state(message)
        if turn_state is not None and not self.turn_states.is_of(turn_state.encode(), attempt.metadata.key):
            message = frames.without_turn_state(message)
        known = self._foreign(asked, session, attempt)
        if known is None or known:
            message = self._lighter(message, "", known, asked, attempt, LONGEST) or message
        return message

    def not_portable(self, asked: Asked, session: Session | None, attempt: Attempt) -> None:
        """Learn that the backend refused encrypted reasoning issued to another account."""
        before = session.accounts if session is not None else ()
        self.portability.refused(asked.session, before, attempt.metadata.account_id)

    def _foreign(self, asked: Asked, session: Session | None, attempt: Attempt) -> Collection[bytes] | None:
        if attempt.lighter:
            return None
        before = session.accounts if session is not None else ()
        return self.portability.foreign(asked.session, before, attempt.metadata.account_id)

    def _lighter(
        self, body: bytes, encoding: str, known: Collection[bytes] | None, asked: Asked, attempt: Attempt, most: int
    ) -> bytes | None:
        try:
            return self._noted(lighter(body, encoding, known, most), asked, attempt)
        except UnreadableError as error:
            _log_unreadable(asked, error)
            return None

    def _noted(self, left: Left | None, asked: Asked, attempt: Attempt) -> bytes | None:
        """Return the new body if anything was removed, and remember that."""
        if left is None:
            return None
        without, digests = left
        self.portability.left_out(asked.session, attempt.metadata.account_id, digests)
        logger.info(
            "session %s: removed %d encrypted items that %s cannot read",
            session_shown(asked.session),
            len(digests),
            attempt.name,
        )
        return without


def _log_unreadable(asked: Asked, error: UnreadableError) -> None:
    session = session_shown(asked.session)
    logger.warning("session %s: its encrypted reasoning cannot be removed: %s", session, error)
