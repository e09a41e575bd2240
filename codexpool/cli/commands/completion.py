"""`codexpool completion`: the script by which a shell completes commands, options and names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

PROGRAM: Final = "codexpool"
VARIABLE: Final = "_CODEXPOOL_COMPLETE"  # By which click is asked for words.
SHELLS: Final[Mapping[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", metavar="|".join(SHELLS), type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands, options and names.

    Completes names of identities and members, and requests and sessions of the running proxy. Bash has to be 4.4 or
    newer.

    \b
        ~/.bashrc                     eval "$(codexpool completion bash)"
        ~/.zshrc, after compinit      eval "$(codexpool completion zsh)"
        ~/.config/fish/config.fish    codexpool completion fish | source
    """
    made = SHELLS[shell](context.find_root().command, {}, PROGRAM, VARIABLE)
    # Not `source()`, which starts bash to ask for its version.
    click.echo(_silent(made.source_template % made.source_vars()), nl=False)


def _silent(script: str) -> str:
    """Have the script discard errors: of an installation that is just being replaced, for example."""
    return re.sub(rf"( \$1| {PROGRAM})\)", r"\1 2>/dev/null)", script, count=1)
