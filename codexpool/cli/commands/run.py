"""`codexpool run` and `codexpool addon-path`: mitmproxy with the addon, wherever that is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from codexpool.cli.entry import entry, tool

TOOLS = ("mitmdump", "mitmproxy", "mitmweb")


@click.command("addon-path")
def addon_path() -> None:
    """Print the path of the addon, for `mitmdump -s "$(codexpool addon-path)"`."""
    click.echo(entry())


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--with", "name", type=click.Choice(TOOLS), default="mitmdump", help="Which of mitmproxy's tools to start."
)
@click.option("--config", type=click.Path(path_type=Path), help="The pool.toml to use.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(name: str, config: Path | None, arguments: tuple[str, ...]) -> None:
    """Start mitmdump with the addon. ARGUMENTS are mitmproxy's own: `codexpool run -p 8081 -w flows`."""
    command = [tool(name), "-s", str(entry())]
    if not _says_where_to_listen(arguments):
        # The addon would see to it as well, but only once mitmproxy has begun to listen on all addresses.
        command += ["--listen-host", "127.0.0.1"]
    if config is not None:
        command += ["--set", f"codexpool_config={config}"]
    command += arguments
    if os.name == "nt":
        sys.exit(subprocess.run(command, check=False).returncode)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # A log that goes into a file is read while it grows.
    os.execvp(command[0], command)


def _says_where_to_listen(arguments: tuple[str, ...]) -> bool:
    """Whether the user has said so: here, or in mitmproxy's own config.yaml."""
    if any("listen-host" in argument or "listen_host" in argument for argument in arguments):
        return True
    folder = next((a.partition("confdir=")[2] for a in arguments if "confdir=" in a), "~/.mitmproxy")
    for name in ("config.yaml", "config.yml"):
        try:
            text = (Path(folder).expanduser() / name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if any(line.startswith("listen_host") for line in text.splitlines()):
            return True
    return False
