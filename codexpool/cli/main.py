"""The `codexpool` command."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from codexpool import __version__
from codexpool.cli.ending import clean_ending, open_closed_streams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem


class Entry(NamedTuple):
    """A command: where it is, below `codexpool.cli`, and what it does, in words that fit a terminal of 80 columns."""

    where: str
    summary: str

    def load(self) -> click.Command:
        module, _, name = self.where.partition(":")
        command: click.Command = getattr(importlib.import_module(f"codexpool.cli.{module}"), name)
        return command


GROUPS: Final[Mapping[str, Mapping[str, Entry]]] = {
    "Identities": {
        "add": Entry("commands.add:add", "Verify a token, and add it to the pool as an identity"),
        "login": Entry("commands.login:login", "Log in to ChatGPT, and add the login to the pool"),
        "list": Entry("commands.identities:list_", "List the identities and their status (also: ls)"),
        "show": Entry("commands.identities:show", "Show all that is known about an identity"),
        "check": Entry("commands.check:check", "Ask the backend about tokens and limits now"),
        "replace": Entry("commands.replace:replace", "Replace a token with another one of the same account"),
        "rename": Entry("commands.rename:rename", "Give an identity another name; its sessions stay"),
        "pause": Entry("commands.pause:pause", "Stop using identities for now"),
        "resume": Entry("commands.pause:resume", "Use identities again that are paused or limited"),
        "reset": Entry("commands.reset:reset", "Spend a reset credit of an identity: its limits end now"),
        "pin": Entry("commands.pin:pin", "Have a session served by one identity only"),
        "unpin": Entry("commands.pin:unpin", "Let the pool choose for a session again"),
        "remove": Entry("commands.remove:remove", "Remove an identity from the pool"),
    },
    "Run": {
        "init": Entry("commands.init:init", "Set everything up, step by step: identity, proxy, client"),
        "run": Entry("commands.run:run", "Start a proxy: mitmdump, mitmproxy or mitmweb with the addon"),
        "env": Entry("commands.env:env", "Print the environment variables that a client needs"),
        "stop": Entry("commands.stop:stop", "End the running proxy, once its requests have finished"),
        "service": Entry("commands.service:service", "Run the proxy in the background, from each login on"),
        "status": Entry("commands.status:status", "Show what the running proxy does: identities, sessions"),
        "breaker": Entry("commands.identities:breaker", "Show or close the circuit breaker"),
        "demo": Entry("demo.demo:demo", "Show what happens when a token dies, without an account"),
    },
    "Debug": {
        "doctor": Entry("commands.doctor:doctor", "Find what is wrong between a client and the pool"),
        "tail": Entry("commands.tail:tail", "Print requests and events as they happen"),
        "explain": Entry("commands.explain:explain", "Explain what happened to a request, and why"),
        "diff": Entry("commands.diff:diff", "Compare two requests, or two identities"),
        "record": Entry("commands.record:record", "Record requests without secrets, to share them"),
    },
    "Team": {
        "member": Entry("commands.member:member", "Manage members, who use the pool with a key each"),
        "usage": Entry("commands.usage:usage", "Count turns and tokens by member, identity, model or day"),
    },
    "Machine": {
        "setup": Entry("commands.setup:setup", "Create the certificate authority that clients trust"),
        "config": Entry("commands.config:config", "Find, check or edit pool.toml; show an example"),
        "state": Entry("commands.state:state", "Show or copy what proxies remember and share"),
        "completion": Entry("commands.completion:completion", "Print the completion script of bash, zsh or fish"),
        "addon-path": Entry("commands.run:addon_path", "Print the path of the addon, for mitmdump -s"),
    },
}
"""All commands, in the order of `codexpool --help`, which reads only this: importing them takes half a second."""

COMMANDS: Final[Mapping[str, Entry]] = {name: entry for group in GROUPS.values() for name, entry in group.items()}

ALIASES: Final = {"ls": "list"}

VERSION_HELP: Final = "Print the version and the commit."


class Commands(click.Group):
    """Imports a command when it is called, so that `codexpool run` does not wait for an HTTP client."""

    def main(self, *args: Any, **extra: Any) -> Any:
        open_closed_streams()
        return super().main(*args, **extra)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with clean_ending():  # It prints --help.
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with clean_ending():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        return entry.load() if entry is not None else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in COMMANDS or name in ALIASES or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.NoSuchCommand(name, possibilities=[*COMMANDS, *ALIASES], ctx=ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=entry.summary)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from codexpool.local.checkout import commit

    known = commit()
    click.echo(f"codexpool, version {__version__}{f', commit {known}' if known else ''}")
    context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help=VERSION_HELP
)
def main() -> None:
    """Send Codex requests under the identities of a pool.

    To try it without an account: codexpool demo. To begin: codexpool init, which goes through codexpool add (a token)
    or login (a ChatGPT login), and codexpool run.
    """
