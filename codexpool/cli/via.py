"""``--via URL``: the proxy through which a command reaches the backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from codexpool.common.addresses import is_loopback
from codexpool.credentials.upstream_proxy import VARIABLE, UpstreamProxy, of_environ, parse

F = TypeVar("F", bound=Callable[..., Any])

KEY: Final = "codexpool.via"  # in a click context
HELP: Final = (
    f"Reach the backend through this proxy, such as a company's: http://HOST:PORT. Default: ${VARIABLE} (use that "
    "for USER:PASSWORD@, which is visible to others on the command line)."
)


def via_option(command: F) -> F:
    """Add ``--via URL``, for `upstream`."""

    def given(context: click.Context, parameter: click.Parameter, url: str | None) -> None:
        if url is not None and not context.resilient_parsing:
            context.meta[KEY] = _valid(lambda: parse(url, "--via"))

    option = click.option("--via", metavar="URL", is_eager=True, expose_value=False, callback=given, help=HELP)
    return option(command)


def upstream() -> UpstreamProxy | None:
    """Return the proxy of ``--via``, or that of `VARIABLE`; None if neither is set. Raises click.UsageError."""
    context = click.get_current_context(silent=True)
    proxy: UpstreamProxy | None = context.meta.get(KEY) if context is not None else None
    return proxy or _valid(lambda: of_environ(os.environ))


def hint(environ: Mapping[str, str]) -> str:
    """Return what may help if the backend cannot be reached, and ``HTTPS_PROXY`` names a company's proxy."""
    if upstream() is not None:
        return ""
    try:
        named = parse(environ.get("HTTPS_PROXY") or environ.get("https_proxy", ""), "HTTPS_PROXY")
    except ValueError:
        return ""
    if is_loopback(named.host):  # The pool's own.
        return ""
    return f"HTTPS_PROXY is not used here; if that is a company's proxy, use --via URL, or set {VARIABLE}"


def _valid(named: Callable[[], UpstreamProxy | None]) -> UpstreamProxy | None:
    try:
        return named()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
