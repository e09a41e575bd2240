"""`codexpool env`: what a client needs in its environment, in the words of a shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click

from codexpool.cli import shells
from codexpool.cli.ca_bundle import with_the_systems
from codexpool.cli.common import Failure
from codexpool.cli.running_proxy import Address, RunningProxy, confdir_of, find_proxy
from codexpool.common.addresses import is_loopback
from codexpool.local.ca_files import CERTIFICATE, AuthorityError, Certificate, certificate

HOSTS: Final = ("chatgpt.com", "auth.openai.com")
"""What a client has to ask through the proxy: the backend, and whose its key is."""

KEY: Final = "CODEX_ACCESS_TOKEN"
"""Where a client looks for a member's key."""

FOR: Final = ("cli", "vscode", "desktop", "ci")


@click.command()
@click.option(
    "--shell",
    type=click.Choice(list(shells.SHELLS)),
    help="The shell that is to read it; else the one that SHELL names.",
)
@click.option("--for", "kind", type=click.Choice(FOR), default="cli", help="Which client; else the CLI in a shell.")
@click.option(
    "--proxy",
    "proxy_url",
    metavar="URL",
    help="Where the proxy is, such as http://team:8080; else the one that runs on this machine.",
)
@click.option(
    "--ca",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help=f"The certificate to trust; else {CERTIFICATE} of the proxy that runs on this machine.",
)
def env(shell: str | None, kind: str, proxy_url: str | None, ca: Path | None) -> None:
    """Print what a client needs to find the proxy and to trust it: eval "$(codexpool env)" && codexpool doctor.

    fish: codexpool env | source. PowerShell: codexpool env | Out-String | Invoke-Expression. With --for
    vscode and --for desktop it prints lines for ~/.codex/.env, with --for ci lines for "$GITHUB_ENV". What is to be
    known besides goes to standard error. A key is never printed.
    """
    asked = find_proxy(proxy_url)
    found = _trusted(ca, asked)
    changes: dict[str, str | None] = {
        "HTTPS_PROXY": _url(asked.at),
        **_trust(found, kind, os.environ),
        **without_detours(os.environ),
    }
    spoken = shell or shells.shell_of(os.environ)
    form = {"cli": shells.SHELLS[spoken], "ci": shells.github}.get(kind, shells.dotenv)
    try:
        text = "".join(f"{line}\n" for line in form(changes))
    except shells.UnsayableError as error:
        raise Failure(str(error)) from None
    # A path is bytes, whatever the terminal calls text.
    click.echo(os.fsencode(text) if os.name == "posix" else text, nl=False)
    for note in [*NOTES[kind], *_hints(kind, spoken, asked, os.environ)]:
        click.echo(f"codexpool: {note}", err=True)


