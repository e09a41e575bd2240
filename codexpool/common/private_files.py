"""Files and folders of secrets, which only their owner can read."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path

OPEN_TO_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH

# So that a named pipe is refused, not waited for.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class UnusableError(Exception):
    """A secret, or its file, that cannot be used: what is wrong, and how to fix it."""

    def __init__(self, what: str, remedy: str, line: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.line = line


def private_folder(folder: Path) -> Path:
    """Make a folder, and every missing one above it, for its owner only; return it. Existing folders keep their mode.

    (`Path.mkdir` gives its mode to the last folder only.) Raises OSError.
    """
    for one in (*reversed(folder.parents), folder):
        try:
            one.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:  # It is a file, which the error of the system does not say.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(one)) from None
    return folder


def read_private(path: Path) -> str:
    """Return the text of a file that only its owner can read. Line ends are kept, a BOM is removed.

    A file of root may be readable by its group, too, unless root reads it (PostgreSQL has the same rule for its
    keys): a secret that Kubernetes or systemd mounts for a process without privileges has no other mode.

    Raises UnusableError if the file is missing, not readable, not regular, open to others (POSIX only), or not UTF-8.
    """
    try:
        descriptor = os.open(path, _OPEN)
        try:
            _check(path, os.fstat(descriptor))
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise UnusableError("there is no such file", "create it, or correct the path") from None
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror}", "let the user the proxy runs as read it") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnusableError(f"is not UTF-8 text (line {line})", "save it as UTF-8", line) from None


def _check(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UnusableError("is a folder", "name a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnusableError("is not a regular file", "put the text into a file")
    if os.name == "posix" and status.st_mode & forbidden(status):
        mode = stat.S_IMODE(status.st_mode)
        raise UnusableError(f"is open to other users (mode {mode:04o})", closing(path))


def closing(path: Path | str, mode: int = 0o600) -> str:
    """Return the command that closes a file or folder to other users."""
    return f"chmod {mode:o} {shlex.quote(str(path))}"


def forbidden(status: os.stat_result) -> int:
    """Return the permissions that a secret file of this owner must not have. POSIX only."""
    is_roots = status.st_uid == 0 != os.geteuid()
    return OPEN_TO_OTHERS & ~stat.S_IRGRP if is_roots else OPEN_TO_OTHERS
