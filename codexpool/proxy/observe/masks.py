"""Mask the client's own secrets in flows, and put them back into what leaves.

In observe mode the client's credential goes on the wire, but no flow list or dump may show it. A `Mask` replaces one
secret in a flow. Whatever other addons change about the headers meanwhile, the wire gets the secret wherever the mask
is. If the flow itself has to leave, because its body is streamed, it is masked again once it is on the wire.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import count
from weakref import WeakKeyDictionary

from mitmproxy import http

from codexpool.protocol.headers import AUTHORIZATION, CLIENT_SECRETS, Fields
from codexpool.proxy.dressed_copy import with_headers
from codexpool.redaction import describe_secret

logger = logging.getLogger("codexpool")

HIDDEN = frozenset({AUTHORIZATION, *CLIENT_SECRETS})  # The headers whose values are secrets of the client.
MARK = b"<client's own"  # How every mask begins.
TEXT = MARK.decode() + "{}: {}>"  # A mask; with a number if a request has several secrets with the same description.


@dataclass(frozen=True, slots=True)
class Mask:
    """A secret, and what a flow shows instead."""

    shown: bytes
    secret: bytes = field(repr=False)


def masks_of(fields: Fields, describe: Callable[[str], str]) -> tuple[Mask, ...]:
    """Return a mask for each secret of the hidden headers. ``describe`` returns what may be shown of a secret.

    No mask equals anything that is in the headers already: unmasking must not touch that.
    """
    made: dict[bytes, Mask] = {}
    values = [value for _, value in fields]
    for name, value in fields:
        secret = _secret(name, value)
        if secret and secret not in made:
            text = "".join(
                c if " " <= c <= "~" and c not in "<>" else "?" for c in describe(secret.decode("latin-1"))
            )
            made[secret] = Mask(_unique(text, values + [mask.shown for mask in made.values()]), secret)
    return tuple(made.values())


def masked(fields: Fields, masks: Iterable[Mask]) -> Fields:
    """Return the headers as a flow shows them."""
    shown = {mask.secret: mask.shown for mask in masks}

    def hidden(name: bytes, value: bytes) -> bytes:
        secret = _secret(name, value)
        return value[: len(value) - len(secret)] + shown[secret] if secret in shown else value

    return tuple((name, hidden(name, value)) for name, value in fields)


def unmasked(fields: Fields, masks: Iterable[Mask]) -> Fields:
    """Return the headers as the client sent them, with what other addons changed besides."""
    for mask in masks:
        fields = tuple((name, value.replace(mask.shown, mask.secret)) for name, value in fields)
    return fields


def _secret(name: bytes, value: bytes) -> bytes:
    """Return the secret part of a header: of ``Authorization`` what follows the scheme."""
    if name.lower() not in HIDDEN:
        return b""
    scheme, space, credential = value.partition(b" ")
    return credential if name.lower() == AUTHORIZATION and scheme and space and credential else value


def _unique(text: str, values: Collection[bytes]) -> bytes:
    masks = (TEXT.format("" if number == 1 else f" ({number})", text).encode() for number in count(1))
    return next(shown for shown in masks if not any(shown in value for value in values))


@dataclass(slots=True)
class _Masked:
    """A masked flow: its headers as they came, and whether it shows its secrets for now."""

    masks: tuple[Mask, ...]
    fields: Fields = field(repr=False)
    is_bare: bool = False


class MaskedFlows:
    """The masks of each flow."""

    def __init__(self) -> None:
        self._flows: WeakKeyDictionary[http.HTTPFlow, _Masked] = WeakKeyDictionary()

    def mask(self, flow: http.HTTPFlow) -> None:
        """Have a flow show none of the client's secrets."""
        fields = flow.request.headers.fields
        try:
            masks = masks_of(fields, describe_secret)
        except Exception:
            logger.exception("describing the client's credential failed")
            masks = masks_of(fields, lambda secret: "not described")
        if masks:
            self._flows[flow] = _Masked(masks, fields)
            flow.request.headers.fields = masked(fields, masks)

    def unmask(self, flow: http.HTTPFlow) -> None:
        """Put the secrets back into a flow, or a copy of one, that is replayed."""
        own = self._flows.get(flow)
        for known in [own] if own is not None else list(self._flows.values()):
            # Of another flow only masks with a fingerprint: a short secret has none, and may read like this one.
            sure = [mask for mask in known.masks if own is not None or b"sha256:" in mask.shown]
            flow.request.headers.fields = unmasked(flow.request.headers.fields, sure)
        if any(MARK in value for _, value in flow.request.headers.fields):
            logger.warning("replaying a request without its credential: it is no longer known")

    def outbound(self, flow: http.HTTPFlow) -> http.Request | None:
        """Return the copy of a request that leaves; None if the flow itself does, as it is now. Raises nothing."""
        known = self._flows.get(flow)
        if known is None:
            return None
        try:
            fields = unmasked(flow.request.headers.fields, known.masks)
            if not flow.request.stream:  # A streamed body leaves with the flow's own headers.
                return with_headers(flow.request, fields)
        except Exception:
            logger.exception("a request leaves as it came, without changes of other addons to its headers")
            fields = known.fields
        flow.request.headers.fields, known.is_bare = fields, True
        return None

    def mask_again(self, flow: http.HTTPFlow) -> None:
        """Mask a flow that left itself, now that it is on the wire."""
        known = self._flows.get(flow)
        if known is not None and known.is_bare:
            flow.request.headers.fields = masked(flow.request.headers.fields, known.masks)
            known.is_bare = False

    def secrets(self, flow: http.HTTPFlow) -> list[bytes]:
        """Return the secrets a flow does not show."""
        known = self._flows.get(flow)
        return [mask.secret for mask in known.masks] if known is not None else []
