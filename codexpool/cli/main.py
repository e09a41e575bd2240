"""The `codexpool` command."""

from __future__ import annotations

import importlib

import click

from codexpool import __version__

COMMANDS = {
    "add": "commands.add:add",
    "login": "commands.add:login",
    "list": "commands.identities:list_",
    "show": "commands.identities:show",
    "check": "commands.check:check",
    "replace": "commands.add:replace",
    "pause": "commands.identities:pause",
    "resume": "commands.identities:resume",
    "reset": "commands.reset:reset",
    "pin": "commands.pin:pin",
    "unpin": "commands.pin:unpin",
    "remove": "commands.identities:remove",
    "breaker": "commands.identities:breaker",
    "status": "commands.status:status",
    "tail": "commands.tail:tail",
    "explain": "commands.explain:explain",
    "diff": "commands.diff:diff",
    "record": "commands.record:record",
    "member": "commands.member:member",
    "usage": "commands.usage:usage",
    "state": "commands.state:state",
    "setup": "commands.setup:setup",
    "env": "commands.env:env",
    "doctor": "commands.doctor:doctor",
    "config": "commands.setup:config",
    "run": "commands.run:run",
    "addon-path": "commands.run:addon_path",
    "demo": "demo.demo:demo",
}
"""The commands in the order a new user needs them, and where each one is."""


class Commands(click.Group):
    """Imports a command when it is called, so that `codexpool run` does not wait for an HTTP client."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"codexpool.cli.{module}"), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="codexpool")
def main() -> None:
    """Send Codex requests under the identities of a pool.

    To try it without an account: codexpool demo. To begin: codexpool add NAME (a token) or codexpool login NAME (a
    ChatGPT login), then codexpool run.
    """
