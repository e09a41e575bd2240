"""What comes next: said at the end of a command, unless `codexpool init` leads on."""

from __future__ import annotations

from typing import Final

import click

GUIDED: Final = "codexpool.guided"  # in a click context


def say_next(*lines: str) -> None:
    """Print command lines to go on with, to standard error."""
    context = click.get_current_context(silent=True)
    if context is None or not context.meta.get(GUIDED):
        click.echo("\n".join(["", "Next:", *(f"  {line}" for line in lines)]), err=True)