def without_detours(environ: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that lead past the proxy, each without what does; None where nothing is left of it.

    The client looks at ``NO_PROXY``, and at ``no_proxy`` only where that is not set (0.169.0).
    """
    changes: dict[str, str | None] = {}
    for name in ("NO_PROXY", "no_proxy"):
        entries = [entry.strip() for entry in environ.get(name, "").split(",")]
        kept = [entry for entry in entries if not leads_past(entry)]
        if kept != entries:
            changes[name] = ",".join(kept) or None
    return changes


def leads_past(entry: str) -> bool:
    """Whether an entry of NO_PROXY covers a host that has to be asked through the proxy.

    With a port it does so for WebSockets only, and ``*.`` before it does nothing for the client (both 0.169.0); but
    nobody who writes that means the proxy to be used.
    """
    name = entry.strip().lower()
    if name == "*":
        return True
    name = name.partition(":")[0].removeprefix("*").strip(".")
    return bool(name) and any(host == name or host.endswith(f".{name}") for host in HOSTS)


def _trust(found: Certificate, kind: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variable by which a client trusts the proxy. In `.env` the one of Codex itself is not read."""
    if kind not in ("vscode", "desktop"):
        return {"CODEX_CA_CERTIFICATE": str(found.path)}
    try:
        return {"SSL_CERT_FILE": str(with_the_systems(found, environ))}
    except OSError as error:
        raise Failure(f"the certificates cannot be put into one file: {error}") from None


def _trusted(named: Path | None, asked: RunningProxy) -> Certificate:
    """The certificate to trust, with its whole path. Raises Failure."""
    if named is None and not is_loopback(asked.at.host):
        raise Failure(
            f"{asked} is another machine, and its certificate authority is there. Get {CERTIFICATE} from whoever "
            "runs the proxy, compare the fingerprint that `codexpool setup` prints there, and say --ca PATH"
        )
    path = named if named is not None else confdir_of(asked) / CERTIFICATE
    try:
        return certificate(path.expanduser())
    except AuthorityError as error:
        if named is not None:
            raise Failure(f"--ca: {error}") from None
        raise Failure(
            f"{error}. Make one with: codexpool setup; or start the proxy once: codexpool run. If its confdir is "
            f"another one, say --ca PATH/{CERTIFICATE}"
        ) from None


def _url(at: Address) -> str:
    given = f"{quote(at.user, safe='')}:{quote(at.password, safe='')}@" if at.user or at.password else ""
    return f"http://{given}{replace(at, user='', password='')}"


NOTES: Final[Mapping[str, tuple[str, ...]]] = {
    "cli": (),
    "vscode": (
        "these lines belong into ~/.codex/.env (or .env in CODEX_HOME), also on the remote side of a remote window: "
        "codexpool env --for vscode >> ~/.codex/.env. Then reload the window",
        "not tried by us with the extension itself, but with the Codex binary that it starts",
    ),
    "desktop": (
        "these lines belong into ~/.codex/.env (or .env in CODEX_HOME): codexpool env --for desktop "
        ">> ~/.codex/.env. Then start the app anew",
        "not tried by us with the app itself, but with the Codex binary that it starts",
    ),
    "ci": (
        'in a step of its own: codexpool env --for ci --proxy http://HOST:PORT --ca PATH >> "$GITHUB_ENV"',
        f"the key is a secret of the repository, for that step alone: env: {KEY}: ${{{{ secrets.CODEXPOOL_KEY }}}}",
    ),
}
"""What is to be known about each kind of client."""


def _hints(kind: str, shell: str, asked: RunningProxy, environ: Mapping[str, str]) -> list[str]:
    """What a person has to know, or to do."""
    hints = []
    if kind == "cli" and sys.stdout.isatty():
        hints.append(f"to have this shell take it over: {shells.HOW_TO_READ[shell]}")
    for name, value in without_detours(environ).items():
        hints.append(f"{name}={environ[name]} leads past the proxy; it becomes {value or 'nothing'}")
    if environ.get("CODEX_API_KEY"):
        hints.append(
            "CODEX_API_KEY is set: with it `codex exec` speaks to api.openai.com, which no pool serves. Take it away"
        )
    if environ.get("HTTPS_PROXY", _url(asked.at)) not in ("", _url(asked.at)):
        hints.append("HTTPS_PROXY named another proxy. To go on through that one: codexpool run --mode upstream:URL")
    if asked.at.password:
        hints.append("HTTPS_PROXY holds the proxy's password: treat it as a secret")
    if not _has_a_login(environ):
        hints.append(_how_to_log_in(kind, shell))
    return hints


def _has_a_login(environ: Mapping[str, str]) -> bool:
    home = Path(environ.get("CODEX_HOME") or Path.home() / ".codex")
    return bool(environ.get(KEY)) or (home / "auth.json").exists()


def _how_to_log_in(kind: str, shell: str) -> str:
    if kind in ("vscode", "desktop"):
        return (
            f"a member also stores the key, once: codex login --with-access-token < FILE. {KEY} in .env is not read"
        )
    if kind == "ci":
        return "without a key the client has no login, and asks api.openai.com"
    (line,) = shells.SHELLS[shell]({KEY: "at-pool-…"})
    return f"a member also adds the key: {line}"
