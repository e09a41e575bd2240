"""Files that hold secrets: read only if nobody else can, and replaced as a whole or not at all."""

from codexpool.files.private import UnusableError, read_private
from codexpool.files.replacing import Replacement, keep_beside, locked

__all__ = ["Replacement", "UnusableError", "keep_beside", "locked", "read_private"]
