"""Tokens that a program of the operator's prints: run without a shell, kept in memory only, run again after a 401."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codexpool.credentials import Credential, NoTokenNowError, Renewal
from codexpool.pool.identity import Kind
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.member_key import PREFIX

TIMEOUT_MS: Final = 5_000
REFRESH_INTERVAL_MS: Final = 300_000
"""What Codex has for its own command credentials."""

LONGEST: Final = 65_536
"""Bytes of output that are read; a token with its claims has some thousand."""

SHOWN: Final = 300
"""Characters of standard error that a message shows: its end, where programs say what went wrong."""

KILLED: Final = 2.0
"""Seconds until what was killed is not waited for any more."""

SHORTEST: Final = 20
"""Characters below which something is no token: a word, a number, an error message."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What may stand behind ``Bearer`` (RFC 6750, section 2.1)."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What is run: an argument vector, milliseconds, and the folder. ``refresh_interval_ms`` 0: only after a 401."""

    argv: tuple[str, ...]
    cwd: Path
    timeout_ms: int = TIMEOUT_MS
    refresh_interval_ms: int = REFRESH_INTERVAL_MS


class Command:
    """The last token that a command has printed. It runs in ``environ``, or in the environment of this process."""

    kind = Kind.COMMAND

    def __init__(self, line: CommandLine, environ: Mapping[str, str] | None = None) -> None:
        self.line = line
        self._environ = environ
        self._token: Bearer | None = None
        self._run_at = 0.0

    def bearer(self) -> Bearer | None:
        """The token of the last run that gave one."""
        return self._token

    def due_at(self) -> float | None:
        """When the command wants to be run again although nobody has refused its token."""
        interval = self.line.refresh_interval_ms / 1000
        return self._run_at + interval if self._token is not None and interval else None

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        """What the command prints now; None if that is the stale token once more. Raises NoTokenNowError."""
        token = Bearer.of(await output(self.line, self._environ))
        self._run_at = time.time()
        if token == stale and refused:
            return None
        self._token = token
        return Renewal(token, issued=refused)

    def is_over(self, at: float) -> bool:
        """False: what a token says of its end is for the command to know."""
        return False

    def after(self, before: Credential | None) -> Credential:
        """The one in use with its token, as long as the same command is run in the same way."""
        if not isinstance(before, Command) or before.line != self.line:
            return self
        before._environ = self._environ
        return before


async def output(line: CommandLine, environ: Mapping[str, str] | None = None) -> str:
    """The token a command prints, run in ``environ``. Raises NoTokenNowError, which says what the command said."""
    name = line.argv[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *line.argv,
            cwd=line.cwd,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise NoTokenNowError(f"{name} cannot be started: {getattr(error, 'strerror', None) or error}") from None
    printed, said = bytearray(), bytearray()
    try:
        async with asyncio.timeout(line.timeout_ms / 1000):
            await asyncio.gather(_read(process.stdout, printed), _read(process.stderr, said))
            code = await process.wait()
    except TimeoutError:
        await _end(process)
        raise NoTokenNowError(f"{name} has printed no token within {line.timeout_ms} ms{_quoted(said)}") from None
    except BaseException:
        await _end(process)
        raise
    finally:
        let_go(process)
    if code != 0:
        how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        raise NoTokenNowError(f"{name} {how}{_quoted(said)}")
    return _checked(printed, said, name)


def _checked(printed: bytearray, said: bytearray, name: str) -> str:
    try:
        token = printed.decode("ascii").strip()
    except UnicodeDecodeError:
        raise NoTokenNowError(f"{name} has printed something that is no token{_quoted(said)}") from None
    if not token:
        raise NoTokenNowError(f"{name} has printed nothing{_quoted(said)}")
    if (lines := len(token.splitlines())) > 1:
        raise NoTokenNowError(f"{name} has printed {lines} lines instead of a token{_quoted(said)}")
    if len(token) < SHORTEST or len(printed) >= LONGEST or not _TOKEN.fullmatch(token):
        raise NoTokenNowError(
            f"{name} has printed something that is no token ({len(token)} characters){_quoted(said)}"
        )
    if token.startswith(PREFIX):
        raise NoTokenNowError(f"{name} has printed the key of a member of a pool, which no identity speaks with")
    return token


async def _read(stream: asyncio.StreamReader | None, into: bytearray) -> None:
    """Read what comes until the end, or as much of it as is looked at."""
    assert stream is not None
    while piece := await stream.read(LONGEST):
        into += piece[
            : LONGEST - len(into)
        ]  # The rest is read too, and thrown away: a full pipe would wait for ever.


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what takes too long, with whatever it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.returncode is None:
        process.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED):
            await process.wait()


def let_go(process: asyncio.subprocess.Process) -> None:
    """Close the pipes to a program, whoever else still holds them. asyncio itself would do so at some later time."""
    if (transport := getattr(process, "_transport", None)) is not None:
        transport.close()


def _quoted(said: bytearray) -> str:
    from codexpool.redaction import redact_text  # It looks at logins itself.

    text = redact_text(" ".join(said.decode(errors="replace").split()), full=True)
    shown = text if len(text) <= SHOWN else f"…{text[-SHOWN:]}"
    return f". It said: {''.join(c for c in shown if c.isprintable())}" if shown else ""
