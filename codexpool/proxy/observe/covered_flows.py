"""The client's own secrets in flows: covered as long as they are to be seen, and there again in what leaves."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from mitmproxy import http

from codexpool.protocol.headers import Fields
from codexpool.proxy.dressed_copy import with_headers
from codexpool.proxy.observe.veil import MARK, Veil, unveiled, veiled, veils
from codexpool.redaction import describe_secret

logger = logging.getLogger("codexpool")


@dataclass(slots=True)
class Covered:
    """What a flow does not show. ``fields`` are its headers as they came; ``is_bare``: for now it shows all."""

    veils: tuple[Veil, ...]
    fields: Fields = field(repr=False)
    is_bare: bool = False


class Veiling:
    """Which flow has which veils, for as long as there is the flow."""

    def __init__(self) -> None:
        self._covered: WeakKeyDictionary[http.HTTPFlow, Covered] = WeakKeyDictionary()

    def cover(self, flow: http.HTTPFlow) -> None:
        """Have a flow show none of the client's secrets."""
        fields, now = flow.request.headers.fields, time.time()
        try:
            made = veils(fields, lambda secret: describe_secret(secret, now))
        except Exception:
            logger.exception("the client's credential could not be described")
            made = veils(fields, lambda secret: "not described")
        if made:
            self._covered[flow] = Covered(made, fields)
            flow.request.headers.fields = veiled(fields, made)

    def lift(self, flow: http.HTTPFlow) -> None:
        """A flow, or a copy of one, is replayed with the veils that it had: have it as the client has sent it."""
        own = self._covered.get(flow)
        for covered in [own] if own is not None else list(self._covered.values()):
            # Of another flow only what names its secret for sure: short ones have no fingerprint.
            known = [veil for veil in covered.veils if own is not None or b"sha256:" in veil.shown]
            flow.request.headers.fields = unveiled(flow.request.headers.fields, known)
        if any(MARK in value for _, value in flow.request.headers.fields):
            logger.warning("a request is replayed with a placeholder: the credential behind it is not known any more")

    def outbound(self, flow: http.HTTPFlow) -> http.Request | None:
        """The copy of a flow's request that leaves; None where the flow itself does, as it is now. Raises nothing."""
        covered = self._covered.get(flow)
        if covered is None:
            return None
        try:
            fields = unveiled(flow.request.headers.fields, covered.veils)
            # A body that passes by while it comes leaves with the flow's own headers.
            if not flow.request.stream:
                return with_headers(flow.request, fields)
        except Exception:
            logger.exception("what others have done to the headers of a request is lost")
            fields = covered.fields
        flow.request.headers.fields, covered.is_bare = fields, True
        return None

    def cover_again(self, flow: http.HTTPFlow) -> None:
        """The request is on the wire: a flow that had to leave itself shows no secret any more."""
        covered = self._covered.get(flow)
        if covered is not None and covered.is_bare:
            flow.request.headers.fields = veiled(flow.request.headers.fields, covered.veils)
            covered.is_bare = False

    def secrets(self, flow: http.HTTPFlow) -> list[bytes]:
        """What a flow does not show."""
        covered = self._covered.get(flow)
        return [veil.secret for veil in covered.veils] if covered is not None else []
