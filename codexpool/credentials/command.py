"""Tokens printed by a program of the operator: run without a shell, and again after a 401; kept in memory only."""

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
REFRESH_INTERVAL_MS: Final = 300_000  # Codex's defaults for its own command credentials.
MAX_OUTPUT: Final = 65_536  # Bytes of output that are kept; a token with its claims has some thousand.
MAX_QUOTED: Final = 300  # Characters at the end of standard error that a message quotes.
KILL_TIMEOUT: Final = 2.0  # Seconds to wait for a killed program.
MIN_TOKEN: Final = 20  # Characters; shorter output is a word, a number or an error.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1.


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A program to run: arguments, folder, milliseconds. ``refresh_interval_ms`` 0: only after a 401."""

    argv: tuple[str, ...]
    cwd: Path
    timeout_ms: int = TIMEOUT_MS
    refresh_interval_ms: int = REFRESH_INTERVAL_MS


class Command(Credential):
    """The last token that a program printed. It runs in ``environ``, by default the environment of this process."""

    kind = Kind.COMMAND

    def __init__(self, line: CommandLine, environ: Mapping[str, str] | None = None) -> None:
        self.line = line
        self._environ = environ
        self._token: Bearer | None = None
        self._run_at = 0.0

    def bearer(self) -> Bearer | None:
        return self._token

    def due_at(self) -> float | None:
        interval = self.line.refresh_interval_ms / 1000
        return self._run_at + interval if self._token is not None and interval else None

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        token = Bearer.of(await output(self.line, self._environ))
        self._run_at = time.time()
        if token == stale and refused:
            return None
        self._token = token
        return Renewal(token, issued=refused)

    def after(self, before: Credential | None) -> Credential:
        if not isinstance(before, Command) or before.line != self.line:
            return self
        before._environ = self._environ
        return before


async def output(line: CommandLine, environ: Mapping[str, str] | None = None) -> str:
    """Run a program and return the token it prints. Raises NoTokenNowError, which quotes its standard error."""
    name = line.argv[0]
    try:
        printed, errors = await run(line, environ)
    except ProgramError as error:
        raise NoTokenNowError(str(error)) from None
    token = printed.decode(errors="replace").strip()
    if not token:
        raise NoTokenNowError(f"{name} printed nothing{_quoted(errors)}")
    if (lines := len(token.splitlines())) > 1:
        raise NoTokenNowError(f"{name} printed {lines} lines instead of a token{_quoted(errors)}")
    if len(token) < MIN_TOKEN or len(printed) >= MAX_OUTPUT or not _TOKEN.fullmatch(token):
        what = f"{name} printed something that is not a token ({len(token)} character{'s' * (len(token) != 1)})"
        raise NoTokenNowError(f"{what}{_quoted(errors)}")
    if token.startswith(PREFIX):
        raise NoTokenNowError(f"{name} printed a pool member's key, which is not the token of an identity")
    return token


class ProgramError(Exception):
    """A program could not be run, failed, or took too long. The text quotes its standard error, redacted."""


async def run(
    line: CommandLine, environ: Mapping[str, str] | None, *, text: str = "", wants_output: bool = True
) -> tuple[bytes, bytes]:
    """Run a program with ``text`` on its standard input; return its output and errors. Raises ProgramError."""
    name = line.argv[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *line.argv,
            cwd=line.cwd,
            env=environ,
            stdin=asyncio.subprocess.PIPE if text else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if wants_output else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise ProgramError(f"{name} cannot be started: {getattr(error, 'strerror', None) or error}") from None
    printed, errors = bytearray(), bytearray()
    try:
        async with asyncio.timeout(line.timeout_ms / 1000):
            if process.stdin is not None:
                process.stdin.write(text.encode())
                process.stdin.close()
            await asyncio.gather(_read(process.stdout, printed), _read(process.stderr, errors))
            code = await process.wait()
    except TimeoutError:
        await _kill(process)
        raise ProgramError(f"{name} did not end within {line.timeout_ms} ms{_quoted(errors)}") from None
    except BaseException:
        await _kill(process)
        raise
    finally:
        # A background process may keep the pipes open; asyncio would close them at some later time.
        if (transport := getattr(process, "_transport", None)) is not None:
            transport.close()
    if code != 0:
        how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        raise ProgramError(f"{name} {how}{_quoted(errors)}")
    return bytes(printed), bytes(errors)


async def _read(stream: asyncio.StreamReader | None, into: bytearray) -> None:
    # Reads until the end, and keeps `MAX_OUTPUT` bytes: an unread pipe would block the program.
    while stream is not None and (piece := await stream.read(MAX_OUTPUT)):
        into += piece[: MAX_OUTPUT - len(into)]


async def _kill(process: asyncio.subprocess.Process) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.returncode is None:
        process.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_TIMEOUT):
            await process.wait()


def _quoted(errors: bytes | bytearray) -> str:
    from codexpool.redaction import redact_text  # Slow to import.

    text = redact_text(" ".join(errors.decode(errors="replace").split()), full=True)
    shown = text if len(text) <= MAX_QUOTED else f"…{text[-MAX_QUOTED:]}"
    return f". It said: {''.join(c for c in shown if c.isprintable())}" if shown else ""
