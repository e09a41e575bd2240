"""How every command ends where it cannot go on: its exit code, and one line in place of a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import IO, Final

import click

INTERRUPTED: Final = 128 + signal.SIGINT
STREAMS: Final = (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))
"""How a closed stream is opened. What is written to standard output must not vanish, so that fails."""

REMEDIES: Final = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a higher quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EACCES: "check who owns it, and its permissions",
    errno.EPERM: "check who owns it, and its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOTDIR: "a part of this path is a file, not a folder: move it away, or choose another place",
    errno.EEXIST: "a part of this path is a file, not a folder: move it away, or choose another place",
}


@contextlib.contextmanager
def clean_ending() -> Iterator[None]:
    """End a command as others on a command line do: 130 on Ctrl-C, 0 when the reader of the output is gone.

    Raises Failure in place of an error of the operating system that the command did not expect.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except click.Abort as abort:  # at a prompt
        if isinstance(abort.__context__, KeyboardInterrupt):
            click.echo(err=True)  # The shell's prompt begins on a line of its own.
            raise SystemExit(INTERRUPTED) from None
        raise
    except click.UsageError as error:  # It quotes what was typed, perhaps a token in the wrong place.
        from codexpool.redaction import redact_tokens

        if (message := redact_tokens(error.format_message())) != error.format_message():
            raise click.UsageError(message, error.ctx) from None
        raise
    except OSError as error:
        is_gone = isinstance(error, BrokenPipeError) and any(map(reader_is_gone, (sys.stdout, sys.stderr)))
        is_of_output = _has_failed(sys.stdout)
        if is_of_output:
            _discard_output()
        if is_gone:
            raise SystemExit(0) from None
        from codexpool.cli.common import Failure

        raise Failure(_sentence(error, is_of_output)) from None


def open_closed_streams() -> None:
    """Open the standard streams that this process was started without.

    Otherwise its next file gets the number of one, and then what anything prints.
    """
    for number, (name, flags) in enumerate(STREAMS):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def reader_is_gone(stream: IO[str]) -> bool:
    """Return whether a stream is a pipe that is no longer read. Only a write would show that otherwise."""
    if not hasattr(select, "poll"):
        return _has_failed(stream)
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(flags & (select.POLLERR | select.POLLHUP) for _, flags in poll.poll(0))


def _has_failed(stream: IO[str]) -> bool:
    """Return whether a stream has something that cannot be written."""
    try:
        stream.flush()
    except OSError:
        return True
    except ValueError:  # It is closed.
        return False
    return False


def _discard_output() -> None:
    """Have the interpreter flush to nowhere at exit: it would fail, and print an error of its own."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _sentence(error: OSError, is_of_output: bool) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    remedy = f": {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    if is_of_output:
        return f"cannot write to standard output: {reason}{remedy}"
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{reason}{remedy}"
