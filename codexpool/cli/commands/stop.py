"""`codexpool stop`: end a running proxy of this machine, once its turns have finished."""

from __future__ import annotations

import os
from typing import Final, NoReturn

import click

from codexpool.cli.common import Failure, remark
from codexpool.cli.running_proxy import (
    STATUS,
    ProxyFailure,
    RunningProxy,
    announcement_of,
    find_proxy,
    only_announced,
    proxy_option,
)
from codexpool.cli.service.files import ENDS_WITHIN
from codexpool.cli.service.managers import start_of_service
from codexpool.local.processes import Process, is_proxy, process

QUIET: Final = 1.0  # seconds after which the command says what it waits for
PATIENCE: Final = float(ENDS_WITHIN)  # seconds to wait


@click.command()
@proxy_option
def stop(proxy_url: str | None) -> None:
    """End the running proxy, once requests under way have finished.

    It takes no new requests from then on, and ends after 30 seconds at most. A proxy that runs in the foreground ends
    with Ctrl-C, too, which waits for nothing. One that was started by another user, or in a container, has to be
    ended there.
    """
    if os.name != "posix":
        raise Failure("on Windows a proxy cannot be asked to end: press Ctrl-C in its window")
    proxy = find_proxy(proxy_url)
    announced = announcement_of(proxy) or only_announced(proxy_url)  # One that hangs has to be stopped, too.
    if announced is None or not is_proxy(announced.pid):
        _refuse(proxy)
    what = f"the proxy at {', '.join(announced.listens)} (process {announced.pid})"
    start = start_of_service(announced.pid)
    try:
        with process(announced.pid) as running:
            running.terminate()
            _wait(running, what, announced.pid)
    except ProcessLookupError:
        pass  # It has just ended.
    except PermissionError:
        raise Failure(f"{what} belongs to another user; stop it as that user, or as root") from None
    service = "It is a service, and starts at your next login. " if start else ""
    click.echo(f"stopped {what}. {service}To start one again: {start or 'codexpool run'}")


def _refuse(proxy: RunningProxy) -> NoReturn:
    """Say why a proxy that has not announced itself cannot be stopped from here."""
    try:
        proxy.get(STATUS)
    except ProxyFailure as failure:
        if not failure.status:
            raise Failure(f"{failure.what}: there is nothing to stop. For another one, use --proxy URL") from None
    raise Failure(
        f"the proxy at {proxy} was started by another user, or on another machine or in a container. End it there: "
        "systemctl stop codexpool, or docker stop -t 40 codexpool"
    )


def _wait(running: Process, what: str, pid: int) -> None:
    if running.ends_within(QUIET):
        return
    remark(f"waiting for requests of {what}, for {PATIENCE - QUIET:.0f} s at most")
    if not running.ends_within(PATIENCE - QUIET):
        raise Failure(f"{what} still runs after {PATIENCE:.0f} s. To end it at once: kill {pid}; or: kill -9 {pid}")
