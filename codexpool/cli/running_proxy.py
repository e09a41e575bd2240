"""Which proxy runs, and what it says when it is asked: through itself, at ``http://codex.pool/``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from codexpool.cli.common import Failure, state_file
from codexpool.local.running_proxies import Announcement, addresses, announced
from codexpool.views.formatting import plain

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

F = TypeVar("F", bound=Callable[..., Any])

SITE: Final = "http://codex.pool"
"""What a proxy with the addon answers itself."""

VARIABLE: Final = "CODEXPOOL_PROXY"
"""The environment variable that says where the proxy is."""

DEFAULT: Final = "http://127.0.0.1:8080"
"""Where mitmproxy listens if nobody says otherwise."""

TIMEOUT: Final = 5.0
"""Seconds for an answer that is there already."""

FIRST_TIMEOUT: Final = 2.0
"""Seconds in which a proxy that has announced itself is to answer."""

VERSION: Final = 1
"""Of the documents that are understood here."""

LONGEST: Final = 300
"""Characters of an answer's own words that are repeated."""


class Unanswered(Failure):
    """The proxy does not answer, or what answers is none of ours. It may be there again later."""


class Refused(Failure):
    """The proxy answers, and does not tell. ``status`` is that of its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def proxy_option(command: F) -> F:
    """``--proxy URL``."""
    option = click.option(
        "--proxy",
        "proxy_url",
        metavar="URL",
        help=f"The running proxy to ask, such as {DEFAULT}. Else {VARIABLE} says it (also with USER:PASSWORD@, which "
        "an argument would show to everybody on the machine), else the proxy that was started last is asked.",
    )
    return option(command)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a proxy listens. ``user`` and ``password`` are what its option `proxyauth` asks for, and never shown."""

    host: str
    port: int
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return plain(f"{host}:{self.port}")

    def __repr__(self) -> str:
        return f"Address({self})"


def address(text: str, where: str = "--proxy") -> Address:
    """What a person has written: a URL, or less of it. Raises click.UsageError, which does not repeat a password."""
    import httpx

    whole = text.strip()
    if whole.lstrip(":").isdecimal():  # only a port
        whole = f"127.0.0.1:{whole.lstrip(':')}"
    if "://" not in whole:
        whole = f"http://{whole}"
    try:
        url = httpx.URL(whole)
    except (httpx.InvalidURL, ValueError):
        raise click.UsageError(f"{where}: that is no URL; write http://HOST:PORT") from None
    if url.scheme != "http":
        raise click.UsageError(f"{where}: only http:// is understood: that is how a proxy is spoken to")
    port = 80 if url.port is None else url.port
    if not url.host or not 0 < port < 65_536 or url.path not in ("", "/") or url.query or url.fragment:
        raise click.UsageError(f"{where}: write http://HOST:PORT, and nothing behind it")
    return Address(url.host, port, url.username, url.password)


class RunningProxy:
    """A proxy that runs, to be asked again and again over one connection.

    ``announcement`` is what it was found by, if it was.
    """

    def __init__(self, at: Address, hint: str = "", announcement: Announcement | None = None) -> None:
        self.at = at
        self.announcement = announcement
        self._hint = hint
        """What more is to be said where nobody answers."""
        self._client: httpx.Client | None = None

    def __str__(self) -> str:
        return str(self.at)

    def __enter__(self) -> RunningProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; the next question opens another one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def get(self, path: str, timeout: float = TIMEOUT) -> dict[str, Any]:
        """The document at a path such as ``/api/status``, which is to come within so many seconds.

        Raises Unanswered, Refused, and Failure for an answer that is not understood.
        """
        import httpx

        try:
            response = self._sent(path, timeout)
        except httpx.ConnectTimeout:
            raise Unanswered(f"{self} cannot be reached within {timeout:.0f} s.{self._hint}") from None
        except httpx.TimeoutException:
            raise Unanswered(
                f"{self} has not answered within {timeout:.0f} s: the proxy is busy or stuck; its log may say why"
            ) from None
        except httpx.ConnectError as error:
            raise Unanswered(
                f"no proxy can be reached at {self} ({_reason(error)}). Start one with: codexpool run; or say where "
                f"it is: --proxy http://HOST:PORT.{self._hint}"
            ) from None
        except httpx.TransportError as error:
            raise Unanswered(
                f"what listens at {self} has closed the connection without a word that is understood here "
                f"({_reason(error)}): either the proxy has just ended, or that is no HTTP proxy"
            ) from None
        return self._document(response)

    def _sent(self, path: str, timeout: float) -> httpx.Response:
        """The answer. A connection that was let go of since the last question is no reason not to get one."""
        import httpx

        is_fresh = self._client is None
        try:
            return self._opened().get(f"{SITE}{path}", timeout=timeout)
        except httpx.TransportError as error:
            self.close()
            if is_fresh or isinstance(error, httpx.TimeoutException):
                raise
        return self._opened().get(f"{SITE}{path}", timeout=timeout)

    def _opened(self) -> httpx.Client:
        import httpx

        if self._client is None:
            host = f"[{self.at.host}]" if ":" in self.at.host else self.at.host
            given = (self.at.user, self.at.password) if self.at.user or self.at.password else None
            through = httpx.Proxy(f"http://{host}:{self.at.port}", auth=given)
            self._client = httpx.Client(proxy=through, trust_env=False, headers={"accept": "application/json"})
        return self._client

    def _document(self, response: httpx.Response) -> dict[str, Any]:
        status = response.status_code
        if status == 407:
            raise Refused(status, self._wants_a_password())
        try:
            document = response.json()
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise Unanswered(
                f"something answers at {self} (with {status}), and it does not know {SITE}/: a proxy without the "
                "codexpool addon, an older codexpool, or no proxy at all. codexpool run starts one that does; "
                "--proxy http://HOST:PORT says where it is"
            )
        if status != 200:
            raise Refused(status, f"{self} answers {status}: {_message(document)}{REMEDIES.get(status, '')}")
        version = document.get("version", VERSION)
        if version != VERSION:
            raise Failure(
                f"the proxy at {self} and this command are of different releases of codexpool, and do not understand "
                "each other: install the same one for both, and restart the proxy"
            )
        return document

    def _wants_a_password(self) -> str:
        if self.at.user or self.at.password:
            return f"{self} does not take this user and password (mitmproxy's proxyauth)"
        return (
            f"{self} wants a user and a password (mitmproxy's proxyauth): "
            f"{VARIABLE}=http://USER:PASSWORD@{self} in the environment, or --proxy"
        )


