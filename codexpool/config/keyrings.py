"""Tokens in the system's keyring, through the optional library `keyring`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from codexpool.common.private_files import UnusableError
from codexpool.redaction import redact_tokens


class PendingError(Exception):
    """A secret that has not been read yet; the keyring may be waiting for a person to unlock it."""


def read_keyring(service: str, name: str) -> str:
    """Return the secret of a service and user. Waits as long as the keyring does. Raises UnusableError."""
    with _library() as keyring:
        secret: str | None = keyring.get_password(service, name)
    if not secret:
        raise UnusableError(
            f'the keyring has nothing for service "{service}" and user "{name}"',
            f"store it: keyring set {service} {name}",
        )
    return secret


def write_keyring(service: str, name: str, secret: str) -> None:
    """Set the secret of a service and user. Raises UnusableError."""
    with _library() as keyring:
        keyring.set_password(service, name, secret)


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    try:
        import keyring
    except ImportError:
        raise UnusableError(
            "the library `keyring` is not installed",
            "install it: uv tool install '.[keyring]' in the checkout, or --with keyring beside mitmproxy",
        ) from None
    try:
        yield keyring
    except Exception as error:  # The backends of many vendors raise whatever they like.
        what = f"the keyring does not answer: {redact_tokens(str(error)) or type(error).__name__}"
        raise UnusableError(what, "unlock it, or keep the token elsewhere") from None


class CachedKeyring:
    """The secrets of the keyring as last read, for an event loop, which must not wait for it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str | UnusableError] = {}

    def __call__(self, service: str, name: str) -> str:
        """Return a secret as `read_keyring` does. Raises PendingError for one that has not been read yet."""
        known = self._known.get((service, name))
        if known is None:
            raise PendingError
        if isinstance(known, UnusableError):
            raise known
        return known

    def read(self, wanted: Sequence[tuple[str, str]]) -> bool:
        """Read these secrets again, and return whether any has changed. Waits: for a thread."""
        before = {pair: repr(known) for pair, known in self._known.items()}
        self._known = {pair: _read(*pair) for pair in wanted}
        return before != {pair: repr(known) for pair, known in self._known.items()}


def _read(service: str, name: str) -> str | UnusableError:
    try:
        return read_keyring(service, name)
    except UnusableError as error:
        return error
