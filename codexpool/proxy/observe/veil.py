"""The client's own secrets out of a flow, and back into the copy of it that leaves. Pure.

Where the client speaks for itself, its credential is what the wire needs and what no flow list is to show. A `Veil`
stands in the flow for one secret; whatever other addons have done to the headers meanwhile, the wire gets the secret
wherever the veil is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from codexpool.protocol.headers import AUTHORIZATION, CLIENT_SECRETS, Fields

HIDDEN = frozenset({AUTHORIZATION, *CLIENT_SECRETS})
"""Headers whose values are secrets of the client, and of nobody else."""

MARK = b"<client's own"
"""How a veil begins."""

VEIL = MARK.decode() + "{}: {}>"
"""How it reads; with a number where one request has several that would read alike."""


@dataclass(frozen=True, slots=True)
class Veil:
    """What stands in a flow for a secret, and the secret."""

    shown: bytes
    secret: bytes = field(repr=False)


def veils(fields: Fields, describe: Callable[[str], str]) -> tuple[Veil, ...]:
    """A veil for each secret of the hidden headers; ``describe`` says in words what may be known of one.

    A veil reads as nothing that is in the headers already: what is put back in its place was behind it.
    """
    made: dict[bytes, Veil] = {}
    values = [value for _, value in fields]
    for name, value in fields:
        secret = _secret(name, value)
        if secret and secret not in made:
            words = _plain(describe(secret.decode("latin-1")))
            made[secret] = Veil(_unlike(words, values + [veil.shown for veil in made.values()]), secret)
    return tuple(made.values())


def veiled(fields: Fields, known: Iterable[Veil]) -> Fields:
    """The headers as a flow shows them."""
    by_secret = {veil.secret: veil.shown for veil in known}
    return tuple((name, _hidden(name, value, by_secret)) for name, value in fields)


def unveiled(fields: Fields, known: Iterable[Veil]) -> Fields:
    """The headers as the client sent them, with whatever others have changed besides."""
    for veil in known:
        fields = tuple((name, value.replace(veil.shown, veil.secret)) for name, value in fields)
    return fields


def _hidden(name: bytes, value: bytes, by_secret: dict[bytes, bytes]) -> bytes:
    secret = _secret(name, value)
    shown = by_secret.get(secret)
    return value if shown is None else value[: len(value) - len(secret)] + shown


def _secret(name: bytes, value: bytes) -> bytes:
    """What of a header's value is secret: of ``Authorization`` all behind the scheme."""
    if name.lower() not in HIDDEN:
        return b""
    scheme, space, credential = value.partition(b" ")
    return credential if name.lower() == AUTHORIZATION and scheme and space and credential else value


def _plain(text: str) -> str:
    """A text that fits into a header, and into a veil without ending it."""
    return "".join(c if " " <= c <= "~" and c not in "<>" else "?" for c in text)


def _unlike(words: str, values: Iterable[bytes]) -> bytes:
    """The first veil of these words that is in none of the values."""
    number = 1
    while True:
        shown = VEIL.format("" if number == 1 else f" ({number})", words).encode()
        if not any(shown in value for value in values):
            return shown
        number += 1
