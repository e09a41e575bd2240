"""The `codexpool` command: subcommands, and nothing they share but this."""

from __future__ import annotations

import click

from codexpool import __version__
from codexpool.cli.demo import demo
from codexpool.cli.run import addon_path, run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="codexpool")
def main() -> None:
    """Send Codex requests under the identities of a pool.

    `codexpool run` starts mitmdump with the addon; `codexpool demo` shows, on a stand-in for the backend, what it
    does when a token dies.
    """


for command in (run, addon_path, demo):
    main.add_command(command)
