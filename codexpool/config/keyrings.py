"""Tokens in the system's keyring, through the `keyring` library, which is an extra."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from codexpool.common.private_files import UnusableError
from codexpool.redaction import redact_tokens


class PendingError(Exception):
    """Not known yet: somebody is reading it, perhaps waiting for a person to unlock the keyring."""


def read_keyring(service: str, name: str) -> str:
    """The secret of a service and user. Waits for as long as the keyring does. Raises UnusableError."""
    with _library() as keyring:
        secret: str | None = keyring.get_password(service, name)
    if not secret:
        raise UnusableError(
            f'the keyring has nothing for service "{service}" and user "{name}"',
            f"store it: keyring set {service} {name}",
        )
    return secret


def write_keyring(service: str, name: str, secret: str) -> None:
    """Put the secret of a service and user in place of the one that is there. Raises UnusableError."""
    with _library() as keyring:
        keyring.set_password(service, name, secret)


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    try:
        import keyring
    except ImportError:
        raise UnusableError(
            "the library for keyrings is not installed",
            "install it: uv tool install '.[keyring]' in the checkout, or --with keyring beside mitmproxy",
        ) from None
    try:
        yield keyring
    except Exception as error:  # Behind the library are back ends of many makers, and what they come up with.
        what = f"the keyring does not answer: {redact_tokens(str(error)) or type(error).__name__}"
        raise UnusableError(what, "unlock it, or keep the token elsewhere") from None


class CachedKeyring:
    """What the keyring said when it was last read: on an event loop nobody waits for it."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], str | UnusableError] = {}

    def __call__(self, service: str, name: str) -> str:
        """As `read_keyring`. Raises PendingError for what was not read yet."""
        said = self._said.get((service, name))
        if said is None:
            raise PendingError
        if isinstance(said, UnusableError):
            raise said
        return said

    def read(self, wanted: Sequence[tuple[str, str]]) -> bool:
        """Read all of these anew; whether any is other than it was. Waits: for a thread."""
        before = {pair: _comparable(said) for pair, said in self._said.items()}
        now: dict[tuple[str, str], str | UnusableError] = {}
        for pair in wanted:
            try:
                now[pair] = read_keyring(*pair)
            except UnusableError as error:
                now[pair] = error
        self._said = now
        return before != {pair: _comparable(said) for pair, said in now.items()}


def _comparable(said: str | UnusableError) -> str:
    return said.what if isinstance(said, UnusableError) else f"secret {said}"
