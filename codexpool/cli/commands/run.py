"""`codexpool run` and `codexpool addon-path`: start mitmproxy with the addon."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Final

import click

from codexpool.cli import completions
from codexpool.cli.banner import Banner
from codexpool.cli.ending import INTERRUPTED
from codexpool.cli.entry import entry
from codexpool.cli.log_output import log_output
from codexpool.cli.via import upstream, via_option
from codexpool.common.private_files import private_folder
from codexpool.credentials.upstream_proxy import VARIABLE

PRIVATE: Final = 0o077  # Dumps, HAR files and the CA are for the user only.
TOOLS: Final = ("mitmdump", "mitmproxy", "mitmweb")


@click.command("addon-path")
def addon_path() -> None:
    """Print the path of the addon, for `mitmdump -s "$(codexpool addon-path)"`."""
    click.echo(entry())


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.option("--with", "name", type=click.Choice(TOOLS), default=TOOLS[0], show_default=True, help="What to start.")
@click.option("--config", metavar="PATH", type=click.Path(path_type=Path), help="The pool.toml to use.")
@via_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=completions.files)
def run(name: str, config: Path | None, arguments: tuple[str, ...]) -> None:
    """Start mitmdump with the addon.

    Passes ARGUMENTS to mitmdump: codexpool run -p 8081 -w flows. Listens on 127.0.0.1 unless told otherwise. To see
    mitmdump's own help: codexpool run -- --help.
    """
    if (proxy := upstream()) is not None:
        os.environ[VARIABLE] = proxy.url  # The addon reads it there: a password is in no option of mitmproxy.
    options = ["-s", str(entry())]
    # The addon would do so too, but only after mitmproxy has begun to listen, on all addresses and without the proxy.
    if not _has_set(arguments, "listen_host", "--listen-host"):
        options += ["--listen-host", "127.0.0.1"]
    if proxy is not None and not _has_set(arguments, "mode", "--mode", "-m"):
        options += ["--mode", f"upstream:{proxy.scheme}://{proxy}"]
    if config is not None:
        options += ["--set", f"codexpool_config={config}"]
    try:
        from codexpool.proxy.mitm import master
    except ImportError as error:
        sys.exit(f"codexpool: cannot start {name}: {error}; reinstall codexpool")
    _make_folder(_confdir(arguments))
    os.umask(PRIVATE)
    if name != "mitmproxy":
        sys.stdout = log_output()
    # mitmproxy's own window has no place for a banner.
    is_quiet = name == "mitmproxy" or not {"-q", "--quiet"}.isdisjoint(arguments)
    addons = [] if is_quiet else [Banner(os.environ)]
    try:
        if master.run(name, [*options, *arguments], addons):
            raise SystemExit(INTERRUPTED)
    except master.AddressInUseError as error:
        from codexpool.cli.common import Failure  # Slow, and seldom needed.

        raise Failure("\n".join(_who_has(host, port, error.option) for host, port in error.addresses)) from None


def _who_has(host: str, port: int, option: str) -> str:
    """Return who has an address that this proxy wanted, and what to do."""
    from codexpool.cli.running_proxy import STATUS, Address, ProxyFailure, RunningProxy
    from codexpool.local.running_proxies import LOCAL
    from codexpool.views.formatting import local_time

    at = Address(LOCAL.get(host, host), port)
    other = f"choose another port: codexpool run {option}{port + 1}"
    try:
        proxy = RunningProxy(at).get(STATUS).get("proxy") or {}
    except ProxyFailure as failure:
        if failure.status in (403, 407):
            return f"{at} is in use by a proxy of another user, or in a container. Use that one, or {other}"
        return f"{at} is in use by another program (lsof -i :{port} shows which). End it, or {other}"
    since = f"since {local_time(proxy.get('started_at'))}"
    pool = f"with {proxy['pool']}" if proxy.get("pool") else "without a pool"
    return (
        f"{at} is in use by the codexpool proxy of process {proxy.get('pid')}, {since}, {pool}. Use that one "
        f"(codexpool env), end it (codexpool stop), or {other}"
    )


def _confdir(arguments: tuple[str, ...]) -> Path:
    """Return mitmproxy's folder, as far as the arguments say."""
    named = next((a.partition("confdir=")[2] for a in arguments if "confdir=" in a), "~/.mitmproxy")
    return Path(named).expanduser()


def _make_folder(folder: Path) -> None:
    """Make mitmproxy's folder, which would print a traceback where it cannot. Raises Failure."""
    try:
        private_folder(folder)
    except OSError as error:
        from codexpool.cli.common import Failure

        remedy = "The proxy needs a folder it can write to: codexpool run --set confdir=PATH"
        raise Failure(f"{error.filename or folder}: {error.strerror}. {remedy}") from None


def _has_set(arguments: tuple[str, ...], option: str, *flags: str) -> bool:
    """Return whether the arguments or mitmproxy's config.yaml set an option."""
    if any(argument.startswith((*flags, f"{option}=", f"--set={option}=")) for argument in arguments):
        return True
    for name in ("config.yaml", "config.yml"):
        with contextlib.suppress(OSError, ValueError):
            text = (_confdir(arguments) / name).read_text(encoding="utf-8")
            if any(re.match(rf"{option}\s*:", line) for line in text.splitlines()):
                return True
    return False
