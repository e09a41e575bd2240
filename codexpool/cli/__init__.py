"""The `codexpool` command."""

from codexpool.cli.main import main

__all__ = ["main"]
