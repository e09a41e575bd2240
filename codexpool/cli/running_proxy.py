"""Find the running proxy, and ask it: through itself, at ``http://codex.pool/``."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import click

from codexpool.cli.common import Failure, remark
from codexpool.local.ca_files import CERTIFICATE, Authority, AuthorityError, confdir
from codexpool.local.running_proxies import Announcement, addresses, announced
from codexpool.state import StateError
from codexpool.state.location import location
from codexpool.views.formatting import plain

F = TypeVar("F", bound=Callable[..., Any])
SITE: Final = "http://codex.pool"  # what a proxy with the addon answers itself
STATUS: Final = "/api/status"
AUTHORITY: Final = "/ca.pem"
VARIABLE: Final = "CODEXPOOL_PROXY"  # the environment variable with the proxy's URL
DEFAULT: Final = "http://127.0.0.1:8080"  # where mitmproxy listens by default
LOOPBACK: Final = ("127.0.0.1", "::1")  # what a proxy announces for localhost
TIMEOUT: Final = 5.0  # seconds for an answer that needs no waiting
FIRST_TIMEOUT: Final = 2.0  # seconds for the first answer of a proxy that has announced itself
VERSION: Final = 1  # version of the documents this command understands
MOST: Final = 64 * 1024 * 1024  # bytes of an answer
PIECE: Final = 65_536
LONGEST: Final = 300  # characters of an answer's own message to repeat


class ProxyFailure(Failure):
    """No usable answer from a proxy: what happened, and what to do. ``status`` is 0 if it did not answer at all."""

    def __init__(self, what: str, remedy: str, status: int = 0) -> None:
        super().__init__(f"{what}. {remedy[:1].upper()}{remedy[1:]}")
        self.what, self.remedy, self.status = what, remedy, status


def proxy_option(command: F) -> F:
    option = click.option(
        "--proxy",
        "proxy_url",
        metavar="URL",
        help=f"URL of the running proxy, such as {DEFAULT}. Default: ${VARIABLE} (use that for USER:PASSWORD@, which "
        "is visible to others on the command line), then the proxy started last.",
    )
    return option(command)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a proxy listens. ``user`` and ``password`` are for mitmproxy's `proxyauth`, and never shown."""

    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return plain(f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


def address(text: str, where: str = "--proxy") -> Address:
    """Parse a URL, ``HOST:PORT`` or a port. Raises click.UsageError, which does not repeat a password."""
    whole = text.strip()
    if whole.lstrip(":").isdecimal():
        whole = f"127.0.0.1:{whole.lstrip(':')}"
    if "://" not in whole:
        whole = f"http://{whole}"
    try:
        url = urlsplit(whole)
        port = 80 if url.port is None else url.port
        is_proxy = url.scheme == "http" and url.hostname and port and url.path in ("", "/")
    except ValueError:
        is_proxy = False
    if not is_proxy or url.query or url.fragment:
        raise click.UsageError(f"{where}: not the address of an HTTP proxy; use http://HOST:PORT")
    return Address(url.hostname or "", port, unquote(url.username or ""), unquote(url.password or ""))


class RunningProxy:
    """A proxy to ask. ``announcement`` is what it was found by, if it announced itself."""

    def __init__(self, at: Address, hint: str = "", announcement: Announcement | None = None) -> None:
        self.at = at
        self.announcement = announcement
        self._hint = hint
        """Added to the error when nothing listens there."""

    def __str__(self) -> str:
        return str(self.at)

    def get(self, path: str, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return the document at a path. Wait at most ``timeout`` seconds for each step. Raises ProxyFailure."""
        document = self._document(*self._ask(path, timeout))
        if path == STATUS and not ("version" in document and isinstance(document.get("proxy"), dict)):
            raise self._not_ours(200)  # The JSON of another program.
        return document

    def authority(self) -> Authority | None:
        """Return the certificate authority that it says it has; None if it does not say. Raises nothing."""
        try:
            status, body = self._ask(AUTHORITY, FIRST_TIMEOUT)
            return Authority.parse(body) if status == 200 else None
        except (ProxyFailure, AuthorityError):
            return None

    def _ask(self, path: str, timeout: float) -> tuple[int, bytes]:
        """Return the status and the body of an answer. Raises ProxyFailure."""
        headers = {"accept": "application/json"}
        if self.at.user or self.at.password:
            credentials = base64.b64encode(f"{self.at.user}:{self.at.password}".encode()).decode()
            headers["proxy-authorization"] = f"Basic {credentials}"
        connection = http.client.HTTPConnection(self.at.host, self.at.port, timeout=timeout)
        try:
            connection.request("GET", f"{SITE}{path}", headers=headers)
            response = connection.getresponse()
            return response.status, _body(response, timeout)
        except TimeoutError:
            what = f"{self} did not answer within {timeout:.0f} s: it is busy or stuck"
            raise ProxyFailure(what, "see the log of the proxy") from None
        except (OSError, http.client.HTTPException) as error:
            reason = plain((getattr(error, "strerror", None) or str(error))[:LONGEST]) or type(error).__name__
            raise ProxyFailure(f"no proxy is running at {self} ({reason}){self._hint}", START) from None
        finally:
            connection.close()

    def _document(self, status: int, body: bytes) -> dict[str, Any]:
        if status == 407:
            what = f"{self} requires a user and password (mitmproxy's proxyauth), or refused those given"
            raise ProxyFailure(what, f"set {VARIABLE}=http://USER:PASSWORD@{self}", status)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self._not_ours(status)
        if status != 200:
            remedy = REMEDIES.get(status, "see the log of the proxy")
            raise ProxyFailure(f"{self} answered {status}: {_message(document)}", remedy, status)
        if document.get("version", VERSION) != VERSION:
            what = f"the proxy at {self} is a different release of codexpool"
            raise ProxyFailure(what, "install the same release for both, and restart the proxy", status)
        return document

    def _not_ours(self, status: int) -> ProxyFailure:
        what = (
            f"{self} answered {status}, but not as {SITE}/ does: it is a proxy without the codexpool addon, an "
            "older codexpool, or not a proxy"
        )
        return ProxyFailure(what, START)


def _body(response: http.client.HTTPResponse, timeout: float) -> bytes:
    """Read an answer, which may be that of any program. Raises TimeoutError, also if it is too long."""
    until, body = time.monotonic() + timeout, bytearray()
    while piece := response.read1(PIECE):
        body += piece
        if len(body) > MOST or time.monotonic() > until:
            raise TimeoutError
    return bytes(body)


START: Final = "start one with: codexpool run; or use --proxy http://HOST:PORT"

REMEDIES: Final = {
    403: "run this on the proxy's machine, against its loopback address",
    404: "if the proxy is older than this command, restart it with the same release of codexpool",
}
"""What to do, by the answer's status."""


def _message(document: dict[str, Any]) -> str:
    match document:
        case {"error": {"message": str(message)}}:
            return plain(message[:LONGEST]).removesuffix(".")
        case _:
            return "(no reason given)"


def find_proxy(url: str | None) -> RunningProxy:
    """Return the proxy to ask: the one named, or the newest that announced itself, or mitmproxy's default port.

    Names the others on standard error if several answer. Raises click.UsageError.
    """
    chosen, others = running(url)
    if others:
        remark(
            f"several proxies are running; using the newest, {chosen}. Use --proxy URL for another: "
            f"{', '.join(map(str, others))}",
        )
    return chosen


def running(url: str | None) -> tuple[RunningProxy, list[RunningProxy]]:
    """Return the proxy that `find_proxy` returns, and the others. Raises click.UsageError."""
    if url:
        return RunningProxy(address(url)), []
    if named := os.environ.get(VARIABLE):
        return RunningProxy(address(named, VARIABLE)), []
    silent: list[str] = []
    answering = [proxy for one in _announced() if (proxy := _answering(one, silent)) is not None]
    if not answering:
        hint = f"; a proxy was started at {', '.join(silent)}, but does not answer" if silent else ""
        return RunningProxy(address(DEFAULT), hint), []
    return answering[0], answering[1:]


def confdir_of(proxy: RunningProxy) -> Path:
    """Return mitmproxy's folder of a proxy on this machine: the announced one, or the default."""
    announcement = announcement_of(proxy)
    return (announcement.confdir if announcement is not None else None) or confdir()


def certificate_of(proxy: RunningProxy) -> Path | None:
    """Return the file with the certificate of a proxy's authority; None if this user does not have it here."""
    path = confdir_of(proxy) / CERTIFICATE
    presented = proxy.authority()
    is_of_the_proxy = path.is_file() if presented is None else presented.is_trusted_by(path)
    return path if is_of_the_proxy else None


def announcement_of(proxy: RunningProxy) -> Announcement | None:
    """Return how a proxy announced itself: None if it is not one of this user on this machine."""
    hosts = LOOPBACK if proxy.at.host == "localhost" else (proxy.at.host,)
    at = {(host, proxy.at.port) for host in hosts}
    return proxy.announcement or next((one for one in _announced() if at & {*addresses(one)}), None)


def announced_by(pid: int) -> Announcement | None:
    """Return how the proxy of a process of this user announced itself."""
    return next((one for one in _announced() if one.pid == pid), None)


def only_announced(url: str | None) -> Announcement | None:
    """Return how the only proxy of this user announced itself, whether it answers or not; None if one is named."""
    found = [] if url or os.environ.get(VARIABLE) else _announced()
    return found[0] if len(found) == 1 else None


def any_announced() -> bool:
    """Return whether a proxy of this user runs on this machine."""
    return bool(_announced())


def _announced() -> list[Announcement]:
    try:
        return announced(location(os.environ).folder)
    except StateError:
        return []  # Commands that need the state say so; `codexpool doctor` does with what else it finds.


def _answering(announcement: Announcement, silent: list[str]) -> RunningProxy | None:
    """Return the proxy if it answers at one of its addresses; add the others to ``silent``."""
    for host, port in addresses(announcement):
        proxy = RunningProxy(Address(host, port), announcement=announcement)
        try:
            proxy.get(STATUS, FIRST_TIMEOUT)
        except ProxyFailure as failure:
            if not failure.status:
                silent.append(str(proxy))
                continue
        return proxy  # Another error comes again with the next question.
    return None
