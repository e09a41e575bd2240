"""`codexpool init`: from nothing to a client that is served, step by step."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from codexpool.cli.client_access import trusted, url_of
from codexpool.cli.commands.env import without_bypasses
from codexpool.cli.common import Failure, Pool, can_ask, config_option, pool_to_edit
from codexpool.cli.main import COMMANDS
from codexpool.cli.next_steps import GUIDED, say_next
from codexpool.cli.running_proxy import STATUS, ProxyFailure, RunningProxy, certificate_of, find_proxy
from codexpool.cli.service.managers import ManagerError, own_manager
from codexpool.cli.shells import eval_line
from codexpool.cli.via import via_option
from codexpool.local.ca_files import AuthorityError, certificate
from codexpool.pool.identity import Status

PATIENCE: Final = 600.0  # seconds to wait for a proxy that a person starts
SETTLES_WITHIN: Final = 10.0  # seconds until a started proxy has asked about its identities
LOOK: Final = 0.5  # seconds between two looks
SHOWN: Final = 5  # names of identities


@click.command()
@via_option
@config_option
@click.pass_context
def init(context: click.Context, named: Path | None) -> None:
    """Set everything up, step by step.

    Adds an identity, creates the certificate authority, starts a proxy, sends a probe through all of it, and prints
    the line that starts a client. Skips what is done, so it can be run again. Names the command of each step; without
    a terminal, only shows which steps are left (exit code 1 if any is).
    """
    context.meta[GUIDED] = True
    guide = Guide(context, named)
    if not _can_ask():
        context.exit(0 if _overview(guide.steps()) else 1)
    for number, step in enumerate(guide.steps(), 1):
        click.echo(f"\n{number}. {step.title}   ({step.by_hand})")
        if done := step.done():
            click.echo(f"   {done}")
            continue
        step.do()
        if done := step.done():
            click.echo(f"   {done}")
    is_served = guide.probe()
    context.meta[GUIDED] = False
    say_next(*guide.next())
    context.exit(0 if is_served else 1)


class Step(NamedTuple):
    """A step. ``done`` says what is there already; empty if nothing is. ``do`` asks, and does it."""

    title: str
    by_hand: str
    done: Callable[[], str]
    do: Callable[[], None]


def _can_ask() -> bool:
    return can_ask() and sys.stdout.isatty()


def _overview(steps: Sequence[Step]) -> bool:
    """Print what is done and what is left; return whether nothing is."""
    found = [(step, step.done()) for step in steps]
    for number, (step, done) in enumerate(found, 1):
        click.echo(f"{number}. {step.title}: {done or f'to do: {step.by_hand}'}")
    return all(done for _, done in found)


class Guide:
    """The steps on this machine."""

    def __init__(self, context: click.Context, named: Path | None) -> None:
        self._context = context
        self._named = ["--config", str(named)] if named is not None else []
        self._path = pool_to_edit(named)

    def steps(self) -> list[Step]:
        return [
            Step("An identity", "codexpool add NAME, or codexpool login NAME", self._identities, self._add),
            Step("The certificate authority", "codexpool setup", self._authority, lambda: self._run("setup")),
            Step("A proxy that runs", "codexpool run, or codexpool service install", self._proxy, self._start),
        ]

    # -- what is there

    def _identities(self) -> str:
        names = [spec.name for spec in Pool(self._path).config.identities]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{', '.join(names[:SHOWN])}{more} in {self._path}" if names else ""

    def _authority(self) -> str:
        proxy = find_proxy(None)
        path, presented = certificate_of(proxy), proxy.authority()
        if path is None:
            return f"that of the proxy at {proxy}: {presented.fingerprint}" if presented is not None else ""
        try:
            return f"{path}, valid until {certificate(path).expires:%Y-%m-%d}"
        except AuthorityError:
            return ""  # `setup` says what is wrong with it.

    def _proxy(self) -> str:
        proxy = _running()
        if proxy is None:
            return ""
        used = (proxy.get(STATUS).get("proxy") or {}).get("pool")
        other = f"; it uses {used}, not {self._path}" if used not in (None, str(self._path)) else ""
        return f"listens at {proxy}{other}"

    # -- what can be done

    def _add(self) -> None:
        kind = click.prompt(
            "   Add a personal access token (t), a ChatGPT login (l), or nothing now (n)",
            type=click.Choice(["t", "l", "n"]),
            default="t",
            show_choices=False,
        )
        if kind == "n":
            return
        name = click.prompt("   A name for it", default="work")
        command = "add" if kind == "t" else "login"
        self._run(command, *self._named, "--", name)
        if not self._identities() and click.confirm("   Try again?", default=True):
            self._add()

    def _start(self) -> None:
        has_service = self._has_service()
        background = "in the background, from each login on (b), " if has_service else ""
        how = click.prompt(
            f"   Start it {background}in another terminal (t), or not now (n)",
            type=click.Choice(["b", "t", "n"] if has_service else ["t", "n"]),
            default="b" if has_service else "t",
            show_choices=False,
        )
        if how == "b":
            self._run("service", "install", *self._named)
            if not self._proxy() and click.confirm("   Try again?", default=True):
                self._start()
        elif how == "t":
            click.echo(f"   In another terminal: {self._with_config('codexpool run')}\n   Waiting for it …")
            _wait()

    def _has_service(self) -> bool:
        try:
            own_manager()
        except ManagerError:
            return False
        return True

    def probe(self) -> bool:
        """Send a probe as a client would, if a proxy runs. Return whether clients are served."""
        click.echo("\n4. A probe through all of it   (codexpool doctor)")
        proxy = _running()
        if proxy is None:
            click.echo("   not sent: no proxy runs yet. Start one, then run codexpool init again")
            return False
        from codexpool.cli.commands.doctor import examine
        from codexpool.cli.output import Output

        _settle(proxy)
        try:
            ca = str(trusted(None, proxy).path)
        except Failure as failure:
            failure.show()
            return False
        changes = {"HTTPS_PROXY": url_of(proxy.at), "CODEX_CA_CERTIFICATE": ca, **without_bypasses(os.environ)}
        environ = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
        return examine(Output(), environ, None, url_of(proxy.at))

    def next(self) -> list[str]:
        """Return the command lines that are left to type."""
        left = [] if self._identities() else ["codexpool add NAME"]
        left += [] if _running() else ["codexpool run"]
        return [*map(self._with_config, left), eval_line(os.environ, "codex")]

    def _with_config(self, line: str) -> str:
        return f"{line} {shlex.join(self._named)}".rstrip()

    def _run(self, name: str, *arguments: str) -> None:
        """Run another command. If it fails, say why, and go on."""
        command = COMMANDS[name].load()
        try:
            command.main([*arguments], f"codexpool {name}", standalone_mode=False, parent=self._context)
        except click.ClickException as failure:
            failure.show()


def _running() -> RunningProxy | None:
    """Return the proxy that answers on this machine, if there is one."""
    proxy = find_proxy(None)
    try:
        proxy.get(STATUS)
    except ProxyFailure:
        return None
    return proxy


def _settle(proxy: RunningProxy) -> None:
    """Wait until a proxy that has just started knows its identities and its state."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while _is_starting(proxy.get(STATUS)) and time.monotonic() < deadline:
        time.sleep(LOOK)


def _is_starting(document: Mapping[str, Any]) -> bool:
    identities = document.get("identities") or ()
    is_connected = (document.get("state") or {}).get("connected", True)
    return not is_connected or any(one.get("status") == Status.UNVERIFIED for one in identities)


def _wait() -> None:
    deadline = time.monotonic() + PATIENCE
    while _running() is None and time.monotonic() < deadline:
        time.sleep(LOOK)
