"""`codexpool env`: the environment variables a client needs, as shell commands or lines of a file."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from codexpool.cli import completions, shells
from codexpool.cli.client_access import trusted, url_of
from codexpool.cli.common import Failure, remark
from codexpool.cli.running_proxy import STATUS, Address, ProxyFailure, RunningProxy, address, find_proxy
from codexpool.common.private_files import private_folder
from codexpool.config.checks import SEPARATOR, name_problem
from codexpool.doctor.environment import HOSTS, WORKLOAD, bypasses, codex_home, without_bypass
from codexpool.local.ca_files import CERTIFICATE, Certificate

KEY: Final = "CODEX_ACCESS_TOKEN"  # where a client looks for a member's key

CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/cert.pem",  # macOS, Alpine
)
"""Where systems keep the CA certificates they trust, in one file."""

NOTES: Final[Mapping[str, tuple[str, ...]]] = {
    "cli": (),
    **{
        kind: (
            "add these lines to ~/.codex/.env (or to .env in CODEX_HOME): run this command again and end it with "
            f">> ~/.codex/.env. Then {restart}",
            "tested with the Codex binary only, not with the extension or the app",
        )
        for kind, restart in {
            "vscode": "reload the window. For a remote window, do so on the remote machine",
            "desktop": "restart the app",
        }.items()
    },
    "ci": (
        'run this in a step of its own: codexpool env --for ci --proxy http://HOST:PORT --ca PATH >> "$GITHUB_ENV"',
        f"pass the key, a secret of the repository, to the Codex step only: env: {KEY}: "
        "${{ secrets.CODEXPOOL_KEY }}",
    ),
}
"""What to do with the output, by kind of client."""

NO_DAEMON: Final = (
    "start the TUI with: codex --no-daemon. Otherwise it may use a background server, which keeps the variables of "
    "the terminal that started it"
)


@click.command()
@click.option("--shell", type=click.Choice(list(shells.SHELLS)), help="The shell to print for. Default: from $SHELL.")
@click.option(
    "--for", "kind", type=click.Choice(list(NOTES)), default="cli", show_default=True, help="The kind of client."
)
@click.option(
    "--proxy",
    "proxy_url",
    metavar="URL",
    help="The proxy, such as http://team:8080. Default: the one running on this machine.",
)
@click.option(
    "--ca",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help=f"The CA certificate to trust. Default: {CERTIFICATE} of the proxy on this machine.",
)
@click.option(
    "--identity",
    metavar="NAME",
    shell_complete=completions.identities,
    help="Have only this identity of the pool serve clients started there.",
)
def env(shell: str | None, kind: str, proxy_url: str | None, ca: Path | None, identity: str | None) -> None:
    """Print the environment variables a client needs to use and trust the proxy.

    \b
        bash, zsh    eval "$(codexpool env)" && codex
        fish         codexpool env | source
        PowerShell   codexpool env | Out-String | Invoke-Expression

    --for vscode and --for desktop print lines for ~/.codex/.env, --for ci prints lines for "$GITHUB_ENV". Notes for
    you go to standard error. A member key is never printed. `codexpool doctor` checks the result. If this command
    fails, it prints `false`, so that codex is not started without the proxy.

    With --identity the proxy's URL contains NAME as its user, which the client sends to the proxy. Sessions started
    with these variables are served by that identity only; while it cannot serve, the client shows why. Without
    --identity the pool chooses again. Start the TUI with `codex --no-daemon`: otherwise it may use a background
    server with the variables of another terminal.
    """
    shell = shell or shells.shell_of(os.environ)
    with _nothing_follows(kind, shell):
        proxy = find_proxy(proxy_url)
        authority = trusted(ca, proxy)
        at = proxy.at if identity is None else _naming(identity, proxy)
        changes: dict[str, str | None] = {"HTTPS_PROXY": url_of(at)}
        if kind in ("vscode", "desktop"):  # There the client does not read CODEX_CA_CERTIFICATE.
            changes["SSL_CERT_FILE"] = str(_bundle(authority, os.environ))
        else:
            changes["CODEX_CA_CERTIFICATE"] = str(authority.path)
    changes |= without_bypasses(os.environ)
    form = {"cli": shells.SHELLS[shell], "ci": shells.github}.get(kind, shells.dotenv)
    text = "".join(f"{line}\n" for line in form(changes))
    # A path is bytes, whatever the terminal's encoding is.
    click.echo(os.fsencode(text) if os.name == "posix" else text, nl=False)
    named = [NO_DAEMON] if kind == "cli" and identity is not None else []
    for note in [*NOTES[kind], *named, *_hints(kind, shell, at, os.environ)]:
        remark(note)


@contextlib.contextmanager
def _nothing_follows(kind: str, shell: str) -> Iterator[None]:
    """Print ``false`` if there is nothing to set: otherwise ``eval "$(codexpool env)" && codex`` would start codex.

    The client would then go past the proxy, with its own login. PowerShell has no such line.
    """
    try:
        yield
    except click.ClickException:
        if kind == "cli" and shell != "powershell" and not sys.stdout.isatty():
            click.echo("false")
        raise


def without_bypasses(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return ``NO_PROXY`` and ``no_proxy`` without entries that bypass the proxy, if they have any; None to unset."""
    changes: dict[str, str | None] = {}
    for name in ("NO_PROXY", "no_proxy"):
        value = environ.get(name, "")
        if any(bypasses(value, host) for host in HOSTS):
            changes[name] = without_bypass(value) or None
    return changes