REMEDIES: Final = {
    403: ". Ask from the machine that the proxy runs on, at its loopback address",
    404: ". If the proxy is older than this command, restart it with the same release of codexpool",
}
"""What can be done about an answer."""


def _message(document: dict[str, Any]) -> str:
    match document:
        case {"error": {"message": str(message)}}:
            return plain(message[:LONGEST]).removesuffix(".")
        case _:
            return "(no reason is given)"


def _reason(error: Exception) -> str:
    return plain(str(error)[:LONGEST]) or type(error).__name__


def proxy(url: str | None) -> RunningProxy:
    """The proxy to ask: the one that was named, else that of the environment, else one that has announced itself.

    Of several that run it is the one that was started last, which is said on standard error. Where nobody has
    announced anything it is the one at mitmproxy's usual port. Raises click.UsageError.
    """
    if url:
        return RunningProxy(address(url))
    if named := os.environ.get(VARIABLE):
        return RunningProxy(address(named, VARIABLE))
    silent: list[str] = []
    answering = [asked for one in _announced() if (asked := _answering(one, silent)) is not None]
    if not answering:
        said = f" (A proxy was started at {', '.join(silent)}, and does not answer there.)" if silent else ""
        return RunningProxy(address(DEFAULT), said)
    chosen, *others = answering
    if others:
        click.echo(
            f"codexpool: several proxies run; this is the one that was started last, {chosen}. --proxy URL asks "
            f"another one: {', '.join(map(str, others))}",
            err=True,
        )
    for asked in others:
        asked.close()
    return chosen


def successor(lost: RunningProxy) -> RunningProxy | None:
    """The proxy that was started since one that was found by its announcement, and is not there any more.

    One that was named is waited for where it was.
    """
    if lost.announcement is None:
        return None
    for one in _announced():
        if one.started_at > lost.announcement.started_at and (asked := _answering(one, [])) is not None:
            lost.close()
            return asked
    return None


def confdir_of(asked: RunningProxy) -> Path:
    """mitmproxy's folder of a proxy on this machine, as far as can be known: by its note, or the usual one."""
    from codexpool.local.ca_files import confdir

    at = (asked.at.host, asked.at.port)
    note = asked.announcement or next((one for one in _announced() if at in addresses(one)), None)
    return (note.confdir if note is not None else None) or confdir()


def _announced() -> list[Announcement]:
    return announced(state_file().parent)


def _answering(announcement: Announcement, silent: list[str]) -> RunningProxy | None:
    """A proxy that has announced itself, if it answers; else where it does not is noted in ``silent``."""
    for host, port in addresses(announcement):
        asked = RunningProxy(Address(host, port), announcement=announcement)
        try:
            asked.get("/api/status", FIRST_TIMEOUT)
        except Unanswered:
            asked.close()
            silent.append(str(asked))
        except Failure:
            return asked  # It says why it does not tell; so will it to whoever asks next.
        else:
            return asked
    return None
