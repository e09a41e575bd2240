"""Files that hold secrets: read only if nobody else can, and replaced as a whole or not at all."""

from codexpool.files.private import UnusableError, read_private
from codexpool.files.replacing import Replacement, locked

__all__ = ["Replacement", "UnusableError", "locked", "read_private"]