def _bundle(own: Certificate, environ: Mapping[str, str]) -> Path:
    """Write a file with the proxy's certificate and all others that programs trust; return its path.

    What a client starts (curl, git, Python) reads `SSL_CERT_FILE` too, and then trusts nothing else.
    """
    import platformdirs

    folder = platformdirs.user_data_path("codexpool", appauthor=False)
    path = folder / f"trusted-{own.fingerprint.replace(':', '')[:12].lower()}.pem"
    named = environ.get("SSL_CERT_FILE", "")
    if named == str(path) and path.is_file():
        return path  # The shell has applied this output before.
    try:
        private_folder(folder)
        new = path.with_suffix(".new")
        new.write_bytes(own.path.read_bytes().rstrip() + b"\n" + _other_certificates(named))
        return new.replace(path)
    except OSError as error:
        raise Failure(f"cannot write the certificates to {path}: {error}") from None


def _other_certificates(named: str) -> bytes:
    """Return the certificates in the file ``named``, or else the system's."""
    import certifi

    for place in (named, ssl.get_default_verify_paths().openssl_cafile, *CA_FILES):
        try:
            if place and b"BEGIN CERTIFICATE" in (text := Path(place).read_bytes()):
                return text
        except OSError:
            continue
    return Path(certifi.where()).read_bytes()


def _naming(identity: str, proxy: RunningProxy) -> Address:
    """Return a proxy's address that names an identity, beside the user and password for `proxyauth` if it has any.

    Raises Failure if the pool of the proxy does not have it, and click.UsageError if no pool can.
    """
    if problem := name_problem(identity):
        raise click.UsageError(f"--identity {problem[0]}; {problem[1]}")
    try:
        names = [one["name"] for one in proxy.get(STATUS)["identities"]]
    except ProxyFailure:
        remark(f"{proxy} cannot be asked whether it has the identity {identity}")
    else:
        if identity not in names:
            raise Failure(f"the pool at {proxy} has no identity {identity}; it has: {', '.join(names) or 'none'}")
    at = proxy.at
    return replace(at, user=f"{at.user}{SEPARATOR}{identity}" if at.password else identity)


def _hints(kind: str, shell: str, at: Address, environ: Mapping[str, str]) -> list[str]:
    hints = []
    if kind == "cli" and sys.stdout.isatty():
        hints.append("to apply this to your shell, see: codexpool env --help")
    for name, value in without_bypasses(environ).items():
        hints.append(f"{name}={environ[name]} bypasses the proxy; changed to {value or 'nothing'}")
    if environ.get("CODEX_API_KEY"):
        hints.append("CODEX_API_KEY is set: `codex exec` then uses api.openai.com and not the pool. Unset it")
    if names := [name for name in WORKLOAD if name in environ]:
        hints.append(f"{' '.join(names)}: the client uses a workload identity and no member key or login. Unset it")
    if _leads_elsewhere(environ.get("HTTPS_PROXY", ""), at):
        hints.append(
            "HTTPS_PROXY was another proxy. To send requests on through it: codexpool run --via URL, or set "
            "CODEXPOOL_UPSTREAM_PROXY there"
        )
    if at.password:
        hints.append("HTTPS_PROXY contains the proxy's password: treat it as a secret")
    if not environ.get(KEY) and not (codex_home(environ) / "auth.json").exists():
        hints.append(_how_to_log_in(kind, shell))
    return hints


def _leads_elsewhere(before: str, at: Address) -> bool:
    """Return whether a value of ``HTTPS_PROXY`` is another proxy. (Another user of it is not.)"""
    try:
        was = address(before) if before else at
    except click.UsageError:
        return True
    return (was.host, was.port) != (at.host, at.port)


def _how_to_log_in(kind: str, shell: str) -> str:
    if kind in ("vscode", "desktop"):
        return f"members store their key once: codex login --with-access-token < FILE. {KEY} in .env is not read"
    if kind == "ci":
        return "without a key the client has no login, and uses api.openai.com"
    (line,) = shells.SHELLS[shell]({KEY: "at-pool-…"})
    return f"Codex has no login here: codex login. A member of a team sets the key instead: {line}"
